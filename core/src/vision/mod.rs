//! From frames to features: sampling, preprocessing, the visual encoders and the detectors.

mod detector;
mod encoder;
mod keyframe;
mod pillow;
mod pixels;
mod prepare;
mod preprocess;
mod resize;
mod rgb;
mod rows;
mod sampler;
mod shrink;
mod steps;
mod thumbnail;
mod tower;
mod values;

pub use encoder::VisualEncoder;
pub use keyframe::{KEYFRAME_QUALITY, decode_keyframe, keyframe_side};
pub use prepare::{PreparedPictures, prepare};
pub use preprocess::Preprocessor;
pub use sampler::{SampledSegment, Sampler, SamplerOptions};
pub use thumbnail::thumbnail;

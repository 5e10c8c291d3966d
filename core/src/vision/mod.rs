//! From frames to features: sampling, preprocessing, the visual encoder and the detector.

mod detector;
mod encoder;
mod pillow;
mod pixels;
mod preprocess;
mod resize;
mod sampler;
mod shrink;
mod thumbnail;

pub use encoder::VisualEncoder;
pub use preprocess::Preprocessor;
pub use sampler::{SampledSegment, Sampler, SamplerOptions};
pub use thumbnail::thumbnail;

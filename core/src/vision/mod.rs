//! From frames to features: sampling, preprocessing, the visual encoder and the detector.

mod pixels;
mod sampler;
mod thumbnail;

pub use sampler::{SampledSegment, Sampler, SamplerOptions};
pub use thumbnail::thumbnail;

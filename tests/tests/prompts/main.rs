//! Exported models caption and answer as Hugging Face's classes do, from the features that those have made.

mod common;
mod decoders;
mod encoder_decoders;
mod refused;
mod towers;

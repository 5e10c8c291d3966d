//! The language parts on real weights: the reference pack's decoder (shared cache, `input_ids`) and text encoder, and
//! the foreign pack's decoder (concatenated cache, `inputs_embeds`, positions, logits of every token); and tiny decoders of every
//! kind of port.

mod common;
mod constraint;
mod decoder;
mod encoder;
mod foreign;
mod ports;
mod prefix;
mod tiny;

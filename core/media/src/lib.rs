//! Video and picture files to frames, with no system package: MP4/MOV (plain and fragmented) holding H.264, PNG and JPEG.
//!
//! [`VideoReader`] gives frames in presentation order with their times, colour and rotation, reads samples from the
//! file as they are needed, and answers every damaged or unsupported file with
//! [`ErrorKind::BadMedia`](atom_core::ErrorKind::BadMedia).

#![forbid(unsafe_code)]

mod boxes;
mod fragments;
mod mp4;
mod orientation;
mod picture;
mod reader;
mod sps;
mod track;

pub use picture::{decode_picture, is_picture, read_picture};
pub use reader::{VideoInfo, VideoReader};

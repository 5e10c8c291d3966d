//! Video files to frames, with no system package: MP4/MOV (plain and fragmented) holding H.264.
//!
//! [`VideoReader`] gives frames in presentation order with their times, colour and rotation, reads samples from the
//! file as they are needed, and answers every damaged or unsupported file with
//! [`ErrorKind::BadMedia`](atom_core::ErrorKind::BadMedia).

#![forbid(unsafe_code)]

mod boxes;
mod fragments;
mod mp4;
mod reader;
mod sps;
mod track;

pub use reader::{VideoInfo, VideoReader};

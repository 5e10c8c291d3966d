//! Atom's runtime: video-language modules that are loaded once and shared by every task.

pub mod budget;
pub mod cache;
pub mod caption;
pub mod control;
mod decoder;
pub mod engine;
mod error;
pub mod features;
pub mod flow;
pub mod frame;
pub mod identity;
pub mod index;
pub mod language;
pub mod module;
pub mod onnx;
pub mod ort;
pub mod os;
pub mod pack;
pub mod runtime;
pub mod storyboard;
pub mod task;
pub mod trace;
pub mod vision;

pub use error::{Error, ErrorKind, Result};

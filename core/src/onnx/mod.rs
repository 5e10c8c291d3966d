//! ONNX files: reads, describes, rewrites and cuts them. No model runs here.
//!
//! The messages are those of ONNX's own schema, `onnx-ml.proto`, from which `tests/onnx-schema` generates `schema.rs`. A
//! rewrite is lossless: fields that are newer than the schema are kept and written back. Weights inside a file are slices
//! of its content, never copies; external weights are not read, except by [`align_external_data`], in small pieces.
//!
//! A file may come from anywhere. Depth, number of messages and size are limited, so that a damaged or hostile file is an
//! error and not a crash or gigabytes of memory.

mod align;
mod cost;
mod cut;
mod external;
mod extract;
mod inspect;
mod lookup;
mod rewrite;
// Formatted by its generator.
#[rustfmt::skip]
#[allow(missing_docs, dead_code, unused_imports, clippy::all)]
mod schema;
mod shared;
mod split;
mod walk;
mod write;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use buffa::bytes::Bytes;
use buffa::{DecodeError, DecodeOptions, EncodeError, Message};

pub use align::align_external_data;
pub use cost::ComputeCost;
pub use cut::{Cut, Part, REST};
pub use inspect::{Dimension, ElementType, Initializer, Operator, Port, Summary};
pub use rewrite::{DecoderGraph, LayerCache, Observe, Observed, Rewrite, Rows};
pub use shared::share_weights;
pub use split::TensorSlice;

use crate::error::{Error, ErrorKind, Result};
use crate::os::file::atomic_write_with;
use schema::{GraphProto, ModelProto};
use write::FileSink;

/// Bytes of the largest file. Protocol buffers end there, too.
const LARGEST_FILE: u64 = buffa::MAX_MESSAGE_BYTES as u64;

/// Nested messages. An `If` inside an `If` is three levels deeper. ONNX Runtime has the same limit.
const DEEPEST: u32 = 100;

/// Bytes that the messages of a file may take as structures, apart from what they contain. Graphs of language models take
/// some megabytes. An empty node, two bytes in the file, takes 264 here.
const ELEMENT_BYTES: usize = 128 << 20;

/// Fields that the schema does not know. Each takes about forty bytes.
const UNKNOWN_FIELDS: usize = 100_000;

/// A model as its file has it: the graph, its functions, and the weights that are not external.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    proto: ModelProto,
}

impl Model {
    /// Reads the file at `path`. External weights are not read, and may be missing.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] naming the file when it is no ONNX file, or a larger or deeper one than any model is; what
    /// reading gives.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |e: &std::io::Error| Error::io(path.display(), e);
        let file = File::open(path).map_err(|e| io(&e))?;
        let metadata = file.metadata().map_err(|e| io(&e))?;
        let refused = |e: Error| e.context(path.display());
        if !metadata.is_file() {
            return Err(refused(bad("not a file")));
        }
        if metadata.len() > LARGEST_FILE {
            return Err(refused(too_large(metadata.len())));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| io(&e))?;
        Self::parse(bytes).map_err(refused)
    }

    /// The model in the content of a file.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] as [`read`](Self::read), without the file's name.
    pub fn parse(content: impl Into<Bytes>) -> Result<Self> {
        let mut content = content.into();
        let proto: ModelProto = DecodeOptions::new()
            .with_max_message_size(LARGEST_FILE as usize)
            .with_recursion_limit(DEEPEST)
            .with_element_memory_limit(ELEMENT_BYTES)
            .with_unknown_field_limit(UNKNOWN_FIELDS)
            .decode(&mut content)
            .map_err(|e| match e {
                DecodeError::MessageTooLarge => bad("a field is longer than two gigabytes"),
                DecodeError::RecursionLimitExceeded => bad("its graphs are nested too deeply"),
                DecodeError::ElementMemoryLimitExceeded
                | DecodeError::UnknownFieldLimitExceeded => {
                    bad("it has more nodes, tensors or fields than any model")
                }
                e => bad(e),
            })?;
        if proto.graph.is_unset() {
            return Err(bad("it has no graph"));
        }
        Ok(Self { proto })
    }

    /// Replaces the file at `path` by this model: readers see the old or the new content. External weights stay where they
    /// are, so `path` is in the folder that their locations are relative to.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] when it is too large for a file; what writing gives. The old file is then untouched.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut fits = Ok(());
        atomic_write_with(path, |file| {
            let mut sink = FileSink::new(file);
            fits = self.proto.try_encode(&mut sink);
            match &fits {
                Ok(()) => sink.finish(),
                Err(_) => Err(std::io::ErrorKind::FileTooLarge.into()),
            }
        })
        .map_err(|e| match &fits {
            Ok(()) => e,
            Err(refused) => encode_error(refused).context(path.display()),
        })
    }

    /// The content of the model's file.
    ///
    /// # Errors
    /// [`ErrorKind::BadModel`] when it is too large for a file.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoded = self.proto.try_encode(&mut bytes);
        encoded.map(|()| bytes).map_err(|e| encode_error(&e))
    }

    fn graph(&self) -> &GraphProto {
        &self.proto.graph
    }
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("not a usable ONNX model: {why}"),
    )
    .remedy("the file may be cut short: copy or export it again")
}

fn too_large(bytes: u64) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("{bytes} bytes, and an ONNX file has at most {LARGEST_FILE}"),
    )
    .remedy("save its weights as external data")
}

fn encode_error(e: &EncodeError) -> Error {
    Error::new(
        ErrorKind::BadModel,
        format!("cannot be written as one file: {e}"),
    )
    .remedy("save its weights as external data")
}

#[cfg(test)]
mod test_models;
#[cfg(test)]
mod tests;

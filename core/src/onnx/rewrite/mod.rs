//! Rewrites exported graphs into ones that compute the same with fewer nodes: attention as one node, keys and values in one
//! buffer, logits of the last row alone, an activation as one node.
//!
//! ONNX Runtime fuses much when it loads a graph, but not this: it never changes what a graph's ports mean, and it knows no
//! decoder from its operators. A rewrite looks for a pattern of operators. Then it has the graph run on made-up inputs, and
//! checks that the tensors between those operators are what the pattern says ([`Observe`]). A graph that does not fit stays as
//! it is. The caller compares the results of both graphs before it uses the new one.

mod attention;
mod decoder;
mod edit;
mod encoder;
mod gelu;
mod last;
mod layers;
mod replace;
mod rope;
mod view;

pub use layers::{DecoderGraph, LayerCache};

use super::Model;
use crate::error::Result;

/// What a tensor was in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its elements, in row-major order; truth is 1 and 0.
    pub values: Vec<f32>,
}

/// Rows of a run of a decoder. Other graphs take no notice of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rows {
    /// New rows.
    pub new: usize,
    /// Rows before them.
    pub past: usize,
}

/// Runs models, which this room cannot.
pub trait Observe {
    /// Runs `model` on made inputs and returns its results `wanted`. Its external weights are those of the model that is
    /// rewritten; its inputs are some of that model's.
    ///
    /// # Errors
    /// What running gives. The rewrite is then left.
    fn observe(&mut self, model: &Model, rows: Rows, wanted: &[&str]) -> Result<Vec<Observed>>;
}

/// What became of a graph.
#[derive(Debug)]
pub enum Rewrite {
    /// It was rewritten.
    Done {
        /// The new graph. It reads the external weights of the old one.
        model: Box<Model>,
        /// What was done, in words for a report.
        what: String,
    },
    /// It stays as it is.
    Left {
        /// Why, in words for a report.
        why: String,
    },
}

impl Rewrite {
    fn left(why: impl Into<String>) -> Self {
        Self::Left { why: why.into() }
    }
}

impl Model {
    /// The version of ONNX's own operators.
    fn opset(&self) -> i64 {
        let mut sets = self.proto.opset_import.iter();
        let own = sets.find(|set| matches!(super::external::text(&set.domain), "" | "ai.onnx"));
        own.and_then(|set| set.version).unwrap_or(1)
    }

    /// A copy with more results, so that a run shows what they are. ONNX Runtime finds their types itself.
    pub fn showing(&self, names: &[&str]) -> Self {
        let mut model = self.clone();
        let graph = model.proto.graph.get_or_insert_default();
        for name in names {
            if !graph
                .output
                .iter()
                .any(|value| value.name.as_deref() == Some(name))
            {
                graph.output.push(super::schema::ValueInfoProto {
                    name: Some((*name).to_owned()),
                    ..Default::default()
                });
            }
        }
        model
    }

    /// The part of the model that computes `name` from inputs of the model.
    fn computing(&self, name: &str) -> Result<Self> {
        let view = view::View::new(self.graph());
        let inputs = view.fed_by(name);
        // In the graph's order.
        let inputs = self.graph().input.iter().filter_map(|value| {
            let name = value.name.as_deref()?;
            inputs.contains(name).then_some(name)
        });
        self.extract(&inputs.collect::<Vec<_>>(), &[name])
    }
}

//! What sessions are made with, and what their making gives.

use std::path::PathBuf;

use super::cost::Cost;
use super::weights::Weights;
use crate::budget::Charge;
use crate::decoder::DecoderMap;
use crate::error::{Error, Result};
use crate::ort::{Environment, Placement, Provider, Session, SessionConfig};
use crate::os::file::warm;
use crate::pack::{ArtifactCache, Pack};
use crate::trace;

/// What a larger file has beyond that is taken for weights when memory is asked for.
const NODES: u64 = 2 << 20;

/// Why there is no session.
pub(super) enum Refusal {
    /// The provider cannot serve the module; another may.
    Provider(Error),
    /// The module itself is wrong.
    Module(Error),
}

/// A session, and what its making showed.
pub(super) struct BuiltSession {
    pub(super) loaded: Loaded,
    /// How near its golden outputs it came, where that was asked, and how long the asking took, in milliseconds.
    pub(super) golden: Option<(f64, f64)>,
    /// What the provider leaves to others.
    pub(super) remark: Option<String>,
    /// The map of a decoder's graph.
    pub(super) decoder: Option<DecoderMap>,
}

/// What sessions are made from.
pub(super) struct SessionBuilder<'a> {
    pub(super) pack: &'a Pack,
    pub(super) environment: &'static Environment,
    pub(super) artifacts: &'a ArtifactCache,
    pub(super) measured: Measured<'a>,
}

/// What a load gives.
pub(super) struct Loaded {
    pub(super) session: Session,
    pub(super) weights: Weights,
    /// Anonymous bytes it takes, as far as is known.
    pub(super) anon: u64,
    /// What it was measured to take, where that could be told.
    pub(super) measured: Option<u64>,
    /// What its load had at most beyond that, where that was looked at.
    pub(super) meanwhile: Option<u64>,
    /// Where its nodes run, or did when it was compiled.
    pub(super) placement: Placement,
}

/// What the processor's session takes of a graph of so many bytes with weights that it copies: thirty times the graph,
/// measured on the reference pack's modules (21 to 56); weights in the graph's own file twice, as parsed and as used.
pub(super) fn estimate(graph: u64, copied: u64) -> u64 {
    let nodes = graph.min(NODES);
    nodes * 30 + (graph - nodes) * 2 + copied
}

/// Measures what a session takes, for its charge.
pub(super) struct Measured<'a> {
    pub(super) charge: &'a Charge,
    /// What is known of earlier loads.
    pub(super) cost: Option<&'a Cost>,
}

impl Measured<'_> {
    /// `data` are the files whose weights the session maps.
    pub(super) fn load(&self, config: &SessionConfig, data: &[PathBuf]) -> Result<Loaded> {
        let span = trace::span("memory", "read");
        for file in data {
            // What is wrong with it the load says.
            let _ = warm(file);
        }
        drop(span);
        let mapped = Weights::of(data)?;
        let provider = config.target.provider;
        let load = || Session::load(config);
        // Once is enough; reloads go without the thread that looks.
        let (session, grown) = match self.cost {
            Some(cost) if !cost.was_looked_at() => self.charge.measure_peak(load)?,
            _ => self.charge.measure(load)?,
        };
        let measured = grown.alone();
        let weights = Weights::of(data)?.added_since(&mapped);
        let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        let known = self.cost.and_then(|cost| cost.anon_by(provider));
        let anon = measured.or(known).unwrap_or_else(|| match provider {
            Provider::Cpu => {
                let all: u64 = data.iter().map(size).sum();
                estimate(size(&config.model), all.saturating_sub(weights.bytes()))
            }
            // What others take of a graph is not known, and it is tens of megabytes.
            _ => grown.bytes,
        });
        Ok(Loaded {
            anon: anon.max(session.arena().in_use),
            measured,
            meanwhile: grown.meanwhile_alone(),
            placement: session.placement().clone(),
            session,
            weights,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_within_a_graph_are_not_taken_for_nodes() {
        assert_eq!(estimate(500_000, 7), 15_000_007);
        // Measured: 207 MiB for the decoder's 110.
        let embedded = estimate(110 << 20, 0) >> 20;
        assert!((207..300).contains(&embedded), "{embedded}");
    }
}

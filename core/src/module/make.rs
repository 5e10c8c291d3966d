//! From a module's files to a session.

use std::fs;
use std::path::{Path, PathBuf};

use super::accelerate;
use super::cost::Cost;
use super::ports;
use super::probe::{self, Probe};
use super::resident::Loaded;
use super::weights::Weights;
use crate::budget::Charge;
use crate::decoder::DecoderMap;
use crate::error::{Error, Result};
use crate::onnx::{Model, TensorSlice, align_external_data};
use crate::ort::{Environment, GraphForm, Provider, Session, SessionConfig, Target, Threads};
use crate::os::file::warm;
use crate::pack::{ArtifactCache, LoadPath, ModuleKind, ModuleSpec, Pack};
use crate::trace;

/// A larger file has weights in it.
const LARGEST_GRAPH: u64 = 32 << 20;

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
pub(super) struct Made {
    pub(super) loaded: Loaded,
    /// How near its golden outputs it came, where that was asked, and how long the asking took, in milliseconds.
    pub(super) golden: Option<(f64, f64)>,
    /// What the provider leaves to others.
    pub(super) remark: Option<String>,
    /// The map of a decoder's graph.
    pub(super) decoder: Option<DecoderMap>,
}

/// What sessions are made from.
pub(super) struct Maker<'a> {
    pub(super) pack: &'a Pack,
    pub(super) environment: &'static Environment,
    pub(super) artifacts: &'a ArtifactCache,
    pub(super) measured: Measured<'a>,
}

impl Maker<'_> {
    /// A session of `spec` in the form `variant`, run by `provider`, by the fastest way there is.
    pub(super) fn make(
        &self,
        spec: &ModuleSpec,
        variant: Option<usize>,
        provider: Provider,
    ) -> Result<Made, Refusal> {
        let module = Refusal::Module;
        let spec = &spec.as_variant(variant);
        let span = trace::span("module", "check");
        let model = self.pack.checked(&spec.model).map_err(module)?;
        let mut data = Vec::new();
        for file in &spec.data {
            data.push(self.pack.checked(file).map_err(module)?);
        }
        drop(span);
        let source = SessionConfig {
            environment: self.environment,
            model,
            form: GraphForm::Source,
            threads: match spec.kind {
                // One token is hundreds of nodes of a few microseconds.
                ModuleKind::LanguageDecoder => Threads::Own,
                _ => Threads::Shared,
            },
            target: Target {
                provider,
                options: spec.options_of(provider),
            },
            fixed: spec.fixed.clone().into_iter().collect(),
            untuned: false,
            profile: None,
        };
        let mut made = if provider == Provider::Cpu {
            let prepacked = prepacked(self.pack, spec, &source, self.artifacts, &self.measured);
            let mut loaded = match prepacked {
                Some(loaded) => loaded,
                None => self.measured.load(&source, &data).map_err(module)?,
            };
            // In another provider's form the processor, too, has to show that it makes the same of it.
            let golden = match (&spec.golden, variant) {
                (Some(golden), Some(_)) => Some(
                    probe::held_to_golden(self.pack, spec, golden, &mut loaded.session)
                        .map_err(Refusal::Provider)?,
                ),
                _ => None,
            };
            Made {
                loaded,
                golden,
                remark: None,
                decoder: None,
            }
        } else {
            accelerate::make(self, spec, &source)?
        };
        made.decoder = ports::check(spec, &made.loaded.session).map_err(module)?;
        Ok(made)
    }
}

/// The session of the prepacked form, made first if need be; `None` when the module does not want one or there is no
/// way to have one: it then loads as it lies in the pack.
fn prepacked(
    pack: &Pack,
    spec: &ModuleSpec,
    source: &SessionConfig,
    artifacts: &ArtifactCache,
    measured: &Measured<'_>,
) -> Option<Loaded> {
    artifacts.dir()?;
    if spec.load != LoadPath::Prepacked {
        return None;
    }
    let key = ArtifactCache::key(spec, source.environment.version(), Provider::Cpu);
    if artifacts.condemned(&key) {
        log::info!(
            "module {} loads without its prepacked form, which is unusable",
            spec.id
        );
        return None;
    }
    // Twice: an entry that turns out bad is made anew once.
    let mut made_now = false;
    for _ in 0..2 {
        let span = trace::span("module", "check");
        let found = artifacts.find(&key);
        drop(span);
        if let Some(model) = found {
            let data = [model.with_added_extension("data")];
            let config = SessionConfig {
                model,
                form: GraphForm::Prepacked,
                ..source.clone()
            };
            match measured.load(&config, &data) {
                Ok(mut loaded) => {
                    let extent = ArtifactCache::extent(&config.model);
                    loaded.weights = loaded.weights.up_to(extent);
                    if made_now {
                        // Much of what the load needed was there already, in pieces.
                        loaded.meanwhile = None;
                    }
                    return Some(loaded);
                }
                Err(e) => artifacts.quarantine(&key, &e),
            }
        }
        let mut faithful = true;
        made_now = true;
        let made = artifacts.create(&key, &spec.id, |path| {
            let form = |form| SessionConfig {
                form,
                ..source.clone()
            };
            let save = |graph| {
                let to = path.to_owned();
                form(GraphForm::SourceAndSave { to, graph })
            };
            let (graph, slices) = split(&source.model)?.unzip();
            // What the saved form is held to comes from the graph as the pack has it.
            let mut original = Session::load(&match graph {
                Some(_) => form(GraphForm::Source),
                None => save(None),
            })?;
            let expected = Probe::new(pack, spec, &original)?
                .run(&mut original)
                .inspect_err(|_| faithful = false)?;
            drop(original);
            if graph.is_some() {
                Session::load(&save(graph))?;
            }
            let extent = align_external_data(path, &slices.unwrap_or_default())?;
            ArtifactCache::keep_extent(path, extent)?;
            let mut saved = Session::load(&SessionConfig {
                model: path.to_owned(),
                ..form(GraphForm::Prepacked)
            })?;
            expected
                .same_from(&mut saved)
                .inspect_err(|_| faithful = false)
        });
        if let Err(e) = made {
            log::warn!("module {} loads without its prepacked form: {e}", spec.id);
            // What a run shows, it shows every time; a file that cannot be written may be written another time.
            if !faithful {
                artifacts.condemn(&key, &e);
            }
            return None;
        }
    }
    log::warn!(
        "module {} loads without its prepacked form, which cannot be read back",
        spec.id
    );
    None
}

/// The graph with its heaviest matrix product split, and the tensors of the parts; `None` where there is none to split or its
/// weights are in the graph's file.
fn split(model: &Path) -> Result<Option<(Vec<u8>, Vec<TensorSlice>)>> {
    let metadata = fs::metadata(model).map_err(|e| Error::io(model.display(), &e))?;
    if metadata.len() > LARGEST_GRAPH {
        return Ok(None);
    }
    let mut graph = Model::read(model)?;
    let slices = graph.split_matmul();
    if slices.is_empty() {
        return Ok(None);
    }
    Ok(Some((graph.to_vec()?, slices)))
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

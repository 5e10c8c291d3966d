//! From a module's files to a session.

use std::fs;
use std::path::Path;

use super::accelerate;
use super::built::{BuiltSession, Loaded, Measured, Refusal, SessionBuilder};
use super::ports;
use super::probe::{self, Probe};
use crate::error::{Error, Result};
use crate::onnx::{Model, TensorSlice, align_external_data};
use crate::ort::{GraphForm, Provider, Session, SessionConfig, Target, Threads};
use crate::pack::{ArtifactCache, LoadPath, ModuleKind, ModuleSpec, Pack};
use crate::trace;

/// A larger file has weights in it.
const LARGEST_GRAPH: u64 = 32 << 20;

impl SessionBuilder<'_> {
    /// A session of `spec` in the form `variant`, run by `provider`, by the fastest way there is.
    pub(super) fn build(
        &self,
        spec: &ModuleSpec,
        variant: Option<usize>,
        provider: Provider,
    ) -> Result<BuiltSession, Refusal> {
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
            BuiltSession {
                loaded,
                golden,
                remark: None,
                decoder: None,
            }
        } else {
            accelerate::build(self, spec, &source)?
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

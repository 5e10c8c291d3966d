//! Sessions of providers other than the processor: compiled once, and believed only when they compute the right thing.

use super::built::{BuiltSession, Loaded, Refusal, SessionBuilder};
use super::probe;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Model;
use crate::ort::{GraphForm, Placement, Provider, Session, SessionConfig};
use crate::pack::{ArtifactCache, GoldenSpec, ModuleSpec, Policy};

/// The session of `spec`, which is the module's form for the provider of `source`.
pub(super) fn build(
    builder: &SessionBuilder<'_>,
    spec: &ModuleSpec,
    source: &SessionConfig,
) -> Result<BuiltSession, Refusal> {
    let target = &source.target;
    let Some(golden) = &spec.golden else {
        return Err(Refusal::Provider(
            Error::new(
                ErrorKind::Unsupported,
                "the module has no golden outputs to hold the provider to",
            )
            .remedy("add [module.golden]"),
        ));
    };
    let order = Order {
        builder,
        spec,
        source,
        golden,
    };
    let compiler = target
        .provider
        .compiler(source.environment, &target.options)
        .map_err(Refusal::Provider)?;
    if let Some(compiler) = compiler.filter(|_| builder.artifacts.dir().is_some())
        && let Some(made) = order.compiled(&compiler).map_err(Refusal::Provider)?
    {
        return Ok(made);
    }
    // None of its weights are mapped for long: providers keep their own.
    builder
        .measured
        .load(source, &[])
        .and_then(|loaded| order.accepted(loaded))
        .map_err(Refusal::Provider)
}

struct Order<'a> {
    builder: &'a SessionBuilder<'a>,
    spec: &'a ModuleSpec,
    source: &'a SessionConfig,
    golden: &'a GoldenSpec,
}

impl Order<'_> {
    fn provider(&self) -> Provider {
        self.source.target.provider
    }

    /// The session of the compiled form, made first if need be; `None` when it cannot be kept.
    fn compiled(&self, compiler: &str) -> Result<Option<BuiltSession>> {
        let (spec, source, artifacts) = (self.spec, self.source, self.builder.artifacts);
        let version = source.environment.version();
        let key = ArtifactCache::compiled_key(spec, version, self.provider(), compiler);
        if let Some(why) = artifacts.condemned_for(&key) {
            return Err(Error::new(ErrorKind::BadModel, why)
                .remedy("compiled before with this outcome; it is not tried again until the module, the provider or its options change"));
        }
        let mut failed = None;
        // Twice: an entry that turns out bad is made anew once.
        for _ in 0..2 {
            if let Some((model, placement)) = artifacts.find_compiled(&key) {
                let config = SessionConfig {
                    model,
                    form: GraphForm::Compiled,
                    ..source.clone()
                };
                let loaded = self
                    .builder
                    .measured
                    .load(&config, &[])
                    .map(|loaded| Loaded {
                        placement,
                        ..loaded
                    });
                match loaded.and_then(|loaded| self.accepted(loaded)) {
                    Ok(made) => return Ok(Some(made)),
                    // Nothing that another form would change.
                    Err(e) if e.kind() == ErrorKind::InvalidArgument => return Err(e),
                    Err(e) => {
                        artifacts.quarantine(&key, &e);
                        failed = Some(e);
                    }
                }
            }
            let mut refused = None;
            let made = artifacts.create(&key, &spec.id, |path| {
                let config = SessionConfig {
                    form: GraphForm::SourceAndCompile(path.to_owned()),
                    ..source.clone()
                };
                let placement = Session::load(&config)
                    .map(|session| self.weighed(session.placement().clone()))
                    .and_then(|placement| self.placed(&placement).map(|_| placement))
                    .inspect_err(|e| refused = Some(e.clone()))?;
                ArtifactCache::keep_placement(path, &placement)
            });
            if let Some(e) = refused {
                return Err(e);
            }
            if let Err(e) = made {
                log::warn!("module {} is compiled anew at every load: {e}", spec.id);
                return Ok(None);
            }
        }
        match failed {
            Some(e) => {
                // What it computes, it computes every time.
                artifacts.condemn(&key, &e);
                Err(e)
            }
            None => Ok(None),
        }
    }

    /// Whether the session may serve the module: where its nodes are, and what it computes.
    fn accepted(&self, mut loaded: Loaded) -> Result<BuiltSession> {
        loaded.placement = self.weighed(loaded.placement);
        let remark = self.placed(&loaded.placement)?;
        let (pack, session) = (self.builder.pack, &mut loaded.session);
        // The first run takes memory for good, too.
        let check = || probe::held_to_golden(pack, self.spec, self.golden, session);
        let ((cosine, ms), grown) = self.builder.measured.charge.measure(check)?;
        loaded.anon += grown.bytes;
        loaded.measured = loaded
            .measured
            .zip(grown.alone())
            .map(|(load, run)| load + run);
        log::info!(
            "module {}: {}, golden cosine {cosine:.6}",
            self.spec.id,
            loaded.placement
        );
        Ok(BuiltSession {
            loaded,
            golden: Some((cosine, ms)),
            remark,
            decoder: None,
        })
    }

    /// `placement` with each provider's share of compute, if the graph says enough to tell.
    fn weighed(&self, mut placement: Placement) -> Placement {
        if !placement.wants_compute() {
            return placement;
        }
        let model = &self.source.model;
        let of = Model::read(model).map(|graph| graph.compute_cost(&self.spec.fixed));
        let compute = of.unwrap_or_else(|e| {
            log::debug!("the shares of compute are not known: {e}");
            None
        });
        let names: Vec<&[String]> = placement.0.iter().map(|share| &share.names[..]).collect();
        let shares = compute.and_then(|compute| compute.shares(&names));
        placement.set_compute(shares);
        placement
    }

    /// Errors when the provider was given nothing, or under `require` not everything; else what was left to others.
    fn placed(&self, placement: &Placement) -> Result<Option<String>> {
        let (provider, total) = (self.provider(), placement.total());
        let nodes = placement.nodes(provider);
        if nodes == 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{provider} took none of its {total} nodes, all would run on the processor"
                ),
            ));
        }
        let left: Vec<String> = placement
            .elsewhere(provider)
            .into_iter()
            .map(|(operator, nodes)| format!("{operator} {nodes}"))
            .collect();
        if left.is_empty() {
            return Ok(None);
        }
        let what = format!(
            "{provider} leaves {} of {total} nodes to the processor: {}",
            total - nodes,
            left.join(", ")
        );
        if self.spec.policy == Policy::Require {
            return Err(Error::new(ErrorKind::Unsupported, what)
                .remedy("change the graph, or use policy = \"prefer\""));
        }
        Ok(Some(what))
    }
}

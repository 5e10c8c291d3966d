//! Pictures to features, by the pack's visual encoders and detectors.

use std::sync::Arc;

use super::detector::{Raw, detections};
use super::rgb::Rgb;
use super::rows::{Rows, average, first_view, normalised};
use super::steps::working_bytes;
use super::tower::{Prepare, Prepared, Steps, Tower, charge, lacks};
use crate::budget::Charge;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Detection, FeatureMap, Features, Parts, Variant};
use crate::frame::Frame;
use crate::module::{Lease, Registry};
use crate::ort::Tensor;
use crate::pack::{DetectorSpec, Role, Source};
use crate::trace;

/// Encodes pictures with the encoder and the detectors of the index task, and with the captioner's encoder where that is
/// another. One thread at a time; several encoders share the modules.
///
/// Modules are leased for each picture, so between pictures an idle encoder keeps nothing resident.
#[derive(Debug)]
pub struct VisualEncoder {
    registry: Registry,
    /// The index task's encoder; `None` in a pack that cannot index.
    search: Option<Encoder>,
    detectors: Vec<Detector>,
    /// The captioner's encoder, if it is not the index task's.
    captioner: Option<Encoder>,
}

/// A visual encoder and those of its outputs that mean something.
#[derive(Debug)]
struct Encoder {
    tower: Tower,
    ports: Vec<(Role, String)>,
}

/// A frame on its way to one encoder after the other: what several of them need of it is made once.
struct Picture<'a> {
    registry: &'a Registry,
    frame: &'a Frame<'a>,
    source: Source,
    control: &'a Control,
    rgb: Option<(Rgb, Charge)>,
}

impl VisualEncoder {
    /// Looks up the modules of `tasks.index` and the captioner's encoder; loads none yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no index task; [`ErrorKind::BadPack`] when a module it names is
    /// missing or lacks what it needs.
    pub fn new(registry: &Registry) -> Result<Self> {
        let manifest = registry.pack().manifest();
        if manifest.tasks.index.is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "pack {:?} cannot index: it has no [tasks.index]",
                    manifest.id
                ),
            )
            .remedy("use a pack with a visual encoder; `atom pack list` shows what each can do"));
        }
        Self::for_pictures(registry)
    }

    /// As [`new`](Self::new), also for a pack that only captions pictures and answers questions about them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no visual encoder for any task; else as [`new`](Self::new).
    pub fn for_pictures(registry: &Registry) -> Result<Self> {
        let pack = registry.pack();
        let manifest = pack.manifest();
        let index = manifest.tasks.index.as_ref();
        let roles = [Role::Embedding, Role::Posteriors, Role::Features];
        let search = index.map(|task| Encoder::new(registry, &task.visual_encoder, &roles));
        let own = manifest.captioner_encoder();
        let own = own.filter(|id| index.is_none_or(|task| task.visual_encoder != *id));
        let captioner = own.map(|id| Encoder::new(registry, id, &[Role::Features]));
        let mut detectors = Vec::new();
        let mut first = 0;
        for id in index.iter().flat_map(|task| &task.detectors) {
            let spec = pack.module(id)?;
            let rules = spec.detector.clone();
            let rules = rules.ok_or_else(|| lacks(spec, "[module.detector]"))?;
            let labels = rules.labels.len() as u32;
            detectors.push(Detector {
                // Other views would find the same things again.
                module: Tower::new(spec, 1)?,
                rules,
                first,
            });
            first += labels;
        }
        if search.is_none() && captioner.is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("pack {:?} has no visual encoder for any task", manifest.id),
            )
            .remedy("use a pack with [tasks.index] or captioner.visual_encoder"));
        }
        Ok(Self {
            registry: registry.clone(),
            search: search.transpose()?,
            detectors,
            captioner: captioner.transpose()?,
        })
    }

    /// The modules that make `parts`.
    pub fn modules(&self, parts: Parts) -> Vec<&str> {
        let search = self
            .search
            .as_ref()
            .filter(|e| !self.roles(e, parts).is_empty());
        let captioner = self.captioner.as_ref().filter(|_| parts.map);
        let encoders = search.into_iter().chain(captioner);
        let detectors = self.detectors.iter().filter(|_| parts.detections);
        let detectors = detectors.map(|detector| &detector.module);
        let towers = encoders.map(|encoder| &encoder.tower).chain(detectors);
        towers.map(|tower| tower.id.as_str()).collect()
    }

    /// Has the index task's encoder run in the form `made_by`, so that its vectors are comparable with those of that form; the
    /// form it runs in, which is another if it was loaded before. Holds for all who share its modules.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] where the encoder has no such form.
    pub(crate) fn pin_variant(&self, made_by: &Variant) -> Result<Variant> {
        match &self.search {
            Some(encoder) => self.registry.pin_variant(&encoder.tower.id, &made_by.hash),
            None => Err(Error::new(ErrorKind::Internal, "no encoder to pin")),
        }
    }

    /// Encodes one frame into every part that the pack's modules make.
    ///
    /// # Errors
    /// As [`encode_parts`](Self::encode_parts).
    pub fn encode(&mut self, frame: &Frame<'_>, control: &Control) -> Result<Features> {
        self.encode_parts(frame, Source::Still, Parts::ALL, control)
    }

    /// Encodes one frame into `parts`, running the modules that make them and no others. Parts that no module makes stay empty.
    ///
    /// # Errors
    /// [`ErrorKind::Inference`], naming the module, when an output is not finite, an embedding is zero or a shape is not
    /// what the manifest says; [`ErrorKind::BadFrame`] for a picture that the pack's steps cannot prepare;
    /// [`ErrorKind::Cancelled`] and [`ErrorKind::DeadlineExceeded`]; whatever loading fails with.
    pub fn encode_parts(
        &mut self,
        frame: &Frame<'_>,
        source: Source,
        parts: Parts,
        control: &Control,
    ) -> Result<Features> {
        let _span = trace::span("vision", "encode");
        let mut features = Features::default();
        let registry = self.registry.clone();
        let mut picture = Picture {
            registry: &registry,
            frame,
            source,
            control,
            rgb: None,
        };
        let mut prepared = None;
        let ports = self.search.as_ref().map(|e| self.roles(e, parts));
        if let (Some(encoder), Some(ports)) = (&mut self.search, ports)
            && !ports.is_empty()
        {
            prepared = encoder.run(&mut picture, &ports, None, &mut features)?;
        }
        if let Some(encoder) = &mut self.captioner
            && parts.map
        {
            let ports = encoder.ports.clone();
            let shared = prepared.filter(|_| match (&self.search, &encoder.tower.prepare) {
                (Some(search), Prepare::Steps(own)) => search.steps_agree(own, source),
                _ => false,
            });
            // What made the vectors is what a store asks for.
            let made_by = features.made_by.take();
            encoder.run(&mut picture, &ports, shared, &mut features)?;
            features.made_by = made_by;
        }
        drop(picture);
        for detector in self.detectors.iter_mut().filter(|_| parts.detections) {
            let found = detector.run(&registry, frame, control)?;
            features.detections.extend(found);
        }
        // Stable: equal scores keep the detectors' order.
        let best_first = |a: &Detection, b: &Detection| b.score.total_cmp(&a.score);
        features.detections.sort_by(best_first);
        Ok(features)
    }

    /// Those outputs of the index task's encoder that make `parts`.
    fn roles(&self, encoder: &Encoder, parts: Parts) -> Vec<(Role, String)> {
        let wanted = |role| match role {
            Role::Embedding => parts.embedding,
            Role::Posteriors => parts.posteriors,
            Role::Features => parts.map && self.captioner.is_none(),
            Role::None => false,
        };
        let ports = encoder.ports.iter().filter(|(role, _)| wanted(*role));
        ports.cloned().collect()
    }
}

impl Encoder {
    /// Module `id` with its outputs of `roles`.
    fn new(registry: &Registry, id: &str, roles: &[Role]) -> Result<Self> {
        let spec = registry.pack().module(id)?;
        let named = |role: &Role| Some((*role, spec.output_with(*role)?.name.clone()));
        let ports: Vec<_> = roles.iter().filter_map(named).collect();
        if ports.is_empty() {
            let what = match roles {
                [Role::Features] => "an output with role = \"features\"",
                _ => "an output with a role",
            };
            return Err(lacks(spec, what));
        }
        Ok(Self {
            tower: Tower::new(spec, usize::MAX)?,
            ports,
        })
    }

    fn steps_agree(&self, other: &Steps, source: Source) -> bool {
        match &self.tower.prepare {
            Prepare::Steps(own) => own.agrees(other, source),
            Prepare::Views(_) => false,
        }
    }

    /// Runs the module on `picture` and puts what `ports` say into `features`. With steps, the pictures they made come back, for
    /// the next encoder; `prepared` are those of the one before.
    fn run(
        &mut self,
        picture: &mut Picture<'_>,
        ports: &[(Role, String)],
        prepared: Option<Prepared>,
        features: &mut Features,
    ) -> Result<Option<Prepared>> {
        let names: Vec<&str> = ports.iter().map(|(_, name)| name.as_str()).collect();
        let (registry, control) = (picture.registry, picture.control);
        let Prepare::Steps(steps) = &self.tower.prepare else {
            let views = self.tower.views();
            let frame = picture.frame;
            self.tower
                .run_views(registry, frame, &names, control, |lease, outputs| {
                    features.made_by = Some(Arc::clone(lease.variant()));
                    for ((role, name), tensor) in ports.iter().zip(outputs) {
                        let wrong = |e: Error| wrong(&lease.spec().id, name, &e);
                        put_views(*role, tensor, views, features).map_err(wrong)?;
                    }
                    Ok(())
                })?;
            return Ok(None);
        };
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => picture.cut(steps)?,
        };
        let mut made: Vec<Rows> = ports.iter().map(|_| Rows::default()).collect();
        let cut = &prepared.cut;
        let read = |lease: &Lease, pictures: usize, outputs: &[Tensor]| {
            features.made_by = Some(Arc::clone(lease.variant()));
            for (((_, name), rows), tensor) in ports.iter().zip(&mut made).zip(outputs) {
                let added = rows.add(tensor, pictures);
                added.map_err(|e| wrong(&lease.spec().id, name, &e))?;
            }
            Ok(())
        };
        self.tower.run_steps(registry, cut, &names, control, read)?;
        for ((role, name), rows) in ports.iter().zip(made) {
            let put = put_rows(*role, rows, &prepared, features);
            put.map_err(|e| wrong(&self.tower.id, name, &e))?;
        }
        Ok(Some(prepared))
    }
}

impl Picture<'_> {
    /// What `steps` make of it.
    fn cut(&mut self, steps: &Steps) -> Result<Prepared> {
        let format = self.frame.format();
        if self.rgb.is_none() {
            let pixels = u64::from(format.width) * u64::from(format.height);
            // With the turn, there are two for a moment. Charged with what the steps take, so that who waits for memory keeps
            // none from others.
            let whole = pixels * super::pixels::CHANNELS as u64;
            let size = super::pixels::upright(format.rotation, (format.width, format.height));
            let steps = working_bytes(&steps.spec, self.source, size);
            let charge = charge(self.registry, whole + steps.max(whole), self.control)?;
            let _span = trace::span("vision", "colour");
            let rgb = Rgb::new(self.frame)?;
            charge.resize_free(whole, 0)?;
            charge.set_pending(0);
            self.rgb = Some((rgb, charge));
        }
        match &self.rgb {
            Some((rgb, _)) => steps.cut(self.registry, self.source, rgb, self.control),
            None => Err(Error::new(ErrorKind::Internal, "no picture to cut")),
        }
    }
}

/// Puts an output over several views into `features`: single vectors are averaged, rows for a captioner never.
fn put_views(role: Role, tensor: &Tensor, views: usize, features: &mut Features) -> Result<()> {
    match role {
        Role::Embedding => features.embedding = normalised(average(tensor, views)?)?,
        Role::Posteriors => features.posteriors = average(tensor, views)?,
        Role::Features => {
            let (rows, data) = match tensor.shape().len() {
                2 => (1, average(tensor, views)?),
                _ => first_view(tensor, views)?,
            };
            features.map = FeatureMap::of_one(rows, data.len() / rows.max(1), data);
        }
        Role::None => {}
    }
    Ok(())
}

/// Puts the rows of all pictures into `features`.
fn put_rows(role: Role, rows: Rows, prepared: &Prepared, features: &mut Features) -> Result<()> {
    match role {
        Role::Embedding => features.embedding = normalised(rows.single()?)?,
        Role::Posteriors => features.posteriors = rows.single()?,
        Role::Features => {
            features.map = FeatureMap {
                rows: rows.count,
                dim: rows.dim,
                data: rows.data,
                grid: prepared.cut.grid,
                pictures: prepared.cut.pictures.len(),
            }
        }
        Role::None => {}
    }
    Ok(())
}

/// A module that finds things.
#[derive(Debug)]
struct Detector {
    module: Tower,
    rules: DetectorSpec,
    /// Number of the labels of the detectors before it.
    first: u32,
}

impl Detector {
    fn run(
        &mut self,
        registry: &Registry,
        frame: &Frame<'_>,
        control: &Control,
    ) -> Result<Vec<Detection>> {
        let _span = trace::span("vision", "detect");
        let names = ["boxes", "scores", "classes"];
        let (module, rules) = (&mut self.module, &self.rules);
        let Prepare::Views(preprocessor) = &module.prepare else {
            let what = format!("detector {:?} looks at no views", module.id);
            return Err(Error::new(ErrorKind::Internal, what));
        };
        let region = preprocessor.region(0, frame);
        let mut found = module.run_views(registry, frame, &names, control, |lease, outputs| {
            let found = match outputs {
                [boxes, scores, classes] => boxes.to_f32s().and_then(|boxes| {
                    let raw = Raw {
                        boxes: &boxes,
                        scores: &scores.to_f32s()?,
                        classes: classes.as_slice()?,
                    };
                    detections(rules, &raw, region)
                }),
                _ => Err(Error::new(ErrorKind::Inference, "outputs are missing")),
            };
            found.map_err(|e| wrong(&lease.spec().id, "boxes", &e))
        })?;
        for detection in &mut found {
            detection.label += self.first;
        }
        Ok(found)
    }
}

/// What is wrong with output `name` of `module`.
fn wrong(module: &str, name: &str, error: &Error) -> Error {
    Error::new(
        ErrorKind::Inference,
        format!("module {module:?}: output {name:?}: {}", error.message()),
    )
    .remedy("the weights may be damaged: run `atom pack verify`")
}

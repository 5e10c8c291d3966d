//! Keyframes to features, by the pack's visual encoder and detectors.

use std::sync::Arc;

use half::f16;

use super::detector::{Raw, detections};
use super::preprocess::Preprocessor;
use crate::budget::{Owner, WaitPolicy};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Detection, FeatureMap, Features, Variant};
use crate::frame::Frame;
use crate::module::{Lease, Registry};
use crate::ort::{DType, Dim, RunArgs, Tensor};
use crate::pack::{DetectorSpec, ModuleSpec, PreprocessSpec, Role};
use crate::trace;

/// Encodes frames with the modules of the pack's index task. One thread at a time; several encoders share the modules.
///
/// Modules are leased for each frame, so between frames an idle encoder keeps nothing resident.
#[derive(Debug)]
pub struct VisualEncoder {
    registry: Registry,
    encoder: Module,
    /// The outputs that mean something.
    ports: Vec<(Role, String)>,
    detectors: Vec<Detector>,
}

impl VisualEncoder {
    /// Looks up the modules of `tasks.index`; loads none yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no index task; [`ErrorKind::BadPack`] when a module it names is
    /// missing or lacks what it needs.
    pub fn new(registry: &Registry) -> Result<Self> {
        let pack = registry.pack();
        let manifest = pack.manifest();
        let Some(task) = &manifest.tasks.index else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "pack {:?} cannot index: it has no [tasks.index]",
                    manifest.id
                ),
            )
            .remedy("use a pack with a visual encoder; `atom pack list` shows what each can do"));
        };
        let spec = pack.module(&task.visual_encoder)?;
        let ports: Vec<_> = [Role::Embedding, Role::Posteriors, Role::Features]
            .into_iter()
            .filter_map(|role| Some((role, spec.output_with(role)?.name.clone())))
            .collect();
        if ports.is_empty() {
            return Err(lacks(spec, "an output with a role"));
        }
        let mut detectors = Vec::new();
        let mut first = 0;
        for id in &task.detectors {
            let spec = pack.module(id)?;
            let rules = spec.detector.clone();
            let rules = rules.ok_or_else(|| lacks(spec, "[module.detector]"))?;
            let labels = rules.labels.len() as u32;
            detectors.push(Detector {
                // Other views would find the same things again.
                module: Module::new(spec, 1)?,
                rules,
                first,
            });
            first += labels;
        }
        Ok(Self {
            encoder: Module::new(spec, usize::MAX)?,
            registry: registry.clone(),
            ports,
            detectors,
        })
    }

    /// Has the encoder run in the form `made_by`, so that what it makes can be added to what that made; the form it runs in,
    /// which is another if it was loaded before. Holds for all who share its modules.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] where the encoder has no such form.
    pub(crate) fn pin_variant(&self, made_by: &Variant) -> Result<Variant> {
        self.registry.pin_variant(&self.encoder.id, &made_by.hash)
    }

    /// Encodes one frame: one step of the encoder over all its views, whose outputs are averaged, and one step of each
    /// detector over its first view.
    ///
    /// # Errors
    /// [`ErrorKind::Inference`], naming the module, when an output is not finite, an embedding is zero or a shape is not
    /// what the manifest says; [`ErrorKind::Cancelled`] and [`ErrorKind::DeadlineExceeded`]; whatever loading fails with.
    pub fn encode(&mut self, frame: &Frame<'_>, control: &Control) -> Result<Features> {
        let _span = trace::span("vision", "encode");
        let names: Vec<&str> = self.ports.iter().map(|(_, name)| name.as_str()).collect();
        let (encoder, ports) = (&mut self.encoder, &self.ports);
        let views = encoder.preprocessor.shape()[0];
        let mut features =
            encoder.run(&self.registry, frame, &names, control, |lease, outputs| {
                let id = &lease.spec().id;
                let mut features = Features {
                    made_by: Some(Arc::clone(lease.variant())),
                    ..Features::default()
                };
                for ((role, name), tensor) in ports.iter().zip(outputs) {
                    let wrong = |e: Error| wrong(id, name, &e);
                    let (rows, data) = average(tensor, views).map_err(wrong)?;
                    match role {
                        Role::Embedding => features.embedding = normalised(data).map_err(wrong)?,
                        Role::Posteriors => features.posteriors = data,
                        Role::Features => {
                            let dim = data.len() / rows.max(1);
                            features.map = FeatureMap::of_one(rows, dim, data);
                        }
                        Role::None => {}
                    }
                }
                Ok(features)
            })?;
        for detector in &mut self.detectors {
            let found = detector.run(&self.registry, frame, control)?;
            features.detections.extend(found);
        }
        // Stable: equal scores keep the detectors' order.
        let best_first = |a: &Detection, b: &Detection| b.score.total_cmp(&a.score);
        features.detections.sort_by(best_first);
        Ok(features)
    }
}

/// A module that finds things.
#[derive(Debug)]
struct Detector {
    module: Module,
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
        let region = module.preprocessor.region(0, frame);
        let mut found = module.run(registry, frame, &names, control, |lease, outputs| {
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

/// A module that reads pixels.
#[derive(Debug)]
struct Module {
    id: String,
    port: String,
    dtype: DType,
    preprocessor: Preprocessor,
}

impl Module {
    /// With at most `views` of its views.
    fn new(spec: &ModuleSpec, views: usize) -> Result<Self> {
        let preprocess = spec.preprocess.as_ref();
        let preprocess = preprocess.ok_or_else(|| lacks(spec, "[module.preprocess]"))?;
        let mut preprocess: PreprocessSpec = preprocess.clone();
        preprocess.views.truncate(views);
        let preprocessor = Preprocessor::new(&preprocess)
            .map_err(|e| e.context(format_args!("module {:?}", spec.id)))?;
        let [port] = &spec.inputs[..] else {
            return Err(lacks(spec, "exactly one input"));
        };
        let shape = preprocessor.shape();
        let fits = |(declared, made): (&Dim, &usize)| match declared {
            Dim::Fixed(size) => size == made,
            Dim::Symbolic(_) => true,
        };
        if port.shape.len() != shape.len() || !port.shape.iter().zip(&shape).all(fits) {
            return Err(Error::new(
                ErrorKind::BadPack,
                format!(
                    "module {:?}: input {:?} is {:?}, its preprocessing makes {shape:?}",
                    spec.id, port.name, port.shape
                ),
            )
            .remedy("make width, height, layout and the number of views fit the input"));
        }
        if !matches!(port.dtype, DType::F32 | DType::F16 | DType::U8 | DType::I32) {
            return Err(lacks(spec, "an input of f32, f16, u8 or i32"));
        }
        Ok(Self {
            id: spec.id.clone(),
            port: port.name.clone(),
            dtype: port.dtype,
            preprocessor,
        })
    }

    /// Has `read` look at the outputs, with the lease. They live in the session's arena and keep its memory, so
    /// they are gone before the lease ends.
    fn run<T>(
        &mut self,
        registry: &Registry,
        frame: &Frame<'_>,
        outputs: &[&str],
        control: &Control,
        read: impl FnOnce(&Lease, &[Tensor]) -> Result<T>,
    ) -> Result<T> {
        control.check()?;
        let shape = self.preprocessor.shape();
        let bytes = (shape.iter().product::<usize>() * self.dtype.size()) as u64;
        // Before the lease: who waits for memory keeps none from others.
        let go_on = || control.check();
        let buffers = self.preprocessor.buffer_bytes(frame);
        let charge = registry.ledger().charge_with(
            Owner::Frames,
            bytes + buffers,
            0,
            &WaitPolicy::until(&go_on, None),
        )?;
        let lease = registry.lease_with(&self.id, control)?;
        let mut input = Tensor::zeros(self.dtype, &shape)?;
        let span = trace::span("vision", "preprocess");
        let preprocessor = &mut self.preprocessor;
        match self.dtype {
            // A cast saturates.
            DType::U8 => preprocessor.run_as(frame, input.as_mut_slice()?, |v| v.round() as u8)?,
            DType::I32 => {
                preprocessor.run_as(frame, input.as_mut_slice()?, |v| v.round() as i32)?
            }
            DType::F16 => preprocessor.run_as(frame, input.as_mut_slice()?, f16::from_f32)?,
            _ => preprocessor.run(frame, input.as_mut_slice()?)?,
        }
        // Several may have an input, and wait for the session. To have the buffers again costs 0.2 ms.
        preprocessor.give_back();
        drop(span);
        charge.resize_free(bytes, 0)?;
        charge.set_pending(0);
        let outputs = lease.step(control)?.run(RunArgs {
            inputs: vec![(&self.port, &input)],
            outputs: outputs.to_vec(),
            cancel: Some(&control.cancel),
            deadline: control.deadline,
            ..RunArgs::default()
        })?;
        drop((input, charge));
        read(&lease, &outputs)
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

fn lacks(spec: &ModuleSpec, what: &str) -> Error {
    Error::new(
        ErrorKind::BadPack,
        format!("module {:?}: the index task needs {what}", spec.id),
    )
}

/// The mean over the views of `[views, D]` or `[views, N, D]`, and its number of rows.
fn average(tensor: &Tensor, views: usize) -> Result<(usize, Vec<f32>)> {
    let values = tensor.to_f32s()?;
    let shape = tensor.shape();
    let rows = match shape[..] {
        [batch, dim] if batch == views && dim > 0 => 1,
        [batch, rows, dim] if batch == views && rows * dim > 0 => rows,
        _ => {
            return Err(Error::new(
                ErrorKind::Inference,
                format!("has shape {shape:?} for {views} views"),
            ));
        }
    };
    if !values.iter().all(|v| v.is_finite()) {
        return Err(Error::new(
            ErrorKind::Inference,
            "holds NaN or infinite values",
        ));
    }
    let mut views_of = values.chunks_exact(values.len() / views);
    let mut mean = views_of.next().map(<[f32]>::to_vec).unwrap_or_default();
    for view in views_of {
        mean.iter_mut().zip(view).for_each(|(sum, v)| *sum += v);
    }
    mean.iter_mut().for_each(|sum| *sum /= views as f32);
    Ok((rows, mean))
}

/// `vector` at length 1.
fn normalised(mut vector: Vec<f32>) -> Result<Vec<f32>> {
    let squares: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let norm = squares.sqrt();
    if norm < 1e-12 {
        return Err(Error::new(ErrorKind::Inference, "is a zero vector"));
    }
    for value in &mut vector {
        *value = (f64::from(*value) / norm) as f32;
    }
    Ok(vector)
}

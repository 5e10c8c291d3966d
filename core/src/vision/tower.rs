//! A module that reads pictures: how its input is made, and runs of it.

use half::f16;

use super::preprocess::Preprocessor;
use super::rgb::Rgb;
use super::steps::{Cut, working_bytes};
use super::values::{self, Table};
use crate::budget::{Charge, Owner, WaitPolicy};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::Frame;
use crate::module::{Lease, Registry};
use crate::ort::{DType, Dim, Element, RunArgs, Tensor};
use crate::pack::{ModuleSpec, PortSpec, PreprocessSpec, Source};
use crate::trace;

/// A module that reads pictures. Leased for each frame, so between frames it keeps nothing resident.
#[derive(Debug)]
pub(super) struct Tower {
    pub(super) id: String,
    port: String,
    dtype: DType,
    pub(super) prepare: Prepare,
}

/// How its input is made.
#[derive(Debug)]
pub(super) enum Prepare {
    /// One batch row for each view of the frame.
    Views(Preprocessor),
    /// Pictures that steps make.
    Steps(Box<Steps>),
}

/// A module with `preprocess.steps`.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) spec: PreprocessSpec,
    table: Box<Table<f32>>,
    /// The port has a dimension of 1 before that of the pictures.
    wrapped: bool,
    /// Pictures of one run, if the port fixes their number.
    at_once: Option<usize>,
    mask: Option<(String, DType)>,
}

/// A cut picture, charged for.
pub(super) struct Prepared {
    pub(super) cut: Cut,
    _charge: Charge,
}

impl Tower {
    /// With at most `views` of its views.
    pub(super) fn new(spec: &ModuleSpec, views: usize) -> Result<Self> {
        let preprocess = spec.preprocess.as_ref();
        let preprocess = preprocess.ok_or_else(|| lacks(spec, "[module.preprocess]"))?;
        let mask = preprocess.pixel_mask.as_deref();
        let mut reads = spec
            .inputs
            .iter()
            .filter(|port| Some(port.name.as_str()) != mask);
        let (Some(port), None) = (reads.next(), reads.next()) else {
            return Err(lacks(spec, "exactly one input besides pixel_mask"));
        };
        if !matches!(port.dtype, DType::F32 | DType::F16 | DType::U8 | DType::I32) {
            return Err(lacks(spec, "an input of f32, f16, u8 or i32"));
        }
        let prepare = match preprocess.steps.is_empty() {
            true => {
                let mut preprocess = preprocess.clone();
                preprocess.views.truncate(views);
                let made = Preprocessor::new(&preprocess);
                let made = made.map_err(|e| e.context(format_args!("module {:?}", spec.id)))?;
                fits(spec, port, &made.shape())?;
                Prepare::Views(made)
            }
            false => Prepare::Steps(Box::new(Steps::new(spec, port, preprocess)?)),
        };
        Ok(Self {
            id: spec.id.clone(),
            port: port.name.clone(),
            dtype: port.dtype,
            prepare,
        })
    }

    /// Rows of one batch, where the module looks at views.
    pub(super) fn views(&self) -> usize {
        match &self.prepare {
            Prepare::Views(preprocessor) => preprocessor.shape()[0],
            Prepare::Steps(_) => 1,
        }
    }

    /// Runs the module on all views of `frame`. `read` looks at the outputs, with the lease. They live in the session's arena
    /// and keep its memory, so they are gone before the lease ends.
    pub(super) fn run_views<T>(
        &mut self,
        registry: &Registry,
        frame: &Frame<'_>,
        outputs: &[&str],
        control: &Control,
        read: impl FnOnce(&Lease, &[Tensor]) -> Result<T>,
    ) -> Result<T> {
        control.check()?;
        let Prepare::Views(preprocessor) = &mut self.prepare else {
            let what = format!("module {:?} looks at no views", self.id);
            return Err(Error::new(ErrorKind::Internal, what));
        };
        let shape = preprocessor.shape();
        let bytes = (shape.iter().product::<usize>() * self.dtype.size()) as u64;
        // Before the lease: who waits for memory keeps none from others.
        let charge = charge(registry, bytes + preprocessor.buffer_bytes(frame), control)?;
        let lease = registry.lease_with(&self.id, control)?;
        let mut input = Tensor::zeros(self.dtype, &shape)?;
        let span = trace::span("vision", "preprocess");
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

    /// Runs the module on the pictures of `cut`: as many at once as its port fixes, else one by one, so that the memory of
    /// a run does not grow with the number of tiles. `read` looks at the outputs of each run, with the number of its pictures.
    pub(super) fn run_steps(
        &self,
        registry: &Registry,
        cut: &Cut,
        outputs: &[&str],
        control: &Control,
        mut read: impl FnMut(&Lease, usize, &[Tensor]) -> Result<()>,
    ) -> Result<()> {
        control.check()?;
        let Prepare::Steps(steps) = &self.prepare else {
            let what = format!("module {:?} has no steps", self.id);
            return Err(Error::new(ErrorKind::Internal, what));
        };
        let at_once = steps.at_once.unwrap_or(1);
        if !cut.pictures.len().is_multiple_of(at_once) {
            return Err(Error::new(
                ErrorKind::BadPack,
                format!(
                    "module {:?}: input {:?} takes {at_once} pictures at once, and this one became {}",
                    self.id,
                    self.port,
                    cut.pictures.len()
                ),
            )
            .remedy("leave the number of pictures open in the graph, or cut none"));
        }
        let (shape, mask_shape) = steps.shapes(at_once);
        let size = |dtype: DType, shape: &[usize]| dtype.size() * shape.iter().product::<usize>();
        let mask_bytes = steps.mask.as_ref();
        let mask_bytes = mask_bytes.map_or(0, |(_, dtype)| size(*dtype, &mask_shape));
        let bytes = (size(self.dtype, &shape) + mask_bytes) as u64;
        let charge = charge(registry, bytes, control)?;
        let lease = registry.lease_with(&self.id, control)?;
        let mut input = Tensor::zeros(self.dtype, &shape)?;
        let mut mask = match &steps.mask {
            Some((_, dtype)) => Some(Tensor::zeros(*dtype, &mask_shape)?),
            None => None,
        };
        charge.set_pending(0);
        for pictures in cut.pictures.chunks_exact(at_once) {
            let span = trace::span("vision", "normalise");
            match self.dtype {
                DType::U8 => steps.fill(pictures, input.as_mut_slice()?, |v| v.round() as u8),
                DType::I32 => steps.fill(pictures, input.as_mut_slice()?, |v| v.round() as i32),
                DType::F16 => steps.fill(pictures, input.as_mut_slice()?, f16::from_f32),
                _ => steps.fill::<f32>(pictures, input.as_mut_slice()?, |v| v),
            }
            drop(span);
            let mut inputs = vec![(self.port.as_str(), &input)];
            if let (Some((name, dtype)), Some(mask)) = (&steps.mask, &mut mask) {
                match dtype {
                    DType::I64 => steps.fill_mask(cut, (0_i64, 1), mask)?,
                    DType::I32 => steps.fill_mask(cut, (0_i32, 1), mask)?,
                    DType::F32 => steps.fill_mask(cut, (0_f32, 1.0), mask)?,
                    DType::F16 => steps.fill_mask(cut, (f16::ZERO, f16::ONE), mask)?,
                    _ => steps.fill_mask(cut, (0_u8, 1), mask)?,
                }
                inputs.push((name, &*mask));
            }
            let made = lease.step(control)?.run(RunArgs {
                inputs,
                outputs: outputs.to_vec(),
                cancel: Some(&control.cancel),
                deadline: control.deadline,
                ..RunArgs::default()
            })?;
            read(&lease, at_once, &made)?;
        }
        Ok(())
    }
}

impl Steps {
    fn new(module: &ModuleSpec, port: &PortSpec, spec: &PreprocessSpec) -> Result<Self> {
        let table = values::table(spec);
        let table = table.map_err(|e| e.context(format_args!("module {:?}", module.id)))?;
        let mask = match &spec.pixel_mask {
            Some(name) => {
                let port = module.input(name);
                let port = port.ok_or_else(|| lacks(module, "the input that pixel_mask names"))?;
                Some((name.clone(), port.dtype))
            }
            None => None,
        };
        let wrapped = port.shape.len() == 5;
        let at_once = match port.shape.get(usize::from(wrapped)) {
            // A graph exported for a batch of one picture says 1 where N stands.
            Some(Dim::Fixed(count)) => Some(*count),
            _ => None,
        };
        let steps = Self {
            spec: spec.clone(),
            table,
            wrapped,
            at_once,
            mask,
        };
        let (shape, mask_shape) = steps.shapes(at_once.unwrap_or(1));
        fits(module, port, &shape)?;
        if let Some(mask) = steps.mask.as_ref().and_then(|(name, _)| module.input(name)) {
            fits(module, mask, &mask_shape)?;
        }
        Ok(steps)
    }

    /// Shapes of the input and of the mask for so many pictures.
    fn shapes(&self, pictures: usize) -> (Vec<usize>, Vec<usize>) {
        use crate::pack::Layout;
        let (width, height) = (self.spec.width as usize, self.spec.height as usize);
        let mut shape = vec![1; usize::from(self.wrapped)];
        shape.push(pictures);
        let mask = [&shape[..], &[height, width]].concat();
        match self.spec.layout {
            Layout::Nchw => shape.extend([super::pixels::CHANNELS, height, width]),
            Layout::Nhwc => shape.extend([height, width, super::pixels::CHANNELS]),
        }
        (shape, mask)
    }

    /// Cuts `picture` as one of `source`, and charges for it.
    pub(super) fn cut(
        &self,
        registry: &Registry,
        source: Source,
        picture: &Rgb,
        control: &Control,
    ) -> Result<Prepared> {
        let size = (picture.width, picture.height);
        let charge = charge(registry, working_bytes(&self.spec, source, size), control)?;
        let span = trace::span("vision", "preprocess");
        let cut = Cut::new(&self.spec, source, picture)?;
        drop(span);
        charge.resize_free(cut.bytes(), 0)?;
        charge.set_pending(0);
        Ok(Prepared {
            cut,
            _charge: charge,
        })
    }

    /// Whether both make the same pictures of everything.
    pub(super) fn agrees(&self, other: &Self, source: Source) -> bool {
        let size = |spec: &PreprocessSpec| (spec.width, spec.height);
        self.spec.steps_of(source) == other.spec.steps_of(source)
            && size(&self.spec) == size(&other.spec)
    }

    /// Fills an input with `pictures`, with `convert` of each value.
    pub(super) fn fill<T: Copy>(
        &self,
        pictures: &[Rgb],
        out: &mut [T],
        convert: impl Fn(f32) -> T,
    ) {
        let table = self.table.map(|values| values.map(&convert));
        let values = out.len() / pictures.len().max(1);
        for (picture, out) in pictures.iter().zip(out.chunks_exact_mut(values.max(1))) {
            values::write(picture, self.spec.layout, self.spec.order, &table, out);
        }
    }

    fn fill_mask<T: Element>(&self, cut: &Cut, values: (T, T), mask: &mut Tensor) -> Result<()> {
        let (width, height) = (self.spec.width as usize, self.spec.height as usize);
        let all: &mut [T] = mask.as_mut_slice()?;
        for out in all.chunks_exact_mut(width * height) {
            values::mask(cut.filled, width, values, out);
        }
        Ok(())
    }
}

/// Memory for pictures under way.
pub(super) fn charge(registry: &Registry, bytes: u64, control: &Control) -> Result<Charge> {
    let go_on = || control.check();
    let wait = WaitPolicy::until(&go_on, None);
    registry
        .ledger()
        .charge_with(Owner::Frames, bytes, 0, &wait)
}

/// Whether the declared `port` takes a tensor of `shape`.
fn fits(module: &ModuleSpec, port: &PortSpec, shape: &[usize]) -> Result<()> {
    let same = |(declared, made): (&Dim, &usize)| match declared {
        Dim::Fixed(size) => size == made,
        Dim::Symbolic(_) => true,
    };
    if port.shape.len() == shape.len() && port.shape.iter().zip(shape).all(same) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadPack,
        format!(
            "module {:?}: input {:?} is {:?}, its preprocessing makes {shape:?}",
            module.id, port.name, port.shape
        ),
    )
    .remedy("make width, height, layout, steps and the number of views fit the input"))
}

pub(super) fn lacks(spec: &ModuleSpec, what: &str) -> Error {
    Error::new(
        ErrorKind::BadPack,
        format!(
            "module {:?}: a task that reads pictures needs {what}",
            spec.id
        ),
    )
}

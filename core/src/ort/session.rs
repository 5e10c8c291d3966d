//! Sessions: a loaded graph, its ports, its runs.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Weak};
use std::time::Instant;

use ::ort::sys;

use super::arena::{Arena, ArenaUse};
use super::c_api::c_path;
use super::config::SessionConfig;
use super::describe::{self, Placement, Side};
use super::options::SessionOptions;
use super::provider::{self, Provider};
use super::run_options::RunOptions;
use super::tensor::{Port, Tensor};
use super::{api, check, failure};
use crate::control::CancelToken;
use crate::error::{Error, ErrorKind, Result};
use crate::os::deadline_timer;
use crate::trace;

/// One run of a session.
#[derive(Debug, Default)]
pub struct RunArgs<'a> {
    /// Input ports and what they read.
    pub inputs: Vec<(&'a str, &'a Tensor)>,
    /// Output ports to return, in this order.
    pub outputs: Vec<&'a str>,
    /// (input, output, tensor): one buffer bound as that input and that output, as `GroupQueryAttention` wants its cache.
    pub in_place: Vec<(&'a str, &'a str, &'a mut Tensor)>,
    /// Ends the run when cancelled.
    pub cancel: Option<&'a CancelToken>,
    /// Ends the run when it passes.
    pub deadline: Option<Instant>,
}

/// A loaded graph. May move between threads; one run at a time.
pub struct Session {
    ptr: NonNull<sys::OrtSession>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Place in `inputs` and the name as C wants it.
    input_names: HashMap<String, (usize, CString)>,
    output_names: HashMap<String, (usize, CString)>,
    placement: Placement,
    arena: Option<Arc<Arena>>,
    model: PathBuf,
    provider: Provider,
    /// Anonymous bytes it was seen to take, where its provider is watched.
    taken: u64,
    rescue: Option<Rescue>,
    profiled: bool,
    runs: u64,
}

/// Makes another session of the same ports after a run has failed; `None` when there is none to be had.
pub type Rescue = Box<dyn FnMut(&Error) -> Option<Session> + Send>;

// SAFETY: the session and its allocator belong to this value alone and ONNX Runtime does not tie it to a thread.
unsafe impl Send for Session {}

impl Drop for Session {
    fn drop(&mut self) {
        self.arena = None;
        if let Ok(api) = api() {
            self.provider.release(self.taken, || {
                // SAFETY: the session is owned and no run is under way, since runs borrow it.
                unsafe { (api.ReleaseSession)(self.ptr.as_ptr()) };
            });
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Loads a graph. Takes milliseconds to seconds.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the file is missing, [`ErrorKind::BadModel`] when ONNX Runtime refuses it, and
    /// [`ErrorKind::Unsupported`] when a port is not a tensor of a [`DType`](super::DType) or the provider is not here;
    /// [`ErrorKind::InvalidArgument`] when its options are not legal.
    pub fn load(config: &SessionConfig) -> Result<Self> {
        let api = api()?;
        let model = &config.model;
        if !model.is_file() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("model {} does not exist", model.display()),
            ));
        }
        let options = SessionOptions::new(config)?;
        provider::append(config.environment, &config.target, &options)?;
        let path = c_path(model)?;
        let mut session = ptr::null_mut();
        let provider = config.target.provider;
        let environment = config.environment.ptr();
        let span = trace::span("module", "create");
        let ((), taken) = provider
            .load(|| match config.form.graph() {
                // SAFETY: environment, graph and options are valid for the call; `session` receives an owned pointer.
                Some(graph) => check(unsafe {
                    (api.CreateSessionFromArray)(
                        environment,
                        graph.as_ptr().cast(),
                        graph.len(),
                        options.ptr(),
                        &mut session,
                    )
                }),
                // SAFETY: as above; the path is valid too.
                None => check(unsafe {
                    (api.CreateSession)(environment, path.as_ptr(), options.ptr(), &mut session)
                }),
            })
            .map_err(|e| {
                failure(
                    ErrorKind::BadModel,
                    format_args!("loading {}", model.display()),
                    &e,
                )
            })?;
        drop(span);
        let _span = trace::span("module", "describe");
        let ptr = NonNull::new(session)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "ONNX Runtime made no session"))?;
        let mut session = Self {
            ptr,
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_names: HashMap::new(),
            output_names: HashMap::new(),
            placement: Placement::default(),
            arena: Arena::of(ptr).map(Arc::new),
            model: model.clone(),
            provider,
            taken,
            rescue: None,
            profiled: config.profile.is_some(),
            runs: 0,
        };
        let named = |e: Error| e.context(model.display());
        session.inputs = describe::ports(ptr, Side::Input).map_err(named)?;
        session.outputs = describe::ports(ptr, Side::Output).map_err(named)?;
        session.input_names = c_names(&session.inputs)?;
        session.output_names = c_names(&session.outputs)?;
        session.placement = describe::placement(ptr).unwrap_or_default();
        Ok(session)
    }

    /// The ports the graph reads.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The ports the graph writes.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Which providers the nodes were given to, as ONNX Runtime recorded it.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What its arena holds of the heap.
    pub(crate) fn arena(&self) -> ArenaUse {
        self.arena
            .as_ref()
            .map_or_else(ArenaUse::default, |arena| arena.usage())
    }

    /// Says, as long as the session lives, what its arena holds; also while it runs.
    pub(crate) fn arena_watch(&self) -> impl Fn() -> ArenaUse + Send + use<> {
        let arena = self.arena.as_ref().map(Arc::downgrade);
        move || {
            let arena = arena.as_ref().and_then(Weak::upgrade);
            arena.map_or_else(ArenaUse::default, |arena| arena.usage())
        }
    }

    /// Gives what the arena holds without need back to the heap; needs ONNX Runtime 1.25, does nothing before.
    pub(crate) fn shrink_arena(&self) {
        if let Some(arena) = &self.arena {
            arena.shrink();
        }
    }

    /// What runs it, but for the nodes it leaves to the processor.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Has `rescue` called when a run fails for another reason than its arguments or being ended: the session becomes what it
    /// returns, and the run is done again, unless it had `in_place` tensors, whose content is lost.
    pub(crate) fn on_failure(&mut self, rescue: Rescue) {
        self.rescue = Some(rescue);
    }

    /// Runs finished without error.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Ends the timing of nodes that [`SessionConfig::profile`] asked for; the file that holds it, ONNX Runtime's own JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it was not asked for, [`ErrorKind::Internal`] when ONNX Runtime fails.
    pub fn profile(&mut self) -> Result<PathBuf> {
        if !std::mem::take(&mut self.profiled) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "this session was not loaded with a profile",
            ));
        }
        let api = api()?;
        let failed = |e: &::ort::Error| failure(ErrorKind::Internal, "ending a profile", e);
        let mut allocator = ptr::null_mut();
        // SAFETY: receives the process's default allocator, which is not ours to release.
        check(unsafe { (api.GetAllocatorWithDefaultOptions)(&mut allocator) })
            .map_err(|e| failed(&e))?;
        let mut name = ptr::null_mut();
        // SAFETY: the session is valid and not running; `name` receives a string of `allocator`'s.
        check(unsafe { (api.SessionEndProfiling)(self.ptr.as_ptr(), allocator, &mut name) })
            .map_err(|e| failed(&e))?;
        if name.is_null() {
            return Err(Error::new(ErrorKind::Internal, "a profile has no file"));
        }
        // SAFETY: `name` is NUL-terminated; it is copied, then given back to the allocator it came from.
        let path = unsafe {
            let path = PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
            let _ = check((api.AllocatorFree)(allocator, name.cast()));
            path
        };
        Ok(path)
    }

    /// Runs the graph and returns the tensors of `args.outputs`, in that order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for unknown, repeated or missing ports and wrong element types;
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::DeadlineExceeded`] when ended early (the content of `in_place` tensors
    /// is then undefined); [`ErrorKind::Inference`] when the graph fails.
    pub fn run(&mut self, args: RunArgs<'_>) -> Result<Vec<Tensor>> {
        loop {
            let error = match self.attempt(&args) {
                Err(error) if error.kind() == ErrorKind::Inference => error,
                done => return done,
            };
            let Some(mut rescue) = self.rescue.take() else {
                return Err(error);
            };
            let Some(mut next) = rescue(&error) else {
                return Err(error);
            };
            next.runs += self.runs;
            next.rescue = Some(rescue);
            *self = next;
            if !args.in_place.is_empty() {
                return Err(error);
            }
        }
    }

    fn attempt(&mut self, args: &RunArgs<'_>) -> Result<Vec<Tensor>> {
        let api = api()?;
        self.check_args(args)?;
        let count = args.inputs.len() + args.in_place.len();
        let mut input_names: Vec<*const c_char> = Vec::with_capacity(count);
        let mut inputs: Vec<*const sys::OrtValue> = Vec::with_capacity(count);
        let count = args.outputs.len() + args.in_place.len();
        let mut output_names: Vec<*const c_char> = Vec::with_capacity(count);
        let mut outputs: Vec<*mut sys::OrtValue> = Vec::with_capacity(count);
        for (name, tensor) in &args.inputs {
            input_names.push(self.input_names[*name].1.as_ptr());
            inputs.push(tensor.value());
        }
        for name in &args.outputs {
            output_names.push(self.output_names[*name].1.as_ptr());
            outputs.push(ptr::null_mut());
        }
        for (input, output, tensor) in &args.in_place {
            input_names.push(self.input_names[*input].1.as_ptr());
            inputs.push(tensor.value());
            output_names.push(self.output_names[*output].1.as_ptr());
            outputs.push(tensor.value());
        }
        let options = Arc::new(RunOptions::new()?);
        let stop = Arc::clone(&options);
        let cancel_hook = args.cancel.map(|c| c.on_cancel(move || stop.terminate()));
        let stop = Arc::clone(&options);
        let deadline = args
            .deadline
            .map(|at| deadline_timer::at(at, Arc::new(move || stop.terminate())));
        let span = trace::span("module", "run");
        let mut run = || {
            // SAFETY: all arrays have the lengths given; names and tensors live through `args` and `self` until the call
            // ends; `&mut self` makes this the only run; a tensor bound twice is borrowed mutably in `args`.
            check(unsafe {
                (api.Run)(
                    self.ptr.as_ptr(),
                    options.ptr(),
                    input_names.as_ptr(),
                    inputs.as_ptr(),
                    inputs.len(),
                    output_names.as_ptr(),
                    output_names.len(),
                    outputs.as_mut_ptr(),
                )
            })
        };
        let status = if self.runs == 0 {
            let (status, taken) = self.provider.first_run(run);
            self.taken += taken;
            status
        } else {
            run()
        };
        drop(span);
        drop((cancel_hook, deadline));
        // Those after `args.outputs` are the caller's own tensors.
        let made: Vec<Result<Tensor>> = outputs[..args.outputs.len()]
            .iter()
            .filter_map(|&value| NonNull::new(value))
            // SAFETY: values that the run put in place of NULL are owned by us.
            .map(|value| unsafe { Tensor::from_value(value) })
            .collect();
        if let Err(e) = status {
            return Err(self.run_failure(args, &e));
        }
        let made = made.into_iter().collect::<Result<Vec<_>>>()?;
        if made.len() != args.outputs.len() {
            return Err(Error::new(
                ErrorKind::Inference,
                format!("{} left an output empty", self.model.display()),
            ));
        }
        self.runs += 1;
        Ok(made)
    }

    fn run_failure(&self, args: &RunArgs<'_>, source: &::ort::Error) -> Error {
        if args.cancel.is_some_and(CancelToken::is_cancelled) {
            return Error::new(ErrorKind::Cancelled, "cancelled by the caller");
        }
        if args.deadline.is_some_and(|at| Instant::now() >= at) {
            return Error::new(
                ErrorKind::DeadlineExceeded,
                "the deadline passed during a run",
            );
        }
        failure(
            ErrorKind::Inference,
            format_args!("running {}", self.model.display()),
            source,
        )
    }

    /// Everything that ONNX Runtime would not check, or not name.
    fn check_args(&self, args: &RunArgs<'_>) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{}: {what}", self.model.display()),
            ))
        };
        let mut given = vec![false; self.inputs.len()];
        let plain = args.inputs.iter().map(|(name, tensor)| (*name, *tensor));
        let in_place = args.in_place.iter();
        for (name, tensor) in plain.chain(in_place.map(|(name, _, tensor)| (*name, &**tensor))) {
            let Some(&(at, _)) = self.input_names.get(name) else {
                return wrong(format!("it has no input {name:?}"));
            };
            let dtype = self.inputs[at].dtype;
            if dtype != tensor.dtype() {
                return wrong(format!(
                    "input {name:?} takes {dtype}, not {}",
                    tensor.dtype()
                ));
            }
            if std::mem::replace(&mut given[at], true) {
                return wrong(format!("input {name:?} is given twice"));
            }
        }
        if let Some(at) = given.iter().position(|given| !given) {
            return wrong(format!("input {:?} is missing", self.inputs[at].name));
        }
        let in_place = args.in_place.iter().map(|(_, name, _)| *name);
        let mut asked = vec![false; self.outputs.len()];
        for name in args.outputs.iter().copied().chain(in_place) {
            let Some(&(at, _)) = self.output_names.get(name) else {
                return wrong(format!("it has no output {name:?}"));
            };
            if std::mem::replace(&mut asked[at], true) {
                return wrong(format!("output {name:?} is asked for twice"));
            }
        }
        if !asked.contains(&true) {
            return wrong("no output is asked for".into());
        }
        Ok(())
    }
}

fn c_names(ports: &[Port]) -> Result<HashMap<String, (usize, CString)>> {
    ports
        .iter()
        .enumerate()
        .map(|(at, port)| {
            let name = CString::new(port.name.as_str()).map_err(|_| {
                Error::new(
                    ErrorKind::BadModel,
                    format!("the port name {:?} contains a NUL", port.name),
                )
            })?;
            Ok((port.name.clone(), (at, name)))
        })
        .collect()
}

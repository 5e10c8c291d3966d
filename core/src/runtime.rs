//! The front door: one pack, its modules, and the tasks that share them.

mod captions;
mod indexing;
mod memory;
pub mod status;
mod stores;
mod unserved;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::budget::pressure::Level;
use crate::budget::{Events, Governor, Idle, Ledger};
use crate::cache;
use crate::caption::{self, Captioner, CaptionerKind};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::{Features, Parts};
use crate::frame::Frame;
use crate::index::{Hit, Store, StreamId};
use crate::language::{LanguageContext, PrefixCache, QueryEncoder};
use crate::module::{ModuleStatus, Registry};
use crate::ort::{Environment, EnvironmentOptions};
use crate::os::memory::{SmallHeap, keep_heap_small};
use crate::os::smaps;
use crate::pack::{ArtifactCache, GoldenReport, Pack, Source};
use crate::storyboard::Storyboard;
use crate::task::assemble::{AssembleQuery, Assembler};
use crate::task::caption::backlog::{Backlog, CaptionReport};
use crate::task::ingest::IngestOptions;
use crate::task::search::{SearchQuery, Searcher};
use crate::vision::VisualEncoder;

pub use crate::pack::Task;
pub use indexing::{IndexReport, Indexing};
use memory::Keeper;
pub use memory::{Budget, MemoryOptions, Pressure};
pub use status::Status;

/// How a [`Runtime`] is opened.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// The pack's folder.
    pub pack: PathBuf,
    /// Folder for what can be made again (optimised model forms); [`cache::dir`]`/artifacts` when absent.
    pub artifacts: Option<PathBuf>,
    /// ONNX Runtime's library; looked for in the usual places when absent.
    pub ort_library: Option<PathBuf>,
    /// Threads of ONNX Runtime's pool, 1 or more; every core when absent. The first open of a process decides.
    pub threads: Option<usize>,
    /// Most bytes that beginnings of prompts may take, so that a caption and every question on a segment run its context
    /// through the decoder once; 0 keeps none.
    pub prefix_bytes: u64,
    /// How memory is governed.
    pub memory: MemoryOptions,
    /// Kinds of captioners that the program links, besides `vlm`, which core has. A pack whose kind is not among them opens, but
    /// cannot caption or answer.
    pub captioners: Vec<Arc<dyn CaptionerKind>>,
}

impl RuntimeOptions {
    /// Defaults for the pack in folder `pack`.
    pub fn new(pack: impl Into<PathBuf>) -> Self {
        Self {
            pack: pack.into(),
            artifacts: None,
            ort_library: None,
            threads: None,
            prefix_bytes: 32 << 20,
            memory: MemoryOptions::default(),
            captioners: Vec::new(),
        }
    }
}

/// A pack opened for work. Clones share everything; every method may be called from any thread.
///
/// Opening loads no module. Each module is loaded by the first task that needs it and shared by all. When the last clone
/// and everything made from it are gone, all modules are released; ONNX Runtime itself stays in the process.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    environment: &'static Environment,
    program_anon_bytes: u64,
    // Dropped before what it governs.
    keeper: Keeper,
    registry: Registry,
    /// What searching and assembling share; `None` in a pack that cannot search.
    queries: Option<QueryEncoder>,
    language: LanguageContext,
    /// What captioning and asking share; `None` in a pack without captioner, or with one whose kind is not linked.
    captioner: Option<Arc<dyn Captioner>>,
    /// One for each store whose segments are captioned ahead of need.
    backlogs: Mutex<Vec<Weak<Backlog>>>,
    // Dropped last: it gives back what closing has freed.
    _heap: Option<SmallHeap>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A load must not outlive whoever may end the process next.
        self.registry.settle();
    }
}

impl Runtime {
    /// Opens the pack and ONNX Runtime.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] for a wrong manifest, or a captioner that cannot be made of it;
    /// [`ErrorKind::NativeLibrary`] when ONNX Runtime is missing or too old;
    /// [`ErrorKind::InvalidArgument`] when this process opened it with another library or thread
    /// count before, or when two kinds of captioners have one name.
    pub fn open(options: &RuntimeOptions) -> Result<Self> {
        let pack = Arc::new(Pack::open(&options.pack)?);
        let environment = Environment::open(&EnvironmentOptions {
            library: options.ort_library.clone(),
            threads: options.threads,
        })?;
        let artifacts = options
            .artifacts
            .clone()
            .unwrap_or_else(|| cache::dir().join("artifacts"));
        let heap = (options.memory != MemoryOptions::ungoverned()).then(keep_heap_small);
        let governor = Governor::default();
        let registry = Registry::new(
            pack.clone(),
            environment,
            &governor,
            ArtifactCache::new(artifacts),
        );
        let program_anon_bytes = smaps::anonymous().unwrap_or(0);
        governor.ledger().set_program(program_anon_bytes);
        let language = LanguageContext::new(&registry, options.prefix_bytes);
        let runtime = Self(Arc::new(Inner {
            environment,
            program_anon_bytes,
            keeper: Keeper::start(&governor, &options.memory)?,
            captioner: caption::build(&registry, &language, &options.captioners)?,
            language,
            queries: match pack.manifest().tasks.search {
                Some(_) => Some(QueryEncoder::new(&registry)?),
                None => None,
            },
            registry,
            backlogs: Mutex::default(),
            _heap: heap,
        }));
        if let Some(path) = options.memory.status_file.clone() {
            let weak = Arc::downgrade(&runtime.0);
            runtime.0.keeper.report_by(move || {
                if let Some(inner) = weak.upgrade() {
                    status::write(&Self(inner), &path);
                }
            });
        }
        Ok(runtime)
    }

    /// Whether the runtime can serve `task`: the pack has it, and captions and answers have a captioner of a kind that is linked.
    pub fn serves(&self, task: Task) -> bool {
        self.expect(task).is_ok()
    }

    /// As [`serves`](Self::serves), with the reason why not.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] naming the table that the pack lacks or the captioner's kind that is not linked.
    pub fn expect(&self, task: Task) -> Result<()> {
        match task {
            Task::Caption | Task::Ask => self.captioner(task).map(|_| ()),
            _ if self.pack().manifest().tasks.has(task) => Ok(()),
            _ => Err(unserved::lacks(&self.pack().manifest().id, task)),
        }
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        self.0.registry.pack()
    }

    /// The modules and who holds them.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// ONNX Runtime as this process loaded it.
    pub fn environment(&self) -> &'static Environment {
        self.0.environment
    }

    /// Who owns which bytes.
    pub fn ledger(&self) -> &Ledger {
        self.0.registry.ledger()
    }

    /// The beginnings of prompts that are kept for the next that begins so; they can be given up at any time.
    pub fn prefixes(&self) -> &PrefixCache {
        self.0.language.prefixes()
    }

    /// The state of everything, as one document.
    ///
    /// # Errors
    /// A kernel that does not tell a process its memory.
    pub fn status(&self) -> Result<Status> {
        Status::of(self)
    }

    /// Which execution providers there are, and why not the others. The first call loads the libraries of those that are
    /// plug-ins.
    pub fn providers(&self) -> Vec<status::Provider> {
        status::Provider::all(|provider| provider.presence(self.0.environment))
    }

    /// Anonymous bytes the process had when this runtime was opened.
    pub fn program_anon_bytes(&self) -> u64 {
        self.0.program_anon_bytes
    }

    /// Begins to load the modules that `task` will need and that are not in memory, as far as there is room, and returns at
    /// once.
    pub fn prefetch(&self, task: Task) {
        let modules = match task {
            Task::Caption | Task::Ask => {
                self.captioner(task).map_or(Vec::new(), |c| c.modules(task))
            }
            _ => self.pack().manifest().tasks.modules(task),
        };
        for id in modules {
            if let Err(e) = self.0.registry.prefetch(id) {
                log::debug!("prefetch: {e}");
            }
        }
    }

    /// What was loaded, evicted and refused, and how the pressure changed.
    pub fn events(&self) -> &Events {
        self.0.registry.governor().events()
    }

    /// How short memory is, and which sources say so.
    pub fn pressure(&self) -> Pressure {
        self.0.keeper.pressure()
    }

    /// The application says how short memory is, until it says otherwise. What that leads to is done on return: at
    /// [`Level::Low`] caches are shrunk and idle modules parked, at [`Level::Critical`] idle modules are released.
    pub fn set_pressure(&self, level: Level) {
        self.0.keeper.set_pressure(level);
    }

    /// The application says once how short memory is, as Android's `onTrimMemory` does; the bytes that came back.
    pub fn trim(&self, level: Level) -> u64 {
        self.0.keeper.trim(level)
    }

    /// Changes the budget. What is held beyond it is evicted as far as it is idle.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a share out of range.
    pub fn set_budget(&self, budget: Budget) -> Result<()> {
        self.0.keeper.set_budget(budget)
    }

    /// Changes when unused modules are given up.
    pub fn set_idle(&self, idle: Idle) {
        self.0.keeper.set_idle(idle);
    }

    /// Every module of the pack as it is now.
    pub fn modules(&self) -> Vec<ModuleStatus> {
        self.0.registry.status()
    }

    /// Starts indexing one stream into `store`.
    ///
    /// # Errors
    /// As [`Ingest::start`](crate::task::ingest::Ingest::start).
    pub fn ingest(&self, store: &Store, options: &IngestOptions) -> Result<Indexing> {
        // Begun first: the store may have a say in which form of the encoder is loaded.
        let indexing = Indexing::start(&self.0.registry, store, options, None)?;
        self.prefetch(Task::Index);
        Ok(indexing)
    }

    /// As [`ingest`](Self::ingest); segments are captioned as they are stored, those of the stream that have no caption
    /// yet too. One thread does it for all streams of a store, behind everything else: capture, encoding and storing
    /// never wait for it, and what it cannot caption stays indexed.
    ///
    /// # Errors
    /// As [`ingest`](Self::ingest); [`ErrorKind::Unsupported`] when the pack cannot caption.
    pub fn ingest_captioned(&self, store: &Store, options: &IngestOptions) -> Result<Indexing> {
        let backlog = self.backlog(store)?;
        let indexing = Indexing::start(&self.0.registry, store, options, Some(backlog))?;
        self.prefetch(Task::Index);
        self.prefetch(Task::Caption);
        Ok(indexing)
    }

    /// Captions the segments of `stream` that have no caption of this pack yet; waits until that is done.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot caption,
    /// [`ErrorKind::ReadOnly`] on a store opened read-only.
    pub fn caption_stream(&self, store: &Store, stream: StreamId) -> Result<CaptionReport> {
        Ok(self.backlog(store)?.follow(stream).finish())
    }

    /// The thread that captions `store`'s segments; started by the first who needs it, ended with the last.
    fn backlog(&self, store: &Store) -> Result<Arc<Backlog>> {
        let captioner = self.segment_captioner()?;
        let mut backlogs = lock(&self.0.backlogs);
        backlogs.retain(|backlog| backlog.strong_count() > 0);
        let running = backlogs.iter().filter_map(Weak::upgrade);
        if let Some(found) = running.into_iter().find(|b| b.store().same_as(store)) {
            return Ok(found);
        }
        let started = Arc::new(Backlog::start(captioner, store)?);
        backlogs.push(Arc::downgrade(&started));
        Ok(started)
    }

    /// The features of one picture, without storing anything.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no index task, and what its modules report.
    pub fn observe(&self, frame: &Frame<'_>, control: &Control) -> Result<Features> {
        // Made for each picture: what it prepares pictures in would else be megabytes that nobody uses.
        VisualEncoder::new(&self.0.registry)?.encode(frame, control)
    }

    /// Those parts of the features of one picture that captions and answers are made of, without storing anything. Of several
    /// frames of one video, `source` says so.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has no visual encoder, and what its modules
    /// report.
    pub fn observe_for_text(
        &self,
        frame: &Frame<'_>,
        source: Source,
        control: &Control,
    ) -> Result<Features> {
        let mut encoder = VisualEncoder::for_pictures(&self.0.registry)?;
        let mut features = encoder.encode_parts(frame, source, self.text_parts(), control)?;
        features.time_ns = (source == Source::Video).then(|| frame.timestamp_ns());
        Ok(features)
    }

    /// What the captioner reads.
    pub(super) fn text_parts(&self) -> Parts {
        let captioner = self.0.captioner.as_ref();
        captioner.map_or(Parts::ALL, |captioner| captioner.reads())
    }

    /// The search vector of a picture, L2-normalised.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack makes none, and what its modules report.
    pub fn embed_picture(&self, frame: &Frame<'_>, control: &Control) -> Result<Vec<f32>> {
        let mut encoder = VisualEncoder::new(&self.0.registry)?;
        let parts = Parts::EMBEDDING;
        let features = encoder.encode_parts(frame, Source::Still, parts, control)?;
        if features.embedding.is_empty() {
            let id = &self.pack().manifest().id;
            let what = format!("pack {id:?} makes no search vectors of pictures");
            return Err(Error::new(ErrorKind::Unsupported, what).remedy(
                "use a pack whose visual encoder has an output with role = \"embedding\"",
            ));
        }
        Ok(features.embedding)
    }

    /// The search vector of words, L2-normalised, as searching uses it: in the pack's query template.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack cannot search, and what its modules report.
    pub fn embed_text(&self, words: &str, control: &Control) -> Result<Vec<f32>> {
        self.queries()?.embed(words, control)
    }

    /// Loads what captions and answers read of pictures that are handed over, ahead of need and on another thread.
    pub fn prefetch_for_text(&self) {
        let encoder = VisualEncoder::for_pictures(&self.0.registry);
        for id in encoder.iter().flat_map(|e| e.modules(self.text_parts())) {
            if let Err(e) = self.0.registry.prefetch(id) {
                log::debug!("prefetch: {e}");
            }
        }
    }

    /// The segments of `store` that fit the query, best first; empty when nothing does.
    ///
    /// # Errors
    /// As [`Searcher::search`]; [`ErrorKind::Unsupported`] when the pack cannot search.
    pub fn search(
        &self,
        store: &Store,
        query: &SearchQuery,
        control: &Control,
    ) -> Result<Vec<Hit>> {
        Searcher::new(self.queries()?).search(store, query, control)
    }

    /// A storyboard of segments of `store` for the lines of a script.
    ///
    /// # Errors
    /// As [`Assembler::assemble`]; [`ErrorKind::Unsupported`] when the pack cannot search.
    pub fn assemble(
        &self,
        store: &Store,
        query: &AssembleQuery,
        control: &Control,
    ) -> Result<Storyboard> {
        Assembler::new(self.queries()?).assemble(store, query, control)
    }

    fn queries(&self) -> Result<QueryEncoder> {
        match &self.0.queries {
            Some(queries) => Ok(queries.clone()),
            None => QueryEncoder::new(&self.0.registry),
        }
    }

    /// Runs every module that has one on its golden input and compares.
    ///
    /// # Errors
    /// A module that does not load or run; a low cosine is reported, not an error.
    pub fn golden(&self) -> Result<Vec<GoldenReport>> {
        self.0.registry.golden()
    }
}

/// A panic elsewhere leaves these values usable: they are only ever replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The store: opening, reading and searching. What changes it is in `write`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureSources, Features, Source, Variant};
use crate::os::file::sync_dir;

use super::blob::Blobs;
use super::catalogue::{Catalogue, SegmentRow};
use super::folder::{self, Folder};
use super::lock::WriterLock;
use super::map_files;
use super::mapped::Mapped;
use super::part::Part;
use super::segment::{self, Layout, SLOT_BITS};
use super::types::*;
use super::writer::{self, Writer};
use super::{schema, variant};

/// A persistent index: streams, their segments with features and keyframe thumbnails, and a search over them.
///
/// Cheap to clone; all clones are one store. Every method may be called from any thread. Appends, deletions and retention wait
/// for one another; searches and reads never wait for an append's disk writes. The store is closed when the last clone goes.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) path: PathBuf,
    pub(super) layout: Layout,
    pub(super) partition_bytes: u64,
    identity: Identity,
    pub(super) provenance: Provenance,
    pub(super) access: Access,
    view: RwLock<Arc<View>>,
    /// Ids of records whose checksum was wrong, each warned of once.
    corrupt: Mutex<HashSet<u64>>,
    pub(super) reader: Mutex<Reader>,
    pub(super) writer: Option<Mutex<Writer>>,
}

pub(super) struct Reader {
    pub(super) catalogue: Catalogue,
    /// Of the catalogue, when the view was last made from it.
    data_version: Option<i64>,
    /// By number; none is ever changed or removed.
    pub(super) origins: HashMap<i64, FeatureSources>,
}

/// What a search looks at: the live partitions and streams at one moment.
#[derive(Default)]
pub(super) struct View {
    pub(super) parts: Vec<Arc<Part>>,
    /// Records of segments that were appended anew.
    pub(super) replaced: HashSet<u64>,
    /// By stream id; `None` = deleted.
    names: Vec<Option<Arc<str>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.0.path)
            .field("access", &self.0.access)
            .finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in the folder `path`; with [`Access::ReadWrite`] a missing or empty folder becomes a new store.
    ///
    /// Opening for writing tidies up what an unclean end left behind: nothing acknowledged is lost, nothing else is kept.
    /// A reader on a medium it cannot write may see the store as it was when opened.
    ///
    /// # Errors
    /// `NotFound` (read-only and no store), `InvalidArgument` (the folder holds something else, or `options` are unusable),
    /// `StoreLocked` (another writer), `StoreVersion` (newer Atom), `StoreForeign` (another identity), `StoreCorrupt`,
    /// `ReadOnly`, `DiskFull`, `Io`.
    pub fn open(path: impl AsRef<Path>, options: &StoreOptions) -> Result<Store> {
        let path = path.as_ref();
        let wanted = &options.identity;
        if !(1..=65_536).contains(&wanted.dim) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "embeddings of {} values: 1 to 65536 are possible",
                    wanted.dim
                ),
            ));
        }
        let found = folder::inspect(path)?;
        let parts = path.join(folder::PARTS);
        let io = |p: &Path, e: &std::io::Error| Error::io(p.display(), e);
        let writing = match options.access {
            Access::ReadOnly if found != Folder::Store => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("no store at {}", path.display()),
                )
                .remedy("index a video into it first"));
            }
            Access::ReadOnly => None,
            Access::ReadWrite => {
                if found == Folder::Missing {
                    fs::create_dir_all(path).map_err(|e| io(path, &e))?;
                    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                        sync_dir(parent)?;
                    }
                }
                let lock = WriterLock::acquire(path)?;
                // Anew under the lock: the process before us may just have made the store.
                folder::inspect(path)?;
                fs::create_dir_all(&parts).map_err(|e| io(&parts, &e))?;
                let catalogue = match Catalogue::open_writer(path, options) {
                    // Retention has to be possible on a full disk, so opening too.
                    Err(e) if e.kind() == ErrorKind::DiskFull => {
                        writer::release_reserve(path);
                        Catalogue::open_writer(path, options)?
                    }
                    other => other?,
                };
                sync_dir(path)?;
                Some((catalogue, lock))
            }
        };
        let reader = Catalogue::open_reader(path)?;
        schema::check_identity(&reader.db, path, options)?;
        variant::check_known(path, &reader.db, &options.provenance)?;
        let stored = schema::stored(&reader.db, &options.provenance, wanted)?;
        let layout = Layout {
            folder: parts,
            dim: stored.identity.dim,
            store: stored.store,
            identity: stored.files,
        };
        let writing = match writing {
            Some((catalogue, lock)) => Some(Mutex::new(Writer::start(catalogue, lock, &layout)?)),
            None => None,
        };
        let store = Store(Arc::new(Inner {
            path: path.to_owned(),
            layout,
            partition_bytes: options.partition_bytes,
            identity: stored.identity,
            provenance: options.provenance.clone(),
            access: options.access,
            view: RwLock::default(),
            corrupt: Mutex::default(),
            reader: Mutex::new(Reader {
                catalogue: reader,
                data_version: None,
                origins: HashMap::new(),
            }),
            writer: writing,
        }));
        store.0.refresh()?;
        store.0.tell_outdated()?;
        Ok(store)
    }

    /// Whether both are clones of one opened store.
    pub fn same_as(&self, other: &Store) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What made the vectors.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What made the vectors; `None` in an empty store, and in one by a version of Atom that did not say.
    ///
    /// # Errors
    /// `StoreCorrupt`, `Io`.
    pub fn variant(&self) -> Result<Option<Variant>> {
        variant::read(&lock(&self.0.reader).catalogue.db, &self.0.provenance)
    }

    /// Whether vectors of `variant` may be added: those of two forms of a module are never compared.
    ///
    /// # Errors
    /// `StoreForeign`, naming both, when another made those that are there; `StoreCorrupt`, `Io`.
    pub fn check_variant(&self, variant: &Variant) -> Result<()> {
        variant::same(&self.0.path, self.variant()?.as_ref(), variant)
    }

    /// How the store was opened.
    pub fn access(&self) -> Access {
        self.0.access
    }

    /// All streams, in the order they were opened first.
    pub fn streams(&self) -> Result<Vec<Stream>> {
        lock(&self.0.reader).catalogue.streams()
    }

    /// The stream of that name.
    ///
    /// # Errors
    /// `NotFound`, naming the streams there are.
    pub fn stream(&self, name: &str) -> Result<Stream> {
        let reader = lock(&self.0.reader);
        if let Some(stream) = reader.catalogue.stream_named(name)? {
            return Ok(stream);
        }
        let streams = reader.catalogue.streams()?;
        let mut names: Vec<_> = streams.iter().take(10).map(|s| s.name.as_str()).collect();
        if streams.len() > names.len() {
            names.push("…");
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("no stream {name:?} in store {}", self.0.path.display()),
        )
        .remedy(if names.is_empty() {
            "it has no streams yet: index a video first".to_owned()
        } else {
            format!("it has: {}", names.join(", "))
        }))
    }

    /// End of the last segment of `stream`, from which indexing goes on; `None` when it has no segment.
    pub fn last_end_ns(&self, stream: StreamId) -> Result<Option<i64>> {
        let reader = lock(&self.0.reader);
        let last = reader.catalogue.segment_before(stream, i64::MAX)?;
        Ok(last.map(|s| s.end_ns))
    }

    /// The segments of `stream` that end at or after `from_ns` and start before `to_ns`, by start; `None` = unbounded.
    pub fn segments(
        &self,
        stream: StreamId,
        from_ns: Option<i64>,
        to_ns: Option<i64>,
    ) -> Result<Vec<Segment>> {
        let reader = lock(&self.0.reader);
        reader.catalogue.segments(stream, from_ns, to_ns)
    }

    /// The segment of `stream` that holds time `at_ns` (of two that meet there, the later); `None` in a gap.
    pub fn segment_at(&self, stream: StreamId, at_ns: i64) -> Result<Option<Segment>> {
        let reader = lock(&self.0.reader);
        let found = reader.catalogue.segment_before(stream, at_ns)?;
        Ok(found.filter(|s| s.end_ns >= at_ns))
    }

    /// The segment `id`.
    ///
    /// # Errors
    /// `NotFound`, also when retention or a deletion removed it.
    pub fn segment(&self, id: SegmentId) -> Result<Segment> {
        Ok(self.row(id)?.segment)
    }

    /// From the start of the first segment of `stream` to the end of its last, nanoseconds; `None` without segments.
    pub fn range(&self, stream: StreamId) -> Result<Option<(i64, i64)>> {
        lock(&self.0.reader).catalogue.range(stream)
    }

    /// The search vector of segment `id`, of the store's dimension.
    ///
    /// # Errors
    /// `NotFound`; `StoreCorrupt` when its bytes are damaged.
    pub fn embedding(&self, id: SegmentId) -> Result<Vec<f32>> {
        self.blob(id, Blobs::embedding)
    }

    /// The features of segment `id`. Parts that other modules made than those of [`StoreOptions::provenance`] are empty:
    /// detections of another detector say nothing in the words of this one.
    ///
    /// # Errors
    /// `NotFound`; `StoreCorrupt` when their bytes are damaged.
    pub fn features(&self, id: SegmentId) -> Result<Features> {
        let row = self.row(id)?;
        let mut features = self.blob_of(&row, Blobs::features)?;
        self.0.keep_current(row.origin, &mut features)?;
        if features.map.rows == 0 {
            let made_by = map_files::made_by(&self.0.provenance);
            let kept = map_files::read(&self.0.layout, id.0, Source::Still, made_by);
            features.map = kept.unwrap_or_default();
        }
        Ok(features)
    }

    /// The keyframe of segment `id` as JPEG; empty when it was appended without one.
    ///
    /// # Errors
    /// `NotFound`; `StoreCorrupt` when its bytes are damaged.
    pub fn thumbnail(&self, id: SegmentId) -> Result<Vec<u8>> {
        self.blob(id, Blobs::thumbnail)
    }

    /// Counts and sizes.
    pub fn stats(&self) -> Result<StoreStats> {
        let inner = &self.0;
        inner.refresh()?;
        let view = inner.view();
        let segments = lock(&inner.reader).catalogue.count()?;
        let size = |part: &Arc<Part>| {
            inner.layout.vec_bytes(part.records()) + inner.layout.sketch_bytes(part.partition)
        };
        let blobs = |part: &Arc<Part>| part.blob_bytes.load(std::sync::atomic::Ordering::Relaxed);
        Ok(StoreStats {
            streams: view.names.iter().flatten().count() as u64,
            segments,
            partitions: view.parts.len(),
            vector_bytes: view.parts.iter().map(size).sum(),
            blob_bytes: view.parts.iter().map(blobs).sum(),
            map_bytes: map_files::bytes(&inner.layout),
            catalogue_bytes: inner.catalogue_bytes(),
            corrupt_records: lock(&inner.corrupt).len() as u64,
            damaged_partitions: view.parts.iter().filter(|p| p.damaged()).count() as u64,
            outdated_segments: inner.outdated()?[0],
        })
    }

    pub(super) fn row(&self, id: SegmentId) -> Result<SegmentRow> {
        lock(&self.0.reader).catalogue.segment(id)
    }

    fn blob<T>(&self, id: SegmentId, read: fn(&Blobs, u64, u64) -> Result<T>) -> Result<T> {
        self.blob_of(&self.row(id)?, read)
    }

    fn blob_of<T>(&self, row: &SegmentRow, read: fn(&Blobs, u64, u64) -> Result<T>) -> Result<T> {
        let id = row.segment.id;
        let result = Blobs::open(&self.0.layout, id.0 >> SLOT_BITS)
            .and_then(|blobs| read(&blobs, row.blob_at, id.0));
        match result {
            Err(e) if e.kind() == ErrorKind::StoreCorrupt => {
                // Retention may have unlinked the file between the two steps; then this says so.
                self.row(id)?;
                self.0.note_corrupt(id.0, &e);
                Err(e)
            }
            other => other,
        }
    }
}

impl View {
    /// The stream's name; `None` when it is deleted.
    pub(super) fn name(&self, stream: u32) -> Option<&Arc<str>> {
        self.names.get(stream as usize)?.as_ref()
    }
}

impl Inner {
    pub(super) fn view(&self) -> Arc<View> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.clone()
    }

    /// Makes the view anew when another connection (this store's writer, or another process) has committed since.
    pub(super) fn refresh(&self) -> Result<()> {
        let mut reader = lock(&self.reader);
        let version = reader.catalogue.data_version()?;
        if reader.data_version == Some(version) {
            return Ok(());
        }
        // One transaction: partitions and streams of one moment.
        let rows = {
            let catalogue = &reader.catalogue;
            catalogue.run(|c| c.execute_batch("BEGIN"))?;
            let rows = catalogue
                .parts()
                .and_then(|parts| Ok((parts, catalogue.streams()?, catalogue.replaced()?)));
            catalogue.run(|c| c.execute_batch("ROLLBACK"))?;
            rows
        };
        let (parts, streams, replaced) = rows?;
        let old = self.view();
        let mut view = View {
            replaced,
            ..View::default()
        };
        for row in parts {
            let known = old.parts.iter().find(|p| p.partition == row.partition);
            let part = match known {
                Some(part) => {
                    part.acknowledge(row.records, row.blob_bytes);
                    part.clone()
                }
                None => Arc::new(Part::new(
                    &self.layout,
                    row.partition,
                    row.records,
                    row.blob_bytes,
                )),
            };
            view.parts.push(part);
        }
        for stream in streams {
            let at = stream.id.0 as usize;
            if view.names.len() <= at {
                view.names.resize(at + 1, None);
            }
            view.names[at] = Some(stream.name.into());
        }
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        reader.data_version = Some(version);
        Ok(())
    }

    /// The partition's records, or `None` when it is unusable: warned of once, then left out.
    pub(super) fn map(&self, part: &Arc<Part>) -> Option<Arc<Mapped>> {
        if part.damaged() {
            return None;
        }
        let mapped = part.map(&mut |slot, path| {
            let id = part.partition << SLOT_BITS | u64::from(slot);
            self.note_corrupt(id, &segment::corrupt(path, &format!("record {slot}")));
        });
        match mapped {
            Ok(mapped) => Some(mapped),
            Err(e) => {
                if self.still_has(part) && part.set_damaged() {
                    log::warn!("store {}: partition left out: {e}", self.path.display());
                }
                None
            }
        }
    }

    /// False when the partition was dropped since its view was made: then it is not damaged, only gone.
    pub(super) fn still_has(&self, part: &Arc<Part>) -> bool {
        self.refresh().is_ok() && self.view().parts.iter().any(|p| Arc::ptr_eq(p, part))
    }

    pub(super) fn note_corrupt(&self, id: u64, error: &Error) {
        if lock(&self.corrupt).insert(id) {
            log::warn!(
                "store {}: segment {id} left out: {error}",
                self.path.display()
            );
        }
    }

    pub(super) fn catalogue_bytes(&self) -> u64 {
        ["", "-wal", "-shm"]
            .iter()
            .filter_map(|suffix| {
                let name = format!("{}{suffix}", folder::CATALOGUE);
                fs::metadata(self.path.join(name)).ok()
            })
            .map(|meta| meta.len())
            .sum()
    }
}

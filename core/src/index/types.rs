//! What goes into a store and comes out of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureSources, Features, Variant};

/// A stream (one camera or file) of one store. Never reused, also not after the stream was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u32);

/// A segment of one store. Never reused, also not after the segment was deleted; below 2⁵³, so that JSON carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What made the vectors of a store: vectors of two identities are never compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hash of everything that decides the vectors, except which variant of the encoder made them: that is kept beside
    /// ([`Store::variant`](super::Store::variant)).
    pub hash: [u8; 32],
    /// Length of a search vector, 1..=65,536.
    pub dim: usize,
    /// For people: pack id, version and module.
    pub description: String,
}

/// Whether a store is opened to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Creates the store when the folder is missing or empty. One at a time, over all processes.
    ReadWrite,
    /// Any number, also beside a writer in another process. The store must exist.
    ReadOnly,
}

/// How [`Store::open`](super::Store::open) opens a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// What makes the vectors; a store of another identity is refused.
    pub identity: Identity,
    /// Reading only, or writing too.
    pub access: Access,
    /// Size in bytes at which a partition is closed and the next begun. [`Store::retain`](super::Store::retain) frees whole
    /// partitions, so a bound of `max_bytes` wants an eighth of it here or less.
    pub partition_bytes: u64,
    /// What else is known of the modules that fill the store.
    pub provenance: Provenance,
}

/// What is known of the modules that fill a store, besides the identity of its vectors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// The [canonical encoding](crate::identity) behind [`Identity::hash`]: lets an error name what differs. Empty where it
    /// is not known.
    pub encoding: Vec<u8>,
    /// The forms of the encoder that the pack has. A store with vectors of another form is refused; empty: of none.
    pub forms: Vec<Variant>,
    /// What makes the other features. Parts of stored features that something else made are left out when they are read.
    pub features: FeatureSources,
    /// Rows for the captioner that something else made, or that are missing, are made again from keyframes when they are asked
    /// for; so they are no loss that opening a store tells of.
    pub remakes_maps: bool,
    /// The same in the hashes of format 2, by which a store of that format is recognised.
    pub earlier: Option<Earlier>,
}

/// How a store of format 2 names what format 3 names otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The identity of everything that fills the store.
    pub identity: [u8; 32],
    /// Forms of the encoder: old hash, new hash.
    pub forms: Vec<([u8; 32], [u8; 32])>,
    /// Makers of captions whose captions are still valid: old name, new name.
    pub captions: Vec<(String, String)>,
}

impl Provenance {
    /// What format 2 called the maker of captions `maker`; `maker` itself where it had no other name.
    pub(super) fn earlier_maker<'a>(&'a self, maker: &'a str) -> &'a str {
        let mut renamed = self.earlier.iter().flat_map(|earlier| &earlier.captions);
        let found = renamed.find(|(_, new)| new == maker);
        found.map_or(maker, |(old, _)| old)
    }
}

impl StoreOptions {
    /// Options with the default partition size of 64 MiB, and nothing known besides the identity.
    pub fn new(identity: Identity, access: Access) -> Self {
        Self {
            identity,
            access,
            partition_bytes: 64 << 20,
            provenance: Provenance::default(),
        }
    }
}

/// Where the frames of a stream came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Path or URI, as the user gave it.
    pub uri: String,
    /// SHA-256 of the file. When both sides know it, it alone decides whether two sources are the same.
    pub sha256: Option<[u8; 32]>,
    /// Size of the file in bytes.
    pub bytes: Option<u64>,
}

impl Source {
    /// Whether both describe the same frames: by hash where both have one, else by URI and size.
    pub fn same_as(&self, other: &Source) -> bool {
        match (&self.sha256, &other.sha256) {
            (Some(a), Some(b)) => a == b,
            _ => self.uri == other.uri && self.bytes == other.bytes,
        }
    }
}

/// A stream to be opened by [`Store::open_stream`](super::Store::open_stream).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewStream {
    /// Its name: unique in the store, 1..=1024 bytes.
    pub name: String,
    /// The file behind it; `None` for a camera.
    pub source: Option<Source>,
    /// The boot whose monotonic clock the timestamps count in; `None` when they count in the file's or the wall clock.
    pub boot_id: Option<String>,
    /// Wall time (nanoseconds since 1970) at timestamp 0 of the stream's clock, when it is known.
    pub start_wall_ns: Option<i64>,
}

/// A stream of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// The file behind it; `None` for a camera.
    pub source: Option<Source>,
    /// The boot whose monotonic clock the timestamps count in.
    pub boot_id: Option<String>,
    /// Wall time (nanoseconds since 1970) at timestamp 0 of the stream's clock.
    pub start_wall_ns: Option<i64>,
    /// Whether the source was indexed to its end.
    pub complete: bool,
}

/// A segment to be appended.
#[derive(Debug, Clone, Copy)]
pub struct NewSegment<'a> {
    /// Start, nanoseconds in the stream's clock.
    pub start_ns: i64,
    /// End, not before the start.
    pub end_ns: i64,
    /// Time of the keyframe, within start..=end.
    pub keyframe_ns: i64,
    /// The features of the keyframe; every number finite, the embedding of the store's dimension and not zero.
    pub features: &'a Features,
    /// The keyframe as JPEG; may be empty.
    pub thumbnail: &'a [u8],
}

/// A segment of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// Its stream.
    pub stream: StreamId,
    /// The stream's name.
    pub stream_name: String,
    /// Start, nanoseconds in the stream's clock.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// Time of the keyframe.
    pub keyframe_ns: i64,
}

/// What was said of a segment, kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// Its length in tokens.
    pub tokens: u32,
    /// Why it ended, as a stable word.
    pub stop_reason: String,
    /// What it rests on, as JSON of whoever made it.
    pub grounds: String,
}

/// What a search asks for besides the vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// At most this many hits, at least 1.
    pub k: usize,
    /// Only this stream.
    pub stream: Option<StreamId>,
    /// Only segments that end at or after this, nanoseconds in the stream's clock.
    pub from_ns: Option<i64>,
    /// Only segments that start before this.
    pub to_ns: Option<i64>,
    /// Cosine below which a segment is no match.
    pub min_score: Option<f32>,
}

impl Filter {
    /// The best `k` of all segments, however poor.
    pub fn best(k: usize) -> Self {
        Self {
            k,
            stream: None,
            from_ns: None,
            to_ns: None,
            min_score: None,
        }
    }

    /// # Errors
    /// `InvalidArgument`: a `k` of 0, a NaN `min_score`, an empty range of time.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
        if self.k == 0 {
            return wrong("a search for no hits".to_owned());
        }
        if self.min_score.is_some_and(f32::is_nan) {
            return wrong("a search with a NaN as least score".to_owned());
        }
        match (self.from_ns, self.to_ns) {
            (Some(from), Some(to)) if from >= to => {
                wrong(format!("the time range from {from} ns to {to} ns is empty"))
            }
            _ => Ok(()),
        }
    }
}

/// A segment that a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The segment.
    pub segment: SegmentId,
    /// The stream's name.
    pub stream: String,
    /// Start of the segment, nanoseconds in the stream's clock.
    pub start_ns: i64,
    /// End of the segment.
    pub end_ns: i64,
    /// Time of its keyframe.
    pub keyframe_ns: i64,
    /// Cosine between query and embedding, -1..=1.
    pub score: f32,
}

/// What [`Store::retain`](super::Store::retain) removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retained {
    /// Partitions unlinked.
    pub partitions: usize,
    /// Segments in them.
    pub segments: u64,
    /// Bytes freed.
    pub bytes: u64,
}

/// The state of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreStats {
    /// Streams.
    pub streams: u64,
    /// Segments.
    pub segments: u64,
    /// Partitions.
    pub partitions: usize,
    /// Bytes of scan vectors and their sketches on disk; once searched they are mapped, clean and the kernel's to drop.
    pub vector_bytes: u64,
    /// Bytes of features and thumbnails on disk.
    pub blob_bytes: u64,
    /// Bytes of rows that captioners read, on disk.
    #[serde(default)]
    pub map_bytes: u64,
    /// Bytes of the catalogue on disk.
    pub catalogue_bytes: u64,
    /// Records seen since opening whose checksum is wrong; they are skipped.
    pub corrupt_records: u64,
    /// Partitions seen since opening that are missing, too short or not this store's; they are skipped.
    pub damaged_partitions: u64,
    /// Segments some of whose features were made by other modules than the pack has. Those features are left out; the
    /// vectors are searched as ever.
    pub outdated_segments: u64,
}

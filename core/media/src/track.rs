//! What is known of a video track before it is decoded.

use atom_core::frame::Rotation;

/// More frames than three days at 30 per second hold; a table beyond it is damage.
pub(crate) const MAX_SAMPLES: usize = 1 << 23;

/// One coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Where its bytes start in the file.
    pub(crate) offset: u64,
    /// How many there are.
    pub(crate) size: u32,
    /// Decoding can start here.
    pub(crate) sync: bool,
    /// When it is shown, in track ticks, edit list applied. Negative: never shown, only decoded.
    pub(crate) shown: i64,
}

/// Everything needed to decode the track.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) id: u32,
    /// Ticks per second, not zero.
    pub(crate) timescale: u32,
    /// Length in ticks.
    pub(crate) duration: u64,
    pub(crate) rotation: Rotation,
    /// Bytes of the length before each NAL unit: 1, 2 or 4.
    pub(crate) length_bytes: usize,
    /// Parameter sets, without start codes.
    pub(crate) sps: Vec<Vec<u8>>,
    pub(crate) pps: Vec<Vec<u8>>,
    /// In decoding order.
    pub(crate) samples: Vec<Sample>,
}

/// The shift of the edit list: shown = composition - media_time + delay.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Edit {
    pub(crate) media_time: i64,
    pub(crate) delay: i64,
}

impl Edit {
    pub(crate) fn shown(self, composition: i64) -> i64 {
        composition
            .saturating_sub(self.media_time)
            .saturating_add(self.delay)
    }
}

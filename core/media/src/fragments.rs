//! Fragmented MP4: samples described by `moof` boxes, as cameras and recorders write them.

use crate::boxes::{Fields, Flaw, child, children, need};
use crate::track::{Edit, MAX_SAMPLES, Sample, Track};

/// What a fragment that does not say otherwise uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

/// Set in a sample's flags when decoding cannot start there.
const NOT_SYNC: u32 = 0x0001_0000;

/// The defaults of track `id`.
pub(crate) fn defaults(moov: &[u8], id: u32) -> Result<Defaults, Flaw> {
    let Some(mvex) = child(moov, b"mvex")? else {
        return Ok(Defaults::default());
    };
    for found in children(mvex) {
        let (kind, body) = found?;
        let mut fields = Fields::new(body);
        if &kind != b"trex" {
            continue;
        }
        fields.version_flags()?;
        if fields.u32()? == id {
            fields.u32()?;
            return Ok(Defaults {
                duration: fields.u32()?,
                size: fields.u32()?,
                flags: fields.u32()?,
            });
        }
    }
    Ok(Defaults::default())
}

/// Adds the samples of every fragment of the track; those beyond the end of the file are left out.
pub(crate) fn append(
    track: &mut Track,
    moofs: &[(u64, Vec<u8>)],
    defaults: Defaults,
    edit: Edit,
    len: u64,
) -> Result<(), Flaw> {
    let mut decoded = 0;
    let mut whole = true;
    for (start, moof) in moofs {
        // Without an explicit base, a fragment's data follows that of the one before it in the same moof.
        let mut next_data = *start;
        for found in children(moof) {
            let (kind, traf) = found?;
            if &kind != b"traf" {
                continue;
            }
            let mut tfhd = Fields::new(need(traf, b"tfhd")?);
            let (_, flags) = tfhd.version_flags()?;
            let id = tfhd.u32()?;
            let base = match flags & 1 {
                0 if flags & 0x02_0000 != 0 => *start,
                0 => next_data,
                _ => tfhd.u64()?,
            };
            if flags & 2 != 0 {
                tfhd.u32()?;
            }
            let mut own = defaults;
            for (bit, value) in [
                (0x08, &mut own.duration),
                (0x10, &mut own.size),
                (0x20, &mut own.flags),
            ] {
                if flags & bit != 0 {
                    *value = tfhd.u32()?;
                }
            }
            if id == track.id
                && let Some(tfdt) = child(traf, b"tfdt")?
            {
                let mut tfdt = Fields::new(tfdt);
                let (version, _) = tfdt.version_flags()?;
                decoded = i64::try_from(tfdt.u32_or_u64(version == 1)?)
                    .map_err(|_| "a fragment starts beyond all time")?;
            }
            let mut at = base;
            for found in children(traf) {
                let (kind, trun) = found?;
                if &kind != b"trun" {
                    continue;
                }
                let run = Run::read(trun, own)?;
                if let Some(offset) = run.offset {
                    at = base
                        .checked_add_signed(offset.into())
                        .ok_or("a fragment's data lies before the file")?;
                }
                if id != track.id {
                    at = at.saturating_add(run.bytes()?);
                    continue;
                }
                for sample in run {
                    let sample = sample?;
                    let end = at
                        .checked_add(sample.size.into())
                        .ok_or("a picture lies beyond every file")?;
                    // Once one is cut off, those after it depend on it.
                    whole &= end <= len;
                    // An empty sample is no picture; and without data, nothing bounds their number.
                    if whole && sample.size > 0 {
                        track.samples.push(Sample {
                            offset: at,
                            size: sample.size,
                            sync: sample.flags & NOT_SYNC == 0,
                            shown: edit
                                .shown(decoded)
                                .saturating_add(sample.composition.into()),
                        });
                    }
                    if track.samples.len() > MAX_SAMPLES {
                        return Err(format!("more than {MAX_SAMPLES} pictures"));
                    }
                    at = end;
                    decoded = decoded.saturating_add(sample.duration.into());
                }
            }
            next_data = at;
        }
    }
    if !whole {
        log::warn!("the last fragment is cut off at byte {len}; its missing pictures are left out");
    }
    track.duration = track
        .duration
        .max(u64::try_from(decoded).unwrap_or_default());
    Ok(())
}

struct Described {
    duration: u32,
    size: u32,
    flags: u32,
    composition: i32,
}

/// The samples of one `trun`.
struct Run<'a> {
    fields: Fields<'a>,
    present: u32,
    left: u32,
    offset: Option<i32>,
    first_flags: Option<u32>,
    defaults: Defaults,
}

impl<'a> Run<'a> {
    fn read(trun: &'a [u8], defaults: Defaults) -> Result<Self, Flaw> {
        let mut fields = Fields::new(trun);
        let (_, present) = fields.version_flags()?;
        let left = fields.u32()?;
        // Without any field of their own, the number of samples is bounded by nothing else.
        if left as usize > MAX_SAMPLES {
            return Err(format!("a fragment of {left} pictures"));
        }
        Ok(Self {
            offset: if present & 1 != 0 {
                Some(fields.i32()?)
            } else {
                None
            },
            first_flags: if present & 4 != 0 {
                Some(fields.u32()?)
            } else {
                None
            },
            fields,
            present,
            left,
            defaults,
        })
    }

    /// Bytes of data of the whole run.
    fn bytes(self) -> Result<u64, Flaw> {
        self.map(|sample| sample.map(|s| u64::from(s.size))).sum()
    }

    fn sample(&mut self) -> Result<Described, Flaw> {
        let mut field = |bit: u32, default: u32| {
            if self.present & bit != 0 {
                self.fields.u32()
            } else {
                Ok(default)
            }
        };
        let duration = field(0x100, self.defaults.duration)?;
        let size = field(0x200, self.defaults.size)?;
        let flags = field(0x400, self.defaults.flags)?;
        let composition = field(0x800, 0)? as i32;
        Ok(Described {
            duration,
            size,
            flags: self.first_flags.take().unwrap_or(flags),
            composition,
        })
    }
}

impl Iterator for Run<'_> {
    type Item = Result<Described, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let sample = self.sample();
        if sample.is_err() {
            self.left = 0;
        }
        Some(sample)
    }
}

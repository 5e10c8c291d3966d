//! The one H.264 track of an MP4 or QuickTime file: where its samples lie and when they are shown.

use std::fs::File;
use std::os::unix::fs::FileExt;

use atom_core::frame::Rotation;

use crate::boxes::{Fields, Flaw, child, children, header, need};
use crate::fragments;
use crate::track::{Edit, MAX_SAMPLES, Sample, Track};

/// Headers of a film of that length stay well below this.
const MAX_HEADER_BYTES: u64 = 256 << 20;

/// What an MP4 or QuickTime file can start with.
const FIRST_BOXES: [&[u8; 4]; 10] = [
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"uuid",
];

/// Finds the track in a file of `len` bytes.
pub(crate) fn read(file: &File, len: u64) -> Result<Track, Flaw> {
    if len == 0 {
        return Err("the file is empty".into());
    }
    let mut moov = None;
    let mut moofs = Vec::new();
    let mut at = 0;
    while at < len {
        let mut head = [0; 16];
        let known = (len - at).min(16) as usize;
        read_at(file, &mut head[..known], at)?;
        let (kind, head_len, size) = match header(&head[..known]) {
            Ok(found) => found,
            // Padding after the last box is common; anything before the headers is not MP4.
            Err(_) if moov.is_some() => break,
            Err(flaw) => return Err(format!("this is not an MP4 file: {flaw}")),
        };
        if at == 0 && !FIRST_BOXES.contains(&&kind) {
            return Err("this is not an MP4 file".into());
        }
        let size = size.unwrap_or(len - at);
        let whole = at.checked_add(size).is_some_and(|end| end <= len);
        match &kind {
            b"moov" | b"moof" if !whole => {
                if moov.is_none() {
                    return Err(format!(
                        "the file is truncated: its headers end at byte {}, the file at {len}",
                        at.saturating_add(size)
                    ));
                }
                log::warn!("the last fragment is cut off at byte {len} and left out");
                break;
            }
            b"moov" | b"moof" => {
                if size > MAX_HEADER_BYTES {
                    return Err(format!("its headers of {size} bytes are too large"));
                }
                let mut body = vec![0; (size - head_len) as usize];
                read_at(file, &mut body, at + head_len)?;
                if &kind == b"moov" {
                    moov = Some(body);
                } else {
                    moofs.push((at, body));
                }
            }
            _ => {}
        }
        match at.checked_add(size) {
            Some(next) => at = next,
            None => break,
        }
    }
    let Some(moov) = moov else {
        return Err(if at > len {
            format!(
                "the file is truncated: its boxes end at byte {at}, the file at {len}, before its headers"
            )
        } else {
            "this is not an MP4 file, or it was never finished: it has no \"moov\" box".into()
        });
    };
    let movie_scale = movie_timescale(need(&moov, b"mvhd")?)?;
    let mut other = None;
    for found in children(&moov) {
        let (kind, body) = found?;
        if &kind != b"trak" {
            continue;
        }
        match trak(body, movie_scale, len)? {
            Found::H264(mut track, edit) => {
                if moofs.is_empty() {
                    let end = track
                        .samples
                        .iter()
                        .map(|s| s.offset + u64::from(s.size))
                        .max();
                    if let Some(end) = end.filter(|&end| end > len) {
                        return Err(format!(
                            "the file is truncated: its pictures end at byte {end}, the file at {len}"
                        ));
                    }
                } else {
                    let defaults = fragments::defaults(&moov, track.id)?;
                    fragments::append(&mut track, &moofs, defaults, edit.unwrap_or_default(), len)?;
                }
                let first = track.samples.iter().map(|s| s.shown).min();
                let Some(first) = first else {
                    return Err("its video track has no pictures".into());
                };
                if edit.is_none() {
                    // Nothing says where the film starts: its first picture does.
                    for sample in &mut track.samples {
                        sample.shown = sample.shown.saturating_sub(first);
                    }
                }
                return Ok(track);
            }
            Found::OtherVideo(codec) => other = Some(codec),
            Found::NotVideo => {}
        }
    }
    Err(match other {
        Some(codec) => format!("its video is {codec}, only H.264 is read"),
        None => "it has no video track".into(),
    })
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<(), Flaw> {
    file.read_exact_at(buffer, at)
        .map_err(|e| format!("reading {} bytes at {at}: {e}", buffer.len()))
}

fn movie_timescale(mvhd: &[u8]) -> Result<u32, Flaw> {
    let mut fields = Fields::new(mvhd);
    let (version, _) = fields.version_flags()?;
    fields.take(if version == 1 { 16 } else { 8 })?;
    fields.u32()
}

enum Found {
    /// The track, and its edit list if it has one.
    H264(Track, Option<Edit>),
    OtherVideo(String),
    NotVideo,
}

fn trak(trak: &[u8], movie_scale: u32, len: u64) -> Result<Found, Flaw> {
    let mdia = need(trak, b"mdia")?;
    let mut hdlr = Fields::new(need(mdia, b"hdlr")?);
    hdlr.take(8)?;
    if hdlr.take(4)? != b"vide" {
        return Ok(Found::NotVideo);
    }
    let stbl = need(need(mdia, b"minf")?, b"stbl")?;
    let avcc = match sample_entry(need(stbl, b"stsd")?)? {
        Entry::H264(avcc) => avcc,
        Entry::Other(codec) => return Ok(Found::OtherVideo(codec)),
    };
    let (id, rotation) = track_header(need(trak, b"tkhd")?)?;
    let mut mdhd = Fields::new(need(mdia, b"mdhd")?);
    let (version, _) = mdhd.version_flags()?;
    mdhd.take(if version == 1 { 16 } else { 8 })?;
    let timescale = mdhd.u32()?;
    if timescale == 0 {
        return Err("its video track has a clock of 0 ticks per second".into());
    }
    let duration = mdhd.u32_or_u64(version == 1)?;
    let edit = match child(trak, b"edts")? {
        Some(edts) => edit_list(edts, movie_scale, timescale)?,
        None => None,
    };
    let (length_bytes, sps, pps) = parameter_sets(avcc)?;
    let samples = sample_table(stbl, edit.unwrap_or_default(), len)?;
    Ok(Found::H264(
        Track {
            id,
            timescale,
            duration,
            rotation,
            length_bytes,
            sps,
            pps,
            samples,
        },
        edit,
    ))
}

fn track_header(tkhd: &[u8]) -> Result<(u32, Rotation), Flaw> {
    let mut fields = Fields::new(tkhd);
    let (version, _) = fields.version_flags()?;
    let wide = version == 1;
    fields.take(if wide { 16 } else { 8 })?;
    let id = fields.u32()?;
    fields.take(if wide { 12 } else { 8 } + 16)?;
    let (a, b) = (fields.i32()?, fields.i32()?);
    fields.i32()?;
    let (c, d) = (fields.i32()?, fields.i32()?);
    // x' = a x + c y, y' = b x + d y. Mirrored and sheared pictures are left as they are.
    let rotation = match (a.signum(), b.signum(), c.signum(), d.signum()) {
        (0, 1, -1, 0) => Rotation::R90,
        (-1, 0, 0, -1) => Rotation::R180,
        (0, -1, 1, 0) => Rotation::R270,
        _ => Rotation::R0,
    };
    Ok((id, rotation))
}

/// The first edit that shows something, after the empty ones before it. Later edits are not followed.
fn edit_list(edts: &[u8], movie_scale: u32, timescale: u32) -> Result<Option<Edit>, Flaw> {
    let Some(elst) = child(edts, b"elst")? else {
        return Ok(None);
    };
    let mut fields = Fields::new(elst);
    let (version, _) = fields.version_flags()?;
    let wide = version == 1;
    let mut edit = Edit::default();
    for entry in fields.table(if wide { 20 } else { 12 })? {
        let mut entry = Fields::new(entry);
        let length = entry.u32_or_u64(wide)?;
        let media_time = if wide {
            entry.u64()? as i64
        } else {
            i64::from(entry.i32()?)
        };
        if media_time >= 0 {
            edit.media_time = media_time;
            break;
        }
        let ticks = u128::from(length) * u128::from(timescale) / u128::from(movie_scale.max(1));
        edit.delay = edit
            .delay
            .saturating_add(i64::try_from(ticks).unwrap_or(i64::MAX));
    }
    // A delay of centuries is damage; times must fit nanoseconds.
    if edit.delay.max(edit.media_time) / i64::from(timescale) > 1 << 31 {
        return Err("its edit list starts after more than 68 years".into());
    }
    Ok(Some(edit))
}

enum Entry<'a> {
    H264(&'a [u8]),
    Other(String),
}

fn sample_entry(stsd: &[u8]) -> Result<Entry<'_>, Flaw> {
    let mut fields = Fields::new(stsd);
    fields.take(8)?;
    let mut other = None;
    for found in children(fields.rest()) {
        let (kind, body) = found?;
        match &kind {
            b"avc1" | b"avc3" => {
                let mut entry = Fields::new(body);
                entry.take(78)?;
                return Ok(Entry::H264(need(entry.rest(), b"avcC")?));
            }
            b"hvc1" | b"hev1" => other = Some("HEVC (H.265)".to_owned()),
            b"av01" => other = Some("AV1".to_owned()),
            b"vp08" | b"vp09" => other = Some("VP8 or VP9".to_owned()),
            b"encv" => other = Some("encrypted".to_owned()),
            _ => other = Some(format!("of type {:?}", String::from_utf8_lossy(&kind))),
        }
    }
    other
        .map(Entry::Other)
        .ok_or_else(|| "its video track describes no pictures".into())
}

type ParameterSets = (usize, Vec<Vec<u8>>, Vec<Vec<u8>>);

fn parameter_sets(avcc: &[u8]) -> Result<ParameterSets, Flaw> {
    let mut fields = Fields::new(avcc);
    fields.take(4)?;
    let length_bytes = usize::from(fields.u8()? & 3) + 1;
    if length_bytes == 3 {
        return Err("its NAL unit lengths have 3 bytes".into());
    }
    let sps_count = fields.u8()? & 0x1f;
    let sps = nal_units(&mut fields, sps_count)?;
    let pps_count = fields.u8()?;
    let pps = nal_units(&mut fields, pps_count)?;
    Ok((length_bytes, sps, pps))
}

fn nal_units(fields: &mut Fields<'_>, count: u8) -> Result<Vec<Vec<u8>>, Flaw> {
    (0..count)
        .map(|_| {
            let len = fields.u16()?;
            Ok(fields.take(len.into())?.to_vec())
        })
        .collect()
}

/// A run-length coded column of the sample table: (samples, value).
struct Runs<'a> {
    entries: std::slice::ChunksExact<'a, u8>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(entries: std::slice::ChunksExact<'a, u8>) -> Self {
        Self {
            entries,
            left: 0,
            value: 0,
        }
    }

    /// The value of the next sample; the last one goes on when the table is short.
    fn next(&mut self) -> Result<u32, Flaw> {
        while self.left == 0 {
            let Some(entry) = self.entries.next() else {
                return Ok(self.value);
            };
            let mut entry = Fields::new(entry);
            self.left = entry.u32()?;
            self.value = entry.u32()?;
        }
        self.left -= 1;
        Ok(self.value)
    }
}

fn full_box(body: &[u8]) -> Result<Fields<'_>, Flaw> {
    let mut fields = Fields::new(body);
    fields.version_flags()?;
    Ok(fields)
}

/// Every sample of a plain file; none for a fragmented one.
fn sample_table(stbl: &[u8], edit: Edit, len: u64) -> Result<Vec<Sample>, Flaw> {
    let mut stsz = full_box(need(stbl, b"stsz")?)?;
    let fixed = stsz.u32()?;
    let count = {
        let mut peek = stsz;
        peek.u32()? as usize
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MAX_SAMPLES || (count as u64).saturating_mul(fixed.into()) > len {
        return Err(format!("a table of {count} pictures does not fit the file"));
    }
    let mut sizes = if fixed == 0 {
        Some(stsz.table(4)?)
    } else {
        None
    };
    let (offsets, wide) = match child(stbl, b"stco")? {
        Some(stco) => (full_box(stco)?.table(4)?, false),
        None => (full_box(need(stbl, b"co64")?)?.table(8)?, true),
    };
    let mut stsc = full_box(need(stbl, b"stsc")?)?.table(12)?.peekable();
    let mut stts = Runs::new(full_box(need(stbl, b"stts")?)?.table(8)?);
    let mut ctts = match child(stbl, b"ctts")? {
        Some(ctts) => Some(Runs::new(full_box(ctts)?.table(8)?)),
        None => None,
    };
    let mut sync = match child(stbl, b"stss")? {
        Some(stss) => Some(full_box(stss)?.table(4)?.peekable()),
        None => None,
    };

    let mut samples = Vec::with_capacity(count);
    let mut decoded: i64 = 0;
    let mut per_chunk = 0;
    // Of the next sample, counted from 1 as `stss` does.
    let mut number: u64 = 1;
    'chunks: for (chunk, offset) in offsets.enumerate() {
        // An entry holds from its first chunk (counted from 1) to the next entry's.
        while let Some(entry) = stsc.peek() {
            let mut entry = Fields::new(entry);
            if u64::from(entry.u32()?) > chunk as u64 + 1 {
                break;
            }
            per_chunk = entry.u32()?;
            stsc.next();
        }
        let mut at = Fields::new(offset).u32_or_u64(wide)?;
        for _ in 0..per_chunk {
            if number > count as u64 {
                break 'chunks;
            }
            let size = match &mut sizes {
                Some(sizes) => match sizes.next() {
                    Some(size) => Fields::new(size).u32()?,
                    None => break 'chunks,
                },
                None => fixed,
            };
            // Version 0 calls the offset unsigned, but writers put negative ones there too.
            let composition = match &mut ctts {
                Some(ctts) => decoded.saturating_add((ctts.next()? as i32).into()),
                None => decoded,
            };
            let is_sync = match &mut sync {
                None => true,
                Some(numbers) => {
                    let mut found = false;
                    while let Some(entry) = numbers.peek() {
                        let listed = u64::from(Fields::new(entry).u32()?);
                        if listed > number {
                            break;
                        }
                        found |= listed == number;
                        numbers.next();
                    }
                    found
                }
            };
            // An empty sample is no picture.
            number += 1;
            if size == 0 {
                decoded = decoded.saturating_add(stts.next()?.into());
                continue;
            }
            samples.push(Sample {
                offset: at,
                size,
                sync: is_sync,
                shown: edit.shown(composition),
            });
            at = at
                .checked_add(size.into())
                .ok_or("a picture lies beyond every file")?;
            decoded = decoded.saturating_add(stts.next()?.into());
        }
    }
    if number <= count as u64 {
        return Err(format!(
            "its tables place {} of {count} pictures",
            number - 1
        ));
    }
    Ok(samples)
}

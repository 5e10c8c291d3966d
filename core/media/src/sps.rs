//! What a sequence parameter set says about the pictures (ITU-T H.264, 7.3.2.1 and annex E).

use atom_core::frame::{ColourMatrix, ColourRange, MAX_SIDE};

use crate::boxes::Flaw;

/// The pictures of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Cropped size in pixels.
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) matrix: ColourMatrix,
    pub(crate) range: ColourRange,
}

/// More pixels than 8192 x 4320 hold are refused: the decoder would allocate several such pictures.
const MAX_PIXELS: u64 = 8192 * 4320;

/// Reads an SPS NAL unit, header byte included.
///
/// # Errors
/// Damaged, or pictures the decoder cannot decode: not 8-bit 4:2:0, interlaced, too large.
pub(crate) fn parse(nal: &[u8]) -> Result<Sequence, Flaw> {
    let bits = &mut Bits::new(nal);
    read(bits).ok_or("its sequence parameters are damaged")?
}

fn read(bits: &mut Bits) -> Option<Result<Sequence, Flaw>> {
    bits.skip(8)?;
    let profile = bits.get(8)?;
    bits.skip(16)?;
    bits.ue()?;
    if matches!(
        profile,
        100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
    ) {
        let chroma = bits.ue()?;
        if chroma == 3 {
            bits.skip(1)?;
        }
        let (luma_depth, chroma_depth) = (bits.ue()?, bits.ue()?);
        if chroma != 1 || luma_depth != 0 || chroma_depth != 0 {
            return Some(Err("its pictures are not 8-bit 4:2:0".into()));
        }
        bits.skip(1)?;
        if bits.flag()? {
            for list in 0..8 {
                if bits.flag()? {
                    scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?;
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.skip(1)?;
            bits.ue()?;
            bits.ue()?;
            for _ in 0..bits.ue()?.min(255) {
                bits.ue()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.skip(1)?;
    let columns = u64::from(bits.ue()?) + 1;
    let rows = u64::from(bits.ue()?) + 1;
    if !bits.flag()? {
        return Some(Err("its pictures are interlaced".into()));
    }
    bits.skip(1)?;
    let mut crop = [0u64; 4];
    if bits.flag()? {
        for side in &mut crop {
            *side = u64::from(bits.ue()?) * 2;
        }
    }
    let (coded_width, coded_height) = (columns * 16, rows * 16);
    let limit = u64::from(MAX_SIDE);
    if coded_width > limit || coded_height > limit || coded_width * coded_height > MAX_PIXELS {
        return Some(Err(format!(
            "its pictures of {coded_width}x{coded_height} are too large"
        )));
    }
    let [left, right, top, bottom] = crop;
    let width = coded_width.checked_sub(left + right).filter(|&w| w > 0)?;
    let height = coded_height.checked_sub(top + bottom).filter(|&h| h > 0)?;
    let mut range = ColourRange::Limited;
    // High definition is BT.709 unless it says otherwise, as every player assumes.
    let mut matrix = if height >= 720 {
        ColourMatrix::Bt709
    } else {
        ColourMatrix::Bt601
    };
    if bits.flag()? {
        // A damaged or cut-off tail of the colour description leaves what is known so far.
        let _ = colour(bits, &mut range, &mut matrix);
    }
    Some(Ok(Sequence {
        width: width as u32,
        height: height as u32,
        matrix,
        range,
    }))
}

fn colour(bits: &mut Bits, range: &mut ColourRange, matrix: &mut ColourMatrix) -> Option<()> {
    const EXTENDED_SHAPE: u32 = 255;
    if bits.flag()? && bits.get(8)? == EXTENDED_SHAPE {
        bits.skip(32)?;
    }
    if bits.flag()? {
        bits.skip(1)?;
    }
    if bits.flag()? {
        bits.skip(3)?;
        if bits.flag()? {
            *range = ColourRange::Full;
        }
        if bits.flag()? {
            bits.skip(16)?;
            match bits.get(8)? {
                // BT.2020 and SMPTE 240M lie far closer to BT.709.
                1 | 7 | 9 | 10 => *matrix = ColourMatrix::Bt709,
                4..=6 => *matrix = ColourMatrix::Bt601,
                _ => {}
            }
        }
    }
    Some(())
}

fn scaling_list(bits: &mut Bits, len: usize) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..len {
        if next != 0 {
            next = (last + bits.se()? + 256).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Bits of a NAL unit, emulation prevention removed.
struct Bits {
    data: Vec<u8>,
    at: usize,
}

impl Bits {
    fn new(nal: &[u8]) -> Self {
        let mut data = Vec::with_capacity(nal.len());
        let mut zeros = 0;
        for &byte in nal {
            if byte == 3 && zeros >= 2 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            data.push(byte);
        }
        Self { data, at: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    fn get(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.data.len() * 8).then_some(())
    }

    /// An unsigned Exp-Golomb code.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let tail = self.get(zeros)?;
        ((1u64 << zeros) - 1 + u64::from(tail)).try_into().ok()
    }

    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 0 {
            -code / 2
        } else {
            (code + 1) / 2
        })
    }
}

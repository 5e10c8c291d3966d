//! The Exif tag that says how a picture is to be turned.

/// Bytes of a pixel.
const CHANNELS: usize = 3;
/// The tag's number.
const TAG: u16 = 0x0112;

/// What puts a stored picture upright: a turn over the diagonal first, then mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Orientation {
    /// Rows become columns.
    transpose: bool,
    mirror_x: bool,
    mirror_y: bool,
}

/// The orientation in Exif data, with or without the `Exif` mark before it; none for data that says none or is damaged, as
/// viewers do.
pub(crate) fn orientation(exif: &[u8]) -> Orientation {
    let (transpose, mirror_x, mirror_y) = match tag(exif) {
        Some(2) => (false, true, false),
        Some(3) => (false, true, true),
        Some(4) => (false, false, true),
        Some(5) => (true, false, false),
        Some(6) => (true, true, false),
        Some(7) => (true, true, true),
        Some(8) => (true, false, true),
        _ => (false, false, false),
    };
    Orientation {
        transpose,
        mirror_x,
        mirror_y,
    }
}

/// The tag's value in the first directory.
fn tag(exif: &[u8]) -> Option<u16> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let little = match tiff.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes: [u8; 2] = tiff.get(at..)?.get(..2)?.try_into().ok()?;
        Some(match little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    };
    let bytes: [u8; 4] = tiff.get(4..8)?.try_into().ok()?;
    let directory = match little {
        true => u32::from_le_bytes(bytes),
        false => u32::from_be_bytes(bytes),
    } as usize;
    let entries = usize::from(short(directory)?);
    let entry = |index: usize| directory.checked_add(2 + index * 12);
    let found = (0..entries)
        .filter_map(entry)
        .find(|at| short(*at) == Some(TAG))?;
    short(found.checked_add(8)?)
}

impl Orientation {
    /// The picture upright.
    pub(crate) fn apply(self, width: u32, height: u32, rgb: Vec<u8>) -> (u32, u32, Vec<u8>) {
        if self == Self::default() {
            return (width, height, rgb);
        }
        let (w, h) = (width as usize, height as usize);
        let (to_w, to_h) = if self.transpose { (h, w) } else { (w, h) };
        let pixels = rgb.as_chunks::<CHANNELS>().0;
        let mut turned = Vec::with_capacity(rgb.len());
        for y in 0..to_h {
            for x in 0..to_w {
                let x = if self.mirror_x { to_w - 1 - x } else { x };
                let y = if self.mirror_y { to_h - 1 - y } else { y };
                let (from_x, from_y) = if self.transpose { (y, x) } else { (x, y) };
                turned.extend_from_slice(&pixels[from_y * w + from_x]);
            }
        }
        match self.transpose {
            true => (height, width, turned),
            false => (width, height, turned),
        }
    }
}

//! Picture files to frames: PNG and JPEG, recognised by their content.
//!
//! Pixels are what Pillow's `convert("RGB")` makes of the file after `ImageOps.exif_transpose`: opacity is dropped, grey and
//! palettes become R, G and B, colour profiles are not applied. Two things differ. Of 16 bits the upper eight are taken, also
//! for grey, which Pillow cuts off at 255. JPEG decoders differ by a level or two.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use atom_core::frame::{FrameBuf, FrameFormat, MAX_SIDE, PixelFormat};
use atom_core::{Error, ErrorKind, Result};
use png::{ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::orientation::orientation;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Pixels of the largest picture: 288 MB as R G B.
const MAX_PIXELS: u64 = 96 << 20;
/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// What a file begins like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Png,
    Jpeg,
    /// A kind of picture that is not read.
    Other(&'static str),
}

impl Kind {
    fn of(head: &[u8]) -> Option<Self> {
        let brand = head.get(4..12).unwrap_or_default();
        Some(match head {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [b'G', b'I', b'F', b'8', ..] => Self::Other("GIF"),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Self::Other("WebP"),
            [b'B', b'M', ..] => Self::Other("BMP"),
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Self::Other("TIFF"),
            _ if [&b"ftypheic"[..], b"ftypheix", b"ftypmif1", b"ftypavif"].contains(&brand) => {
                Self::Other("HEIC or AVIF")
            }
            _ => return None,
        })
    }
}

/// Whether the file at `path` begins as a picture does, of any kind; a video does not.
///
/// # Errors
/// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] if the file cannot be read, [`ErrorKind::BadMedia`] if it is not a regular file.
pub fn is_picture(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let read = open(path)?.0.take(16).read_to_end(&mut head);
    read.map_err(|error| Error::io(path.display(), &error))?;
    Ok(Kind::of(&head).is_some())
}

/// Reads the picture in the file at `path`, PNG or JPEG by its content, whatever it is called.
///
/// # Errors
/// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] if the file cannot be read; [`ErrorKind::BadMedia`], naming the file and what is
/// wrong, if it is no regular file, of another kind, damaged or truncated, or holds more pixels than are read.
pub fn read_picture(path: &Path) -> Result<FrameBuf> {
    let (file, length) = open(path)?;
    let name = path.display().to_string();
    if length > MAX_FILE_BYTES {
        let what = format!("{length} bytes, and at most {MAX_FILE_BYTES} are read");
        return Err(bad(&name, what));
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| Error::io(&name, &error))?;
    decode_picture(&name, &bytes)
}

/// The picture in `bytes`, PNG or JPEG by its content. `name` is for errors.
///
/// # Errors
/// [`ErrorKind::BadMedia`], as [`read_picture`].
pub fn decode_picture(name: &str, bytes: &[u8]) -> Result<FrameBuf> {
    let decoded = match Kind::of(bytes) {
        Some(Kind::Png) => png(bytes),
        Some(Kind::Jpeg) => jpeg(bytes),
        Some(Kind::Other(kind)) => Err(format!("a {kind} picture, and PNG and JPEG are read")),
        None if bytes.is_empty() => Err("the file is empty".into()),
        None => Err("neither a PNG nor a JPEG picture".into()),
    };
    let (width, height, rgb) = decoded.map_err(|flaw| bad(name, flaw))?;
    let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
    FrameBuf::from_vec(format, rgb, 0).map_err(|error| bad(name, error.message()))
}

/// Width, height and R G B of each pixel, upright.
type Decoded = (u32, u32, Vec<u8>);

fn png(bytes: &[u8]) -> Result<Decoded, String> {
    let flaw = |error: png::DecodingError| match error {
        png::DecodingError::LimitsExceeded => "it needs too much memory to decode".to_owned(),
        other => format!("a damaged PNG: {other}"),
    };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // Palettes to colours, 1 to 4 bits to 8, and the upper half of 16.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(flaw)?;
    let (width, height) = reader.info().size();
    check_size(width, height)?;
    let turn = reader.info().exif_metadata.as_deref().map(orientation);
    let size = reader.output_buffer_size();
    let mut pixels = vec![0; size.ok_or("it needs too much memory to decode")?];
    let shown = reader.next_frame(&mut pixels).map_err(flaw)?;
    if (shown.width, shown.height) != (width, height) {
        return Err("its first frame is not the whole picture".into());
    }
    pixels.truncate(shown.buffer_size());
    let rgb = match shown.color_type {
        ColorType::Rgb => pixels,
        ColorType::Rgba => without_opacity(&pixels),
        ColorType::Grayscale => grey(pixels.iter()),
        ColorType::GrayscaleAlpha => grey(pixels.iter().step_by(2)),
        ColorType::Indexed => return Err("a damaged PNG: its palette is missing".into()),
    };
    Ok(turn.unwrap_or_default().apply(width, height, rgb))
}

fn jpeg(bytes: &[u8]) -> Result<Decoded, String> {
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        // What is missing of a truncated file would be grey.
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let flaw = |error| format!("a damaged or unusual JPEG: {error}");
    decoder.decode_headers().map_err(flaw)?;
    let info = decoder.info().ok_or("a JPEG without a picture")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width, height)?;
    if matches!(
        decoder.input_colorspace(),
        Some(ColorSpace::CMYK | ColorSpace::YCCK)
    ) {
        return Err("a JPEG in CMYK, for print, which is not read: convert it to RGB".into());
    }
    let turn = decoder.exif().map(|exif| orientation(exif));
    let pixels = decoder.decode().map_err(flaw)?;
    let count = width as usize * height as usize;
    let rgb = match pixels.len() {
        len if len == count * CHANNELS => pixels,
        len if len == count => grey(pixels.iter()),
        _ => return Err("a JPEG of neither one nor three colours".into()),
    };
    Ok(turn.unwrap_or_default().apply(width, height, rgb))
}

fn without_opacity(rgba: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * CHANNELS);
    for pixel in rgba.chunks_exact(4) {
        rgb.extend_from_slice(&pixel[..CHANNELS]);
    }
    rgb
}

fn grey<'a>(levels: impl Iterator<Item = &'a u8>) -> Vec<u8> {
    levels.flat_map(|level| [*level; CHANNELS]).collect()
}

/// Before anything is allocated for the pixels.
fn check_size(width: u32, height: u32) -> Result<(), String> {
    let sides = 1..=MAX_SIDE;
    if !sides.contains(&width) || !sides.contains(&height) {
        return Err(format!(
            "{width}x{height} pixels: each side must be 1..={MAX_SIDE}"
        ));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "{width}x{height} pixels, and at most {MAX_PIXELS} are read"
        ));
    }
    Ok(())
}

/// The file, and its length.
fn open(path: &Path) -> Result<(File, u64)> {
    let io = |error: std::io::Error| Error::io(path.display(), &error);
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(bad(&path.display().to_string(), "this is not a file"));
    }
    Ok((File::open(path).map_err(io)?, meta.len()))
}

fn bad(name: &str, flaw: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadMedia, format!("{name}: {flaw}"))
        .remedy("give a whole PNG or JPEG picture; others can be converted, for example with ImageMagick's `convert IN OUT.png`")
}

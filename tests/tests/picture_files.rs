//! PNG and JPEG files are what Pillow makes of them; files that are none, damaged or too large are errors; resizes and crops are
//! Pillow's and Hugging Face's bit for bit.

use std::fs;
use std::path::PathBuf;

use atom_core::ErrorKind;
use atom_core::frame::{Frame, FrameBuf, FrameFormat, PixelFormat, Rotation};
use atom_core::pack::{PreprocessSpec, Source};
use atom_core::vision::prepare;
use atom_media::{decode_picture, is_picture, read_picture};
use atom_tests::{root, temporary};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/pictures").join(name)
}

fn expected() -> Value {
    let text = fs::read_to_string(fixture("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// R G B of each pixel.
fn rgb(picture: &FrameBuf) -> (FrameFormat, Vec<u8>) {
    let frame = picture.as_frame().unwrap();
    (frame.format(), frame.plane(0).data.to_vec())
}

#[test]
fn files_are_what_pillow_makes_of_them() {
    let expected = expected();
    let files = expected["files"].as_object().unwrap();
    assert_eq!(files.len(), 25);
    for (name, told) in files {
        assert!(is_picture(&fixture(name)).unwrap(), "{name}");
        let (format, pixels) = rgb(&read_picture(&fixture(name)).unwrap());
        let size = (number(&told["width"]), number(&told["height"]));
        assert_eq!((format.width, format.height), size, "{name}");
        assert_eq!(
            (format.pixels, format.rotation),
            (PixelFormat::Rgb8, Rotation::R0)
        );
        if let Some(sha256) = told.get("sha256") {
            assert_eq!(hash(&pixels), sha256.as_str().unwrap(), "{name}");
            continue;
        }
        // Another decoder than Pillow's: its transform and its chroma round otherwise.
        let shown = fs::read(fixture(&format!("{name}.rgb"))).unwrap();
        assert_eq!(shown.len(), pixels.len(), "{name}");
        let off = shown.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b));
        let (sum, most) = off.fold((0_u64, 0), |(sum, most), off| {
            (sum + u64::from(off), most.max(off))
        });
        let mean = sum as f64 / shown.len() as f64;
        println!("{name}: {mean:.3} levels on average, {most} at most");
        assert!(mean < 0.5 && most <= 8, "{name}: {mean} {most}");
    }
}

/// A picture of waves, as make_pictures.py draws them.
fn waves(width: u32, height: u32) -> Vec<u8> {
    let fold = |v: u32| (v % 510).min(510 - v % 510) as u8;
    let at = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    at.flat_map(|(x, y)| {
        let steps = 60 + (x / 9 + y / 7) % 4 * 40;
        [
            fold(x * x / 8 + y * 5),
            fold(x * 3 + y * y / 4),
            steps as u8,
        ]
    })
    .collect()
}

/// The bytes that `steps` make of a picture.
fn done(size: (u32, u32), resample: &str, steps: &Value, picture: (u32, u32)) -> Vec<u8> {
    let spec = json!({
        "width": size.0, "height": size.1, "resample": resample, "layout": "nhwc",
        "rescale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "steps": steps,
    });
    let spec: PreprocessSpec = serde_json::from_value(spec).unwrap();
    let data = waves(picture.0, picture.1);
    let format = FrameFormat::new(PixelFormat::Rgb8, picture.0, picture.1);
    let frame = Frame::packed(format, &data, 0).unwrap();
    let made = prepare(&spec, Source::Still, &frame).unwrap();
    assert_eq!(made.pictures, 1);
    made.values.iter().map(|value| *value as u8).collect()
}

#[test]
fn every_filter_is_pillows_bit_for_bit() {
    let expected = expected();
    let resizes = expected["resizes"].as_array().unwrap();
    assert_eq!(resizes.len(), 54);
    for case in resizes {
        let picture = match case["picture"].as_str().unwrap() {
            "wide" => (61, 43),
            _ => (23, 301),
        };
        let (width, height) = (number(&case["width"]), number(&case["height"]));
        let steps = json!([{ "do": "squash", "width": width, "height": height }]);
        let filter = case["filter"].as_str().unwrap();
        let made = done((width, height), filter, &steps, picture);
        assert_eq!(hash(&made), case["sha256"].as_str().unwrap(), "{case}");
        // A filter named by the step counts more than the module's.
        let steps =
            json!([{ "do": "squash", "width": width, "height": height, "resample": filter }]);
        assert_eq!(done((width, height), "bicubic", &steps, picture), made);
    }
}

#[test]
fn crops_are_those_of_transformers() {
    for case in expected()["crops"].as_array().unwrap() {
        let (width, height) = (number(&case["width"]), number(&case["height"]));
        let steps = json!([{ "do": "center-crop", "width": width, "height": height }]);
        let made = done((width, height), "bicubic", &steps, (61, 43));
        assert_eq!(hash(&made), case["sha256"].as_str().unwrap(), "{case}");
    }
}

#[test]
fn padding_is_marked_in_the_mask() {
    let picture = waves(10, 4);
    let format = FrameFormat::new(PixelFormat::Rgb8, 10, 4);
    let frame = Frame::packed(format, &picture, 0).unwrap();
    for (at, rows) in [("center", 4..8), ("top-left", 0..4)] {
        let spec = json!({
            "width": 12, "height": 12, "resample": "bicubic", "layout": "nhwc",
            "rescale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1],
            "steps": [{ "do": "pad", "width": 12, "height": 12, "colour": [9, 8, 7], "at": at }],
        });
        let spec: PreprocessSpec = serde_json::from_value(spec).unwrap();
        let made = prepare(&spec, Source::Still, &frame).unwrap();
        let columns = if at == "center" { 1..11 } else { 0..10 };
        for y in 0..12 {
            for x in 0..12 {
                let inside = rows.contains(&y) && columns.contains(&x);
                assert_eq!(made.mask[y * 12 + x] == 1, inside, "{at} {x} {y}");
                let value = &made.values[(y * 12 + x) * 3..][..3];
                match inside {
                    true => {
                        let from = (y - rows.start) * 10 + x - columns.start;
                        let from = &picture[from * 3..][..3];
                        assert!(value.iter().zip(from).all(|(a, b)| *a == f32::from(*b)));
                    }
                    false => assert_eq!(value, [9.0, 8.0, 7.0]),
                }
            }
        }
        // A picture that is larger cannot be padded, and the error says so.
        let large = waves(13, 4);
        let format = FrameFormat::new(PixelFormat::Rgb8, 13, 4);
        let frame = Frame::packed(format, &large, 0).unwrap();
        let error = prepare(&spec, Source::Still, &frame).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadFrame);
        assert!(error.message().contains("13x4"), "{error}");
    }
}

#[test]
fn camera_frames_go_through_the_same_steps() {
    let steps = json!([
        { "do": "shortest-edge", "size": 24 },
        { "do": "center-crop", "width": 24, "height": 24 },
    ]);
    let spec = json!({
        "width": 24, "height": 24, "resample": "bicubic", "layout": "nhwc",
        "rescale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "steps": steps,
    });
    let spec: PreprocessSpec = serde_json::from_value(spec).unwrap();
    // A plain colour survives subsampled chroma; the left half is darker, so that a turn shows.
    let (width, height) = (64, 48);
    let pixel = |x: u32| {
        if x < 32 {
            [40, 60, 50]
        } else {
            [160, 180, 170]
        }
    };
    let rgb: Vec<u8> = (0..height)
        .flat_map(|_| (0..width).flat_map(pixel))
        .collect();
    let run = |format: FrameFormat, data: &[u8]| {
        let frame = Frame::packed(format, data, 0).unwrap();
        prepare(&spec, Source::Still, &frame).unwrap().values
    };
    let upright = run(FrameFormat::new(PixelFormat::Rgb8, width, height), &rgb);
    let bgr: Vec<u8> = rgb
        .as_chunks::<3>()
        .0
        .iter()
        .flat_map(|p| [p[2], p[1], p[0]])
        .collect();
    assert_eq!(
        run(FrameFormat::new(PixelFormat::Bgr8, width, height), &bgr),
        upright
    );
    // Stored a quarter turn anticlockwise, shown upright.
    let mut stored = vec![0; rgb.len()];
    for y in 0..height as usize {
        for x in 0..width as usize {
            let to = (width as usize - 1 - x) * height as usize + y;
            stored[to * 3..][..3].copy_from_slice(&rgb[(y * width as usize + x) * 3..][..3]);
        }
    }
    let mut turned = FrameFormat::new(PixelFormat::Rgb8, height, width);
    turned.rotation = Rotation::R90;
    assert_eq!(run(turned, &stored), upright);
    // BT.601, full range.
    let luma =
        |[r, g, b]: [u8; 3]| 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    let chroma = |[r, _, b]: [u8; 3], y: f32| {
        let u = 128.0 + (f32::from(b) - y) / 1.772;
        let v = 128.0 + (f32::from(r) - y) / 1.402;
        (u.round() as u8, v.round() as u8)
    };
    let y_plane: Vec<u8> = (0..height)
        .flat_map(|_| (0..width).map(|x| luma(pixel(x)).round() as u8))
        .collect();
    let uv = (0..height / 2).flat_map(|_| (0..width / 2).map(|x| (pixel(x * 2), x)));
    let uv: Vec<(u8, u8)> = uv.map(|(p, _)| chroma(p, luma(p))).collect();
    let nv12: Vec<u8> = uv.iter().flat_map(|(u, v)| [*u, *v]).collect();
    let planar: Vec<u8> = uv
        .iter()
        .map(|it| it.0)
        .chain(uv.iter().map(|it| it.1))
        .collect();
    for (pixels, rest) in [(PixelFormat::Nv12, nv12), (PixelFormat::I420, planar)] {
        let mut format = FrameFormat::new(pixels, width, height);
        format.range = atom_core::frame::ColourRange::Full;
        let made = run(format, &[&y_plane[..], &rest].concat());
        let off = made.iter().zip(&upright).map(|(a, b)| (a - b).abs());
        let worst = off.fold(0.0, f32::max);
        assert!(worst <= 3.0, "{pixels:?}: {worst}");
    }
}

#[test]
fn bad_files_are_errors_that_name_the_file_and_the_flaw() {
    let dir = temporary();
    let png = fs::read(fixture("rgb.png")).unwrap();
    let jpeg = fs::read(fixture("photo_420.jpg")).unwrap();
    let with_size = |width: u32, height: u32| {
        let mut png = png.clone();
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        png
    };
    let mut flipped = png.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let mut tall = jpeg.clone();
    let frame = tall.windows(2).position(|it| it == [0xff, 0xc0]).unwrap();
    tall[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty.png", Vec::new(), "empty"),
        (
            "words.png",
            b"not a picture at all".to_vec(),
            "neither a PNG nor a JPEG",
        ),
        ("animation.png", b"GIF89a and so on".to_vec(), "GIF"),
        ("web.jpg", b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), "WebP"),
        ("half.png", png[..png.len() / 2].to_vec(), "damaged PNG"),
        ("head.png", png[..20].to_vec(), "damaged PNG"),
        ("flipped.png", flipped, "damaged PNG"),
        ("half.jpg", jpeg[..jpeg.len() / 2].to_vec(), "JPEG"),
        ("head.jpg", jpeg[..10].to_vec(), "JPEG"),
        ("zero.png", with_size(0, 18), "PNG"),
        ("thin.png", with_size(1, 100_000), "1x100000"),
        ("bomb.png", with_size(16_000, 16_000), "16000x16000"),
        ("huge.png", with_size(u32::MAX >> 1, 9), "too much memory"),
        ("tall.jpg", tall, "65535"),
        ("print.jpg", fs::read(fixture("cmyk.jpg")).unwrap(), "CMYK"),
    ];
    for (name, bytes, flaw) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read_picture(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadMedia, "{name}: {error}");
        assert!(error.message().contains(name), "{error}");
        assert!(error.message().contains(flaw), "{name}: {error}");
        assert!(error.to_string().contains("PNG or JPEG"), "{error}");
    }
    assert_eq!(
        read_picture(&dir.path().join("absent.png"))
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    let error = read_picture(dir.path()).unwrap_err();
    assert!(error.message().contains("not a file"), "{error}");
    // The content says what it is, whatever the name says.
    let path = dir.path().join("named.jpg");
    fs::write(&path, &png).unwrap();
    assert_eq!(rgb(&read_picture(&path).unwrap()).0.width, 29);
    // No prefix of a file crashes, and none is taken for the whole.
    for (name, whole) in [("png", &png), ("jpeg", &jpeg)] {
        for cut in (0..whole.len() - 16).step_by(7) {
            let cut_off = decode_picture(name, &whole[..cut]);
            assert!(cut_off.is_err(), "{name} of {cut} bytes");
        }
    }
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn pictures_that_the_steps_cannot_prepare_are_errors() {
    let spec = |steps: Value| -> PreprocessSpec {
        serde_json::from_value(json!({
            "width": 224, "height": 224, "resample": "bicubic",
            "mean": [0, 0, 0], "std": [1, 1, 1], "steps": steps,
        }))
        .unwrap()
    };
    let clip = spec(json!([
        { "do": "shortest-edge", "size": 224 },
        { "do": "center-crop", "width": 224, "height": 224 },
    ]));
    let thin = vec![7; 16_384 * 3];
    for (width, height) in [(1, 16_384), (16_384, 1)] {
        let frame =
            Frame::packed(FrameFormat::new(PixelFormat::Rgb8, width, height), &thin, 0).unwrap();
        let error = prepare(&clip, Source::Still, &frame).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadFrame, "{error}");
        assert!(
            error.message().contains(&format!("{width}x{height}")),
            "{error}"
        );
        // Tiles of a thin picture stay few.
        let tiles = spec(json!([
            { "do": "longest-edge", "size": 448, "even": true },
            { "do": "tiles", "size": 224, "whole": "last" },
        ]));
        let made = prepare(&tiles, Source::Still, &frame).unwrap();
        assert_eq!(made.pictures, 3);
    }
    // Only validation of a whole pack sees that these do not end with the graph's size; here the picture shows it.
    let open = spec(json!([{ "do": "longest-edge", "size": 224 }]));
    let frame = Frame::packed(FrameFormat::new(PixelFormat::Rgb8, 64, 256), &thin, 0).unwrap();
    let error = prepare(&open, Source::Still, &frame).unwrap_err();
    assert!(
        error.message().contains("64x256 pixels becomes 56x224"),
        "{error}"
    );
}

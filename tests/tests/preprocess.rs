//! Frames as cameras deliver them, made small as the visual encoder reads them, against Pillow itself on the same pixels.

use std::path::Path;

use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::pack::{Fit, Layout, Order, PreprocessSpec, Resample, ViewSpec};
use atom_core::vision::Preprocessor;
use atom_media::VideoReader;
use atom_tests::{python, root, temporary, video};

const SIDE: u32 = 224;

/// A 1080p picture with hard edges every few pixels and waves up to two pixels long.
fn synthetic() -> (FrameFormat, Vec<u8>) {
    let (width, height) = (1920_u32, 1080_u32);
    let mut data: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| {
            let wave =
                f64::from(x).powi(2) / f64::from(width) + f64::from(y).powi(2) / f64::from(height);
            let wave = 60.0 * (wave * std::f64::consts::FRAC_PI_2).cos();
            let block = (x / 3).wrapping_mul(40_503) ^ (y / 5).wrapping_mul(30_011);
            (125.0 + wave + 20.0 * f64::from(block >> 7 & 3) - 30.0) as u8
        })
        .collect();
    data.extend((0..height / 2).flat_map(|y| {
        (0..width / 2).flat_map(move |x| [110 + (x / 8 % 32) as u8, 140 - (y / 8 % 32) as u8])
    }));
    (FrameFormat::new(PixelFormat::Nv12, width, height), data)
}

/// A frame of a video, as NV12.
fn real() -> (FrameFormat, Vec<u8>) {
    let frame = VideoReader::open(video("bigbuckbunny"))
        .unwrap()
        .frame_at(2_000_000_000)
        .unwrap();
    let frame = frame.as_frame().unwrap();
    let FrameFormat {
        width,
        height,
        pixels,
        ..
    } = frame.format();
    assert_eq!(pixels, PixelFormat::I420);
    let rows = |plane: usize| {
        let (row, rows) = pixels.plane_size(plane, width, height);
        let plane = frame.plane(plane);
        let lines = plane.data.chunks(plane.stride).take(rows);
        lines
            .flat_map(|line| line[..row].to_vec())
            .collect::<Vec<u8>>()
    };
    let mut data = rows(0);
    data.extend(rows(1).into_iter().zip(rows(2)).flat_map(|(u, v)| [u, v]));
    (FrameFormat::new(PixelFormat::Nv12, width, height), data)
}

fn ours(format: FrameFormat, data: &[u8]) -> Vec<f32> {
    let spec = PreprocessSpec {
        width: SIDE,
        height: SIDE,
        resample: Resample::Bicubic,
        views: vec![ViewSpec {
            fit: Fit::Stretch,
            fraction: 1.0,
        }],
        // Values are bytes again.
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
        layout: Layout::Nhwc,
        order: Order::Rgb,
        steps: Vec::new(),
        rescale: 1.0 / 255.0,
        pixel_mask: None,
        video: None,
    };
    let mut preprocessor = Preprocessor::new(&spec).unwrap();
    let mut out = vec![f32::NAN; preprocessor.shape().iter().product()];
    preprocessor
        .run(&Frame::packed(format, data, 0).unwrap(), &mut out)
        .unwrap();
    out
}

/// Peak signal to noise ratio in decibels.
fn psnr(values: &[f32], reference: &Path) -> f64 {
    let reference = std::fs::read(reference).unwrap();
    assert_eq!(values.len(), reference.len());
    let square = |(a, b): (&f32, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let error = values.iter().zip(&reference).map(square).sum::<f64>() / values.len() as f64;
    10.0 * (255.0 * 255.0 / error).log10()
}

#[test]
fn a_camera_frame_becomes_what_pillow_makes_of_it() {
    for (name, (format, data)) in [("synthetic", synthetic()), ("real", real())] {
        let folder = temporary();
        let frame = folder.path().join("frame.nv12");
        std::fs::write(&frame, &data).unwrap();
        let [frame, out] =
            [frame.as_path(), folder.path()].map(|path| path.to_str().unwrap().to_owned());
        let [width, height, side] =
            [format.width, format.height, SIDE].map(|side| side.to_string());
        let script = root().join("tests/fixtures/pillow.py");
        python(&script, &[&frame, &width, &height, &side, &out], None);
        let bicubic = folder.path().join("bicubic");
        let plain: Vec<f32> = std::fs::read(folder.path().join("plain"))
            .unwrap()
            .into_iter()
            .map(f32::from)
            .collect();
        let (near, contrast) = (psnr(&ours(format, &data), &bicubic), psnr(&plain, &bicubic));
        println!("{name}: {near:.1} dB, plain bilinear {contrast:.1} dB");
        // Half a grey step of error everywhere would be 54 dB, two steps 42.
        assert!(near >= 44.0, "{name}: {near} dB");
        assert!(
            near >= contrast + 10.0,
            "{name}: {near} dB, plain bilinear {contrast} dB"
        );
    }
}

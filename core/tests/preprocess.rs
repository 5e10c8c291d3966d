//! Preprocessing against Pillow, and against the definition of every pixel format.

use atom_core::frame::{
    ColourMatrix, ColourRange, Frame, FrameFormat, PixelFormat, Plane, Rotation,
};
use atom_core::pack::{Fit, Layout, Order, PreprocessSpec, Resample, ViewSpec};
use atom_core::vision::{Preprocessor, thumbnail};

/// Values are bytes again: (x / 255 - 0) / (1 / 255).
fn bytes_spec(width: u32, height: u32, views: Vec<ViewSpec>) -> PreprocessSpec {
    PreprocessSpec {
        width,
        height,
        resample: Resample::Bicubic,
        views,
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
        layout: Layout::Nhwc,
        order: Order::Rgb,
        steps: Vec::new(),
        rescale: 1.0 / 255.0,
        pixel_mask: None,
        video: None,
    }
}

fn view(fit: Fit, fraction: f32) -> ViewSpec {
    ViewSpec { fit, fraction }
}

fn run(preprocessor: &mut Preprocessor, frame: &Frame<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; preprocessor.shape().iter().product()];
    preprocessor.run(frame, &mut out).unwrap();
    out
}

/// The picture of data/preprocess.py: waves to their limits, and steps that stay clear of them.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let fold = |v: u32| (v % 510).min(510 - v % 510);
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            [
                fold(x * x / 8 + y * 5),
                fold(x * 3 + y * y / 16),
                60 + (x / 9 + y / 7) % 4 * 40,
            ]
            .map(|v| v as u8)
        })
        .collect()
}

#[test]
fn resizing_equals_pillow() {
    use {Fit::*, Resample::*};
    // As in data/preprocess.py.
    let cases = [
        (333, 201, 32, 32, Crop, 1.0, Bicubic),
        (333, 201, 32, 32, Crop, 0.875, Bicubic),
        (201, 333, 32, 32, Crop, 0.875, Bilinear),
        (333, 201, 40, 24, Stretch, 1.0, Bicubic),
        (333, 201, 24, 40, Stretch, 0.7, Lanczos3),
        (333, 201, 32, 32, Pad, 1.0, Bicubic),
        (201, 333, 33, 32, Pad, 0.9, Bilinear),
        (17, 11, 32, 32, Crop, 1.0, Bicubic),
        (64, 64, 64, 64, Stretch, 1.0, Lanczos3),
    ];
    let mut golden = &include_bytes!("data/preprocess.bin")[..];
    for (width, height, to_width, to_height, fit, fraction, resample) in cases {
        let case = format!("{width}x{height} to {to_width}x{to_height}, {fit:?} {fraction}");
        let mut spec = bytes_spec(to_width, to_height, vec![view(fit, fraction)]);
        spec.resample = resample;
        let pixels = picture(width, height);
        let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
        let frame = Frame::packed(format, &pixels, 0).unwrap();
        let out = run(&mut Preprocessor::new(&spec).unwrap(), &frame);
        let (expected, rest) = golden.split_at(out.len());
        golden = rest;
        let off = |(a, &b): (&f32, &u8)| (a - f32::from(b)).abs();
        let differing = out.iter().zip(expected).filter(|pair| off(*pair) > 0.01);
        assert_eq!(differing.count(), 0, "{case}");
    }
    assert!(golden.is_empty());
}

/// A frame of any format with padded strides, and the colour its definition gives to each stored pixel.
struct Sample {
    format: FrameFormat,
    planes: Vec<(Vec<u8>, usize)>,
}

impl Sample {
    fn new(format: FrameFormat, padding: usize) -> Self {
        let mut state = 12345_u32;
        let planes = (0..format.pixels.planes())
            .map(|plane| {
                let (row, rows) = format.pixels.plane_size(plane, format.width, format.height);
                let stride = row + padding;
                // The last row ends without its padding, as it may.
                let data = (0..stride * (rows - 1) + row).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let byte = (state >> 24) as u8;
                    // Converters clip luma below black before or after the matrix, so none is made here.
                    if format.range == ColourRange::Limited && plane == 0 {
                        byte.clamp(16, 235)
                    } else {
                        byte
                    }
                });
                (data.collect(), stride)
            })
            .collect();
        Self { format, planes }
    }

    fn frame(&self) -> Frame<'_> {
        let planes: Vec<_> = self
            .planes
            .iter()
            .map(|(data, stride)| Plane {
                data,
                stride: *stride,
            })
            .collect();
        Frame::new(self.format, &planes, 0).unwrap()
    }

    /// R, G, B in 0..=255 by the formulas of BT.601 and BT.709.
    fn colour(&self, x: usize, y: usize) -> [f64; 3] {
        let at = |plane: usize, column: usize, row: usize| {
            let (data, stride) = &self.planes[plane];
            f64::from(data[row * stride + column])
        };
        let (luma, u, v) = match self.format.pixels {
            PixelFormat::Rgb8 => return [0, 1, 2].map(|c| at(0, x * 3 + c, y)),
            PixelFormat::Bgr8 => return [2, 1, 0].map(|c| at(0, x * 3 + c, y)),
            PixelFormat::Gray8 => (at(0, x, y), 128.0, 128.0),
            PixelFormat::Nv12 => (
                at(0, x, y),
                at(1, x / 2 * 2, y / 2),
                at(1, x / 2 * 2 + 1, y / 2),
            ),
            PixelFormat::I420 => (at(0, x, y), at(1, x / 2, y / 2), at(2, x / 2, y / 2)),
        };
        let (black, luma_span, chroma_span) = match self.format.range {
            ColourRange::Limited => (16.0, 219.0, 224.0),
            ColourRange::Full => (0.0, 255.0, 255.0),
        };
        let (kr, kb) = match self.format.matrix {
            ColourMatrix::Bt601 => (0.299, 0.114),
            ColourMatrix::Bt709 => (0.2126, 0.0722),
        };
        let luma = (luma - black) / luma_span;
        let (u, v) = ((u - 128.0) / chroma_span, (v - 128.0) / chroma_span);
        let red = luma + 2.0 * (1.0 - kr) * v;
        let blue = luma + 2.0 * (1.0 - kb) * u;
        let green = (luma - kr * red - kb * blue) / (1.0 - kr - kb);
        [red, green, blue].map(|c| (c * 255.0).clamp(0.0, 255.0))
    }

    /// The stored pixel that is seen at (`x`, `y`) when the picture is upright.
    fn upright(&self, x: usize, y: usize) -> (usize, usize) {
        let (width, height) = (self.format.width as usize, self.format.height as usize);
        match self.format.rotation {
            Rotation::R0 => (x, y),
            // Turned clockwise, the left column comes to the top: its lowest pixel first.
            Rotation::R90 => (y, height - 1 - x),
            Rotation::R180 => (width - 1 - x, height - 1 - y),
            Rotation::R270 => (width - 1 - y, x),
        }
    }
}

const FORMATS: [PixelFormat; 5] = [
    PixelFormat::Nv12,
    PixelFormat::I420,
    PixelFormat::Rgb8,
    PixelFormat::Bgr8,
    PixelFormat::Gray8,
];
const ROTATIONS: [Rotation; 4] = [Rotation::R0, Rotation::R90, Rotation::R180, Rotation::R270];

#[test]
fn every_format_stride_matrix_range_and_rotation_gives_its_colours() {
    for (width, height) in [(64, 48), (37, 23), (1, 1), (2, 1), (1, 5), (130, 3)] {
        for pixels in FORMATS {
            for rotation in ROTATIONS {
                for (matrix, range, padding) in [
                    (ColourMatrix::Bt601, ColourRange::Limited, 0),
                    (ColourMatrix::Bt601, ColourRange::Full, 1),
                    (ColourMatrix::Bt709, ColourRange::Limited, 19),
                    (ColourMatrix::Bt709, ColourRange::Full, 64),
                ] {
                    let format = FrameFormat {
                        matrix,
                        range,
                        rotation,
                        ..FrameFormat::new(pixels, width, height)
                    };
                    every_pixel_is_right(&Sample::new(format, padding));
                }
            }
        }
    }
}

fn every_pixel_is_right(sample: &Sample) {
    let format = sample.format;
    let (width, height) = match format.rotation {
        Rotation::R0 | Rotation::R180 => (format.width, format.height),
        Rotation::R90 | Rotation::R270 => (format.height, format.width),
    };
    // As large as the frame, so nothing is resized.
    let spec = bytes_spec(width, height, vec![view(Fit::Stretch, 1.0)]);
    let out = run(&mut Preprocessor::new(&spec).unwrap(), &sample.frame());
    for (index, got) in out.chunks_exact(3).enumerate() {
        let (x, y) = (index % width as usize, index / width as usize);
        let (from_x, from_y) = sample.upright(x, y);
        let want = sample.colour(from_x, from_y);
        for channel in 0..3 {
            let off = (f64::from(got[channel]) - want[channel]).abs();
            assert!(off <= 2.0, "{format:?} at {x},{y}: {got:?}, not {want:?}");
        }
    }
}

#[test]
fn a_turned_frame_gives_what_the_upright_one_gives() {
    // The same picture stored turned each way.
    let (width, height) = (96_u32, 54_u32);
    let upright = picture(width, height);
    let at = |x: u32, y: u32| ((y * width + x) * 3) as usize;
    let views = vec![
        view(Fit::Crop, 0.875),
        view(Fit::Pad, 1.0),
        view(Fit::Stretch, 0.5),
    ];
    let spec = bytes_spec(20, 28, views);
    let mut expected = None;
    for rotation in ROTATIONS {
        let (w, h) = match rotation {
            Rotation::R0 | Rotation::R180 => (width, height),
            Rotation::R90 | Rotation::R270 => (height, width),
        };
        let mut stored = Vec::new();
        for y in 0..h {
            for x in 0..w {
                let from = match rotation {
                    Rotation::R0 => at(x, y),
                    Rotation::R90 => at(width - 1 - y, x),
                    Rotation::R180 => at(width - 1 - x, height - 1 - y),
                    Rotation::R270 => at(y, height - 1 - x),
                };
                stored.extend_from_slice(&upright[from..from + 3]);
            }
        }
        let format = FrameFormat {
            rotation,
            ..FrameFormat::new(PixelFormat::Rgb8, w, h)
        };
        let frame = Frame::packed(format, &stored, 0).unwrap();
        let out = run(&mut Preprocessor::new(&spec).unwrap(), &frame);
        let expected = expected.get_or_insert_with(|| out.clone());
        let off = |(a, b): (&f32, &f32)| (a - b).abs();
        // Rows before columns or columns before rows: a rounding step.
        let mean = out.iter().zip(&*expected).map(off).sum::<f32>() / out.len() as f32;
        assert!(mean <= 0.2, "{rotation:?}: off by {mean} on average");
        let worst = out.iter().zip(&*expected).map(off).fold(0.0, f32::max);
        assert!(worst <= 1.01, "{rotation:?}: off by {worst}");

        let jpeg = thumbnail(&frame, 48, 90).unwrap();
        let start = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        let side = |at: usize| u16::from_be_bytes([jpeg[start + at], jpeg[start + at + 1]]);
        assert_eq!((side(7), side(5)), (48, 27), "{rotation:?}");
    }
}

/// NV12 or I420 of the picture, limited range, chroma averaged over 2 x 2 pixels.
fn subsampled(pixels: PixelFormat, width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let at = |x: u32, y: u32| {
        let first = ((y * width + x) * 3) as usize;
        [0, 1, 2].map(|c| f64::from(rgb[first + c]))
    };
    let luma = |[r, g, b]: [f64; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    let mut out: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| (16.0 + luma(at(x, y)) * 219.0 / 255.0).round() as u8)
        .collect();
    let chroma = |x: u32, y: u32, colour: usize, span: f64| {
        let four = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(i, j)| {
            let rgb = at(2 * x + i, 2 * y + j);
            (rgb[colour] - luma(rgb)) / span
        });
        (128.0 + four.iter().sum::<f64>() / 4.0 * 224.0 / 255.0).round() as u8
    };
    let places = || (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (x, y)));
    let u = |(x, y)| chroma(x, y, 2, 1.772);
    let v = |(x, y)| chroma(x, y, 0, 1.402);
    if pixels == PixelFormat::Nv12 {
        out.extend(places().flat_map(|place| [u(place), v(place)]));
    } else {
        out.extend(places().map(u));
        out.extend(places().map(v));
    }
    out
}

/// A frame resized plane by plane shows what the same picture shows as RGB.
#[test]
fn planes_resized_give_the_picture() {
    let (width, height) = (640_u32, 360_u32);
    let fold = |v: u32| (v % 256).min(255 - v % 256) as u8;
    // Smooth, so that what chroma loses by subsampling is little.
    let rgb: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| [60 + fold(x / 2), 60 + fold(y / 2), 60 + fold((x + y) / 3)])
        .collect();
    for resample in [Resample::Bilinear, Resample::Bicubic, Resample::Lanczos3] {
        let views = vec![
            view(Fit::Crop, 0.875),
            view(Fit::Stretch, 1.0),
            view(Fit::Pad, 1.0),
        ];
        let mut spec = bytes_spec(96, 64, views);
        spec.resample = resample;
        let frame = FrameFormat::new(PixelFormat::Rgb8, width, height);
        let want = run(
            &mut Preprocessor::new(&spec).unwrap(),
            &Frame::packed(frame, &rgb, 0).unwrap(),
        );
        for pixels in [PixelFormat::Nv12, PixelFormat::I420] {
            let format = FrameFormat {
                matrix: ColourMatrix::Bt601,
                range: ColourRange::Limited,
                ..FrameFormat::new(pixels, width, height)
            };
            let data = subsampled(pixels, width, height, &rgb);
            let frame = Frame::packed(format, &data, 0).unwrap();
            let got = run(&mut Preprocessor::new(&spec).unwrap(), &frame);
            let off = |(a, b): (&f32, &f32)| (a - b).abs();
            let mean = got.iter().zip(&want).map(off).sum::<f32>() / got.len() as f32;
            let worst = got.iter().zip(&want).map(off).fold(0.0, f32::max);
            println!("{pixels:?} {resample:?}: mean {mean:.2}, worst {worst}");
            assert!(
                mean <= 1.0 && worst <= 8.0,
                "{pixels:?} {resample:?}: off by {mean}, at worst {worst}"
            );
        }
    }
}

#[test]
fn layout_order_and_normalisation_are_the_manifests() {
    let pixels = picture(8, 8);
    let frame = Frame::packed(FrameFormat::new(PixelFormat::Rgb8, 8, 8), &pixels, 0).unwrap();
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for order in [Order::Rgb, Order::Bgr] {
            let spec = PreprocessSpec {
                layout,
                order,
                mean: [0.1, 0.2, 0.3],
                std: [0.5, 0.25, 0.125],
                ..bytes_spec(8, 8, vec![view(Fit::Stretch, 1.0)])
            };
            let mut preprocessor = Preprocessor::new(&spec).unwrap();
            let out = run(&mut preprocessor, &frame);
            for pixel in 0..64 {
                for colour in 0..3 {
                    let place = if order == Order::Rgb {
                        colour
                    } else {
                        2 - colour
                    };
                    let got = match layout {
                        Layout::Nchw => out[place * 64 + pixel],
                        Layout::Nhwc => out[pixel * 3 + place],
                    };
                    let byte = f32::from(pixels[pixel * 3 + colour]);
                    let want = (byte / 255.0 - spec.mean[colour]) / spec.std[colour];
                    assert_eq!(got, want, "{layout:?} {order:?} {pixel} {colour}");
                }
            }
            assert!(preprocessor.run(&frame, &mut [0.0; 3]).is_err());
        }
    }
}

#[test]
fn one_preprocessor_serves_frames_of_changing_size() {
    let views = vec![view(Fit::Crop, 1.0), view(Fit::Crop, 0.875)];
    let spec = bytes_spec(16, 16, views);
    let mut reused = Preprocessor::new(&spec).unwrap();
    for (width, height) in [(640, 360), (33, 77), (1920, 1080), (1, 1), (640, 360)] {
        for pixels in FORMATS {
            let sample = Sample::new(FrameFormat::new(pixels, width, height), 3);
            let fresh = run(&mut Preprocessor::new(&spec).unwrap(), &sample.frame());
            assert_eq!(run(&mut reused, &sample.frame()), fresh, "{width}x{height}");
        }
    }
}

#[test]
fn extreme_shapes_do_not_panic() {
    let views = vec![
        view(Fit::Crop, 0.01),
        view(Fit::Stretch, 1e-6),
        view(Fit::Pad, 1.0),
    ];
    let mut preprocessor = Preprocessor::new(&bytes_spec(7, 5, views)).unwrap();
    for (width, height) in [(1, 1), (1, 4000), (4000, 1), (3, 16_384), (16_384, 2)] {
        for rotation in ROTATIONS {
            let format = FrameFormat {
                rotation,
                ..FrameFormat::new(PixelFormat::Nv12, width, height)
            };
            let sample = Sample::new(format, 0);
            let out = run(&mut preprocessor, &sample.frame());
            assert!(out.iter().all(|v| (0.0..=255.01).contains(v)));
            thumbnail(&sample.frame(), 32, 80).unwrap();
        }
    }
}

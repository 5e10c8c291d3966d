//! `atom-bench preprocess`: a frame to what the visual encoder reads, by size and format, beside one read of its planes.
//!
//! Every frame lies in memory of its own, and there are more of them than any cache holds, as a camera's do. One thread.
//!
//! How good the result is: PSNR against the antialiased resize of Pillow on the same pixels as RGB. Our RGB path gives
//! Pillow's values to the bit (`resizing_equals_pillow` in core/tests/preprocess.rs), so it stands for Pillow here;
//! tests/tests/preprocess.rs does the same with Pillow itself. Plain bilinear, which most fast paths are, is the contrast.

mod picture;

use std::process::ExitCode;
use std::time::Instant;

use crate::common::Common;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::pack::{Fit, Layout, Order, Pack, PreprocessSpec, ViewSpec};
use atom_core::trace::Recording;
use atom_core::vision::Preprocessor;
use atom_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::chart::Bars;
use crate::limits;
use crate::stats::{Spread, percentile};
use atom_cli::output::{print_json, print_line, table};
use atom_cli::session::Session;
use picture::Picture;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Sizes of the frames in pixels.
    #[arg(long, value_delimiter = ',', default_values = ["1280x720", "1920x1080", "3840x2160"], value_name = "WxH,…",
          value_parser = size)]
    pub sizes: Vec<(u32, u32)>,
    /// Pixel formats.
    #[arg(long, value_delimiter = ',', default_values = ["nv12", "i420", "rgb8"], value_name = "FORMAT,…",
          value_parser = format)]
    pub formats: Vec<PixelFormat>,
}

/// Frames of one kind together take this much at least, in bytes.
const RING_BYTES: usize = 256 << 20;
/// And are so many at least.
const LEAST_FRAMES: usize = 24;

fn size(text: &str) -> std::result::Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(width, height)| {
        let side = |text: &str| text.parse().ok().filter(|side| (16..=8192).contains(side));
        Some((side(width)?, side(height)?))
    });
    sides.ok_or_else(|| "two numbers from 16 to 8192, such as 1920x1080".to_owned())
}

fn format(text: &str) -> std::result::Result<PixelFormat, String> {
    let formats = [PixelFormat::Nv12, PixelFormat::I420, PixelFormat::Rgb8];
    let found = formats.into_iter().find(|format| name(*format) == text);
    found.ok_or_else(|| "nv12, i420 and rgb8 are possible".to_owned())
}

fn name(format: PixelFormat) -> &'static str {
    match format {
        PixelFormat::Nv12 => "nv12",
        PixelFormat::I420 => "i420",
        PixelFormat::Rgb8 => "rgb8",
        PixelFormat::Bgr8 => "bgr8",
        PixelFormat::Gray8 => "gray8",
    }
}

#[derive(Serialize)]
struct Report {
    limits: limits::Limits,
    /// The module, and what it reads: width and height of a view, and the filter.
    module: String,
    input: [u32; 2],
    resample: String,
    /// As the module declares them.
    views: Vec<String>,
    rows: Vec<Row>,
}

/// Frames of one size and format. Spreads are over rounds, of each round's median over the frames.
#[derive(Serialize)]
struct Row {
    width: u32,
    height: u32,
    format: &'static str,
    source_bytes: usize,
    /// Of the whole frame as one view.
    one_view_ms: Spread,
    one_view_p95_ms: Spread,
    /// Of all the module's views.
    all_views_ms: Spread,
    /// One read of the source's planes from memory by one thread.
    limit_ms: f64,
    /// `limit_ms / one_view_ms`.
    of_limit: f64,
    /// Means of one view's parts.
    stages: Vec<Stage>,
    /// Plain bilinear, not antialiased, written plainly.
    bilinear_ms: Spread,
    /// Against Pillow's antialiased result, in decibels; absent when no value differs.
    psnr_db: Option<f64>,
    bilinear_psnr_db: Option<f64>,
}

#[derive(Serialize)]
struct Stage {
    name: &'static str,
    ms: f64,
}

pub fn run(session: &mut Session, args: &Args) -> Result<ExitCode> {
    let pack = Pack::open(&session.pack_dir())?;
    let (module, spec) = encoder(&pack)?;
    let limits = limits::measure(Some(1));
    let mut rows = Vec::new();
    for (width, height) in &args.sizes {
        for format in &args.formats {
            let picture = Picture::new(*format, *width, *height);
            rows.push(measure(&picture, spec, &limits, args.common.rounds)?);
        }
    }
    let report = Report {
        module: module.to_owned(),
        input: [spec.width, spec.height],
        resample: format!("{:?}", spec.resample).to_lowercase(),
        views: spec
            .views
            .iter()
            .map(|view| format!("{:?} {}", view.fit, view.fraction).to_lowercase())
            .collect(),
        rows,
        limits,
    };
    if let Some(path) = &args.common.svg {
        report.chart().draw(path)?;
    }
    if session.global.json {
        print_json(&report)?;
    } else {
        report.show()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pack's visual encoder and what it reads.
fn encoder(pack: &Pack) -> Result<(&str, &PreprocessSpec)> {
    let none = || {
        Error::new(ErrorKind::Unsupported, "the pack has no visual encoder")
            .remedy("give one that has with --pack")
    };
    let task = pack.manifest().tasks.index.as_ref().ok_or_else(none)?;
    let module = pack.module(&task.visual_encoder)?;
    let spec = module.preprocess.as_ref().ok_or_else(none)?;
    Ok((&module.id, spec))
}

/// The whole frame as the only view.
fn one_view(spec: &PreprocessSpec) -> PreprocessSpec {
    PreprocessSpec {
        views: vec![ViewSpec {
            fit: Fit::Stretch,
            fraction: 1.0,
        }],
        ..spec.clone()
    }
}

fn measure(
    picture: &Picture,
    spec: &PreprocessSpec,
    limits: &limits::Limits,
    rounds: u32,
) -> Result<Row> {
    let FrameFormat {
        pixels,
        width,
        height,
        ..
    } = picture.format;
    let source_bytes = picture.format.packed_bytes();
    let count = RING_BYTES.div_ceil(source_bytes).max(LEAST_FRAMES);
    let ring = vec![picture.data.clone(); count];
    let frames = ring
        .iter()
        .map(|data| Frame::packed(picture.format, data, 0))
        .collect::<Result<Vec<_>>>()?;
    let one = one_view(spec);
    let mut first = Run::new(&one)?;
    let mut all = Run::new(spec)?;
    let mut small = Vec::new();
    let size = (spec.width, spec.height);

    // Which also gets buffers and tables ready.
    let recording = Recording::start(4096)?;
    for frame in &frames[..LEAST_FRAMES] {
        first.run(frame)?;
    }
    let spans = recording.finish().spans;
    all.run(&frames[0])?;

    let mut times: [Vec<Vec<f64>>; 3] = Default::default();
    for _ in 0..rounds {
        let mut round: [Vec<f64>; 3] = Default::default();
        // One kind of work after the other over all frames, so that none finds in a cache what another has read.
        for frame in &frames {
            round[0].push(timed(|| first.run(frame))?);
        }
        for frame in &frames {
            round[1].push(timed(|| all.run(frame))?);
        }
        for data in &ring {
            round[2].push(timed(|| {
                picture::bilinear(picture.format, data, size, &mut small);
                Ok(())
            })?);
        }
        for (kind, mut round) in times.iter_mut().zip(round) {
            round.sort_by(f64::total_cmp);
            kind.push(round);
        }
    }
    let at = |kind: usize, part: f64| Spread::of(times[kind].iter().map(|r| percentile(r, part)));
    let mut stages: Vec<Stage> = Vec::new();
    for span in spans.iter().filter(|span| span.category == "vision") {
        let ms = span.duration_ns as f64 / 1e6 / LEAST_FRAMES as f64;
        match stages.iter_mut().find(|stage| stage.name == span.name) {
            Some(stage) => stage.ms += ms,
            None => stages.push(Stage {
                name: span.name,
                ms,
            }),
        }
    }
    let (psnr_db, bilinear_psnr_db) = quality(picture, &one)?;
    let one_view_ms = at(0, 0.5);
    let limit_ms = 1e3 * source_bytes as f64 / limits.dram_read_bytes_per_s[0];
    Ok(Row {
        width,
        height,
        format: name(pixels),
        source_bytes,
        one_view_ms,
        one_view_p95_ms: at(0, 0.95),
        all_views_ms: at(1, 0.5),
        limit_ms,
        of_limit: limit_ms / one_view_ms.median,
        stages,
        bilinear_ms: at(2, 0.5),
        psnr_db,
        bilinear_psnr_db,
    })
}

/// A preprocessor and its room.
struct Run {
    preprocessor: Preprocessor,
    out: Vec<f32>,
}

impl Run {
    fn new(spec: &PreprocessSpec) -> Result<Self> {
        let preprocessor = Preprocessor::new(spec)?;
        Ok(Self {
            out: vec![0.0; preprocessor.shape().iter().product()],
            preprocessor,
        })
    }

    fn run(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.preprocessor.run(frame, &mut self.out)
    }
}

/// Milliseconds of `work`.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// PSNR of ours and of plain bilinear, as bytes, against the antialiased resize of the same pixels as RGB.
fn quality(picture: &Picture, one: &PreprocessSpec) -> Result<(Option<f64>, Option<f64>)> {
    let bytes = PreprocessSpec {
        mean: [0.0; 3],
        std: [1.0 / 255.0; 3],
        layout: Layout::Nhwc,
        order: Order::Rgb,
        ..one.clone()
    };
    let made = |frame: &Frame<'_>| -> Result<Vec<f32>> {
        let mut run = Run::new(&bytes)?;
        run.run(frame)?;
        Ok(run.out)
    };
    let reference = made(&picture.as_rgb()?)?;
    let mut small = Vec::new();
    let size = (one.width, one.height);
    picture::bilinear(picture.format, &picture.data, size, &mut small);
    let plain: Vec<f32> = small.into_iter().map(f32::from).collect();
    Ok((
        picture::psnr(&made(&picture.frame()?)?, &reference),
        picture::psnr(&plain, &reference),
    ))
}

impl Report {
    fn show(&self) -> Result<()> {
        let decibels =
            |value: Option<f64>| value.map_or("same".to_owned(), |value| format!("{value:.1}"));
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    format!("{}x{}", row.width, row.height),
                    row.format.to_owned(),
                    row.one_view_ms.show(3),
                    format!("{:.3}", row.one_view_p95_ms.median),
                    row.all_views_ms.show(3),
                    format!("{:.3}", row.limit_ms),
                    format!("{:.0} %", 100.0 * row.of_limit),
                    decibels(row.psnr_db),
                    decibels(row.bilinear_psnr_db),
                    row.bilinear_ms.show(3),
                ]
            })
            .collect();
        let all = format!("{} views ms", self.views.len());
        let head = [
            "frame",
            "format",
            "one view ms",
            "p95 ms",
            &all,
            "limit ms",
            "of limit",
            "PSNR dB",
            "bilinear's dB",
            "bilinear ms",
        ];
        print_line(&table(&head, &rows, &[2, 3, 4, 5, 6, 7, 8, 9]))?;
        print_line("\n  where one view's time goes, ms")?;
        let mut names: Vec<&str> = Vec::new();
        for stage in self.rows.iter().flat_map(|row| &row.stages) {
            if !names.contains(&stage.name) {
                names.push(stage.name);
            }
        }
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let cell = |name: &&str| {
                    let stage = row.stages.iter().find(|stage| stage.name == *name);
                    stage.map_or_else(String::new, |stage| format!("{:.3}", stage.ms))
                };
                let mut cells = vec![
                    format!("{}x{}", row.width, row.height),
                    row.format.to_owned(),
                ];
                cells.extend(names.iter().map(cell));
                cells
            })
            .collect();
        let head: Vec<&str> = ["frame", "format"].into_iter().chain(names).collect();
        print_line(&table(&head, &rows, &(2..head.len()).collect::<Vec<_>>()))?;
        print_line(&format!(
            "\n  {} reads {}x{} pixels, {}: {}; the limit: one read of the planes at {:.1} GB/s by one thread",
            self.module,
            self.input[0],
            self.input[1],
            self.resample,
            self.views.join(", "),
            self.limits.dram_read_bytes_per_s[0] / 1e9
        ))?;
        print_line(
            "  PSNR against Pillow's antialiased resize of the same pixels; bilinear: plain, not antialiased",
        )
    }

    fn chart(&self) -> Bars<'_> {
        let value = |value: &dyn Fn(&Row) -> f64| self.rows.iter().map(value).collect::<Vec<_>>();
        let all = format!("{} views", self.views.len());
        Bars {
            title: "A frame to the visual encoder's input, one thread",
            label: "ms",
            rows: self
                .rows
                .iter()
                .map(|row| format!("{}x{} {}", row.width, row.height, row.format))
                .collect(),
            series: vec![
                ("one view".to_owned(), value(&|row| row.one_view_ms.median)),
                (all, value(&|row| row.all_views_ms.median)),
                (
                    "plain bilinear, one view".to_owned(),
                    value(&|row| row.bilinear_ms.median),
                ),
            ],
            stacked: false,
            limits: vec![(
                "one read of the planes".to_owned(),
                value(&|row| row.limit_ms),
            )],
        }
    }
}

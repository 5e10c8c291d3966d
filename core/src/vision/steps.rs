//! The steps of `[module.preprocess]`: an RGB picture to the pictures that one encoder reads.

use super::pixels::CHANNELS;
use super::rgb::{Area, Rgb, resize_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Grid;
use crate::pack::{
    LongestEdgeStep, PreprocessSpec, Resample, ShortestEdgeStep, Source, SquashStep, StepSpec,
    TilesStep, Whole,
};

/// What the steps made of one picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cut {
    /// All of one size: tiles row by row, and the whole picture. At least one.
    pub(super) pictures: Vec<Rgb>,
    pub(super) grid: Grid,
    /// Where the picture lies if it was padded.
    pub(super) filled: Option<Area>,
}

impl Cut {
    /// Does the steps that `spec` has for pictures of `source`.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] for a picture that becomes too large on the way or does not get the size that the graph reads.
    pub(super) fn new(spec: &PreprocessSpec, source: Source, picture: &Rgb) -> Result<Self> {
        let (steps, resample) = spec.steps_of(source);
        let mut cut = Self::of(steps, resample, picture)?;
        // Of a picture that only had its sides bounded, nobody knows the size beforehand.
        let wrong = |made: &&Rgb| (made.width, made.height) != (spec.width, spec.height);
        if let Some(made) = cut.pictures.iter().find(wrong) {
            return Err(Error::new(
                ErrorKind::BadFrame,
                format!(
                    "a picture of {}x{} pixels becomes {}x{}, and the encoder reads {}x{}",
                    picture.width, picture.height, made.width, made.height, spec.width, spec.height
                ),
            )
            .remedy("end preprocess.steps with squash, center-crop, pad or tiles of that size"));
        }
        let full = |area: &Area| (area.width, area.height) == (spec.width, spec.height);
        cut.filled = cut.filled.filter(|area| !full(area));
        Ok(cut)
    }

    fn of(steps: &[StepSpec], resample: Resample, picture: &Rgb) -> Result<Self> {
        let mut now = std::borrow::Cow::Borrowed(picture);
        let mut filled = None;
        for step in steps {
            let (width, height) = size_after(step, (now.width, now.height));
            let (made, area) = match step {
                StepSpec::Squash(SquashStep { resample: own, .. })
                | StepSpec::ShortestEdge(ShortestEdgeStep { resample: own, .. })
                | StepSpec::LongestEdge(LongestEdgeStep { resample: own, .. }) => {
                    let filter = own.unwrap_or(resample);
                    (now.resized(width, height, filter)?, None)
                }
                StepSpec::CenterCrop(_) => (now.cropped(width, height), None),
                StepSpec::Pad(to) => {
                    let (made, area) = now.padded(width, height, to.colour, to.at)?;
                    (made, Some(area))
                }
                StepSpec::Tiles(step) => {
                    let filter = step.resample.unwrap_or(resample);
                    let whole = now.resized(width, height, filter)?;
                    let (pictures, grid) = tiles(step, filter, whole)?;
                    return Ok(Self {
                        pictures,
                        grid,
                        filled: None,
                    });
                }
            };
            now = std::borrow::Cow::Owned(made);
            filled = area;
        }
        Ok(Self {
            pictures: vec![now.into_owned()],
            grid: Grid::default(),
            filled,
        })
    }

    /// Bytes of all its pictures.
    pub(super) fn bytes(&self) -> u64 {
        self.pictures.iter().map(|p| p.data.len() as u64).sum()
    }
}

/// `get_resize_output_image_size` of transformers' image_transforms.
fn shortest_edge(step: &ShortestEdgeStep, width: u32, height: u32) -> (u32, u32) {
    let (short, long) = (width.min(height), width.max(height));
    let follow = f64::from(step.size) * f64::from(long) / f64::from(short);
    let (mut short, mut long) = (step.size, whole(follow));
    if let Some(most) = step.longest
        && long > most
    {
        short = whole(f64::from(most) * f64::from(short) / f64::from(long)).max(1);
        long = most;
    }
    match width <= height {
        true => (short, long),
        false => (long, short),
    }
}

/// `get_resize_output_image_size` of transformers' Idefics3, divisions and all.
fn longest_edge(step: &LongestEdgeStep, width: u32, height: u32) -> (u32, u32) {
    let made = to_longest(width, height, step.size);
    let odd = |side: u32| side + u32::from(step.even && side % 2 == 1);
    let (mut width, mut height) = match width >= height {
        true => (made.0, odd(made.1).max(1)),
        false => (odd(made.0).max(1), made.1),
    };
    if let Some(most) = step.most
        && width.max(height) > most
    {
        (width, height) = to_longest(width, height, most);
    }
    (width.max(1), height.max(1))
}

/// The longer side becomes `size`, the other follows, rounded down.
fn to_longest(width: u32, height: u32, size: u32) -> (u32, u32) {
    let aspect = f64::from(width) / f64::from(height);
    match width >= height {
        true => (size, whole(f64::from(size) / aspect)),
        false => (whole(f64::from(size) * aspect), size),
    }
}

/// The size of whole tiles, as Idefics3 chooses it.
fn tiled((width, height): (u32, u32), size: u32) -> (u32, u32) {
    let up = |side: u32| side.div_ceil(size).max(1) * size;
    let aspect = f64::from(width) / f64::from(height);
    match width >= height {
        true => {
            let width = up(width);
            (width, up(whole(f64::from(width) / aspect)))
        }
        false => {
            let height = up(height);
            (up(whole(f64::from(height) * aspect)), height)
        }
    }
}

/// Cuts a picture of whole tiles.
fn tiles(step: &TilesStep, resample: Resample, picture: Rgb) -> Result<(Vec<Rgb>, Grid)> {
    let size = step.size;
    if picture.width <= size && picture.height <= size {
        return Ok((vec![picture], Grid::default()));
    }
    let grid = Grid {
        rows: picture.height / size,
        cols: picture.width / size,
    };
    let mut pictures = Vec::with_capacity((grid.rows * grid.cols) as usize + 1);
    for row in 0..grid.rows {
        for col in 0..grid.cols {
            pictures.push(picture.part(col * size, row * size, size, size));
        }
    }
    let squashed = || picture.resized(size, size, resample);
    match step.whole {
        Whole::First => pictures.insert(0, squashed()?),
        Whole::Last => pictures.push(squashed()?),
        Whole::None => {}
    }
    Ok((pictures, grid))
}

/// The size that `step` gives a picture, before it is cut.
pub(super) fn size_after(step: &StepSpec, (width, height): (u32, u32)) -> (u32, u32) {
    match step {
        StepSpec::Squash(to) => (to.width, to.height),
        StepSpec::ShortestEdge(step) => shortest_edge(step, width, height),
        StepSpec::LongestEdge(step) => longest_edge(step, width, height),
        StepSpec::CenterCrop(to) => (to.width, to.height),
        StepSpec::Pad(to) => match (to.width, to.height) {
            (None, None) => (width.max(height), width.max(height)),
            (to_width, to_height) => (to_width.unwrap_or(width), to_height.unwrap_or(height)),
        },
        StepSpec::Tiles(step) => tiled((width, height), step.size),
    }
}

/// About how many bytes the steps of `spec` hold at once for a picture of `size`, that of the picture itself left out.
pub(super) fn working_bytes(spec: &PreprocessSpec, source: Source, size: (u32, u32)) -> u64 {
    let (steps, _) = spec.steps_of(source);
    let bytes = |(w, h): (u32, u32)| u64::from(w) * u64::from(h) * CHANNELS as u64;
    let (mut now, mut most) = (size, 0);
    let mut held = 0;
    for step in steps {
        let after = size_after(step, now);
        most = most.max(held + resize_bytes(now, after));
        if matches!(step, StepSpec::Tiles(_)) {
            // The tiles beside the picture that they are cut from.
            most = most.max(held + 2 * bytes(after));
        }
        (now, held) = (after, bytes(after));
    }
    most
}

/// Rounded down, as Python's `int` does with what is not negative.
fn whole(side: f64) -> u32 {
    side as u32
}

//! From an image processor's settings to the steps of `[module.preprocess]`.

use atom_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::config::{Node, Places};
use crate::plan::{Preprocess, Step, Video};
use crate::report::Notes;

/// Settings that begin with `do_` and that are understood.
const RULES: &[&str] = &[
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_pad",
    "do_convert_rgb",
    "do_image_splitting",
    // Of the tokenizer, where files are one.
    "do_lower_case",
    "do_sample_frames",
];

/// Largest side of a picture that a graph may read.
const LARGEST: usize = 8192;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    processor: Vec<Defaults>,
    refused: Vec<Refused>,
}

/// What a processor does where its configuration leaves a key out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    names: Vec<String>,
    #[serde(default)]
    square: bool,
    #[serde(default)]
    size: usize,
    resample: usize,
    /// `None`: it does not crop.
    crop: Option<usize>,
    /// The side of a tile; `None`: it makes no tiles.
    tiles: Option<usize>,
    #[serde(default)]
    most: usize,
    #[serde(default)]
    edge: usize,
    mean: [f64; 3],
    std: [f64; 3],
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    names: Vec<String>,
    missing: String,
}

fn table() -> Result<Table> {
    toml::from_str(include_str!("processors.toml"))
        .map_err(|e| Error::new(ErrorKind::Internal, format!("processors.toml: {e}")))
}

/// The steps that the processor's settings in `places` describe. `tiles` overrides whether pictures are cut; `video` has the
/// settings for videos.
///
/// # Errors
/// [`ErrorKind::BadModel`] naming file and key of a value that is missing or wrong; [`ErrorKind::Unsupported`] for a processor or
/// a rule that is not known.
pub(crate) fn read(
    places: &Places<'_>,
    video: &Places<'_>,
    tiles: Option<bool>,
    notes: &mut Notes,
) -> Result<Preprocess> {
    let defaults = defaults(places, notes)?;
    for place in &places.0 {
        known_rules(place)?;
    }
    let settings = Settings {
        places,
        defaults: &defaults,
    };
    let resample = settings.resample(places)?;
    let mut steps = Vec::new();
    let mut on_video = None;
    if defaults.tiles.is_some() {
        let (edge, tile) = settings.edges()?;
        let longest = Step::LongestEdge {
            size: edge,
            even: true,
            most: defaults.most,
        };
        let squash = Step::Squash {
            width: tile,
            height: tile,
        };
        let configured = settings.flag("do_image_splitting", true)?;
        let cut = tiles.unwrap_or(configured);
        if settings.flag("do_resize", true)? {
            steps.push(longest.clone());
        }
        if cut {
            steps.push(Step::Tiles { size: tile });
            let wide = |edge: usize| edge.div_ceil(tile);
            let passes = wide(edge) * wide(edge * 9 / 16) + 1;
            if passes > 2 {
                notes.warn(format!(
                    "pictures are cut into tiles ({}): a picture of 16:9 takes {passes} runs of the vision encoder and {passes} times \
                     the rows in each prompt; --tiles off makes it one",
                    if tiles.is_some() { "--tiles on" } else { "do_image_splitting" },
                ));
            }
        } else {
            steps.push(squash.clone());
        }
        if let Some(sampling) = video_settings(places, video)? {
            // Frames go through torchvision, which knows no Lanczos filter and takes a bicubic one.
            on_video = Some(Video {
                steps: vec![longest, squash],
                resample: "bicubic",
                fps: sampling.0,
                max_frames: sampling.1,
            });
        }
    } else {
        if tiles == Some(true) {
            let what = format!(
                "--tiles on: the image processor of {} cuts no pictures",
                places.files()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, what).remedy("leave out --tiles"));
        }
        settings.plain(&mut steps)?;
    }
    let Some((width, height)) = steps.iter().rev().find_map(Step::size) else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{}: the image processor neither crops nor squashes, so that pictures keep their proportions", places.files()),
        )
        .remedy("set size.height and size.width, or do_center_crop and crop_size, to what the graph was trained on"));
    };
    for side in [width, height] {
        if side == 0 || side > LARGEST {
            let what = format!("{}: pictures of {width} x {height} pixels", places.files());
            return Err(Error::new(ErrorKind::BadModel, what).remedy(format!(
                "a side has 1 to {LARGEST} pixels: correct size or crop_size"
            )));
        }
    }
    let (mean, std) = settings.normalisation()?;
    Ok(Preprocess {
        width,
        height,
        rescale: settings.rescale()?,
        mean,
        std,
        resample,
        steps,
        pixel_mask: None,
        video: on_video,
    })
}

fn defaults(places: &Places<'_>, notes: &mut Notes) -> Result<Defaults> {
    let keys = ["image_processor_type", "feature_extractor_type"];
    let mut named = None;
    for key in keys {
        if named.is_none() {
            named = places.get(key)?;
        }
    }
    let Some(named) = named else {
        let Some(first) = places.0.first() else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the export has neither preprocessor_config.json nor processor_config.json, which say how pictures become pixels",
            )
            .remedy("copy preprocessor_config.json from the model that was exported"));
        };
        return Err(first.missing("image_processor_type", "it says how pictures become pixels"));
    };
    let full = named.text()?;
    let name = full
        .strip_suffix("Fast")
        .or_else(|| full.strip_suffix("Pil"))
        .unwrap_or(full);
    let is = |names: &Vec<String>| names.iter().any(|own| own == name);
    let table = table()?;
    if let Some(refused) = table.refused.iter().find(|refused| is(&refused.names)) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{}: {full} needs what Atom does not have: {}",
                named.place(),
                refused.missing
            ),
        )
        .remedy(
            "import a model with one of the image processors that `atom help pack import` lists",
        ));
    }
    let found = table.processor.iter().find(|defaults| is(&defaults.names));
    let Some(found) = found else {
        let known: Vec<&str> = table
            .processor
            .iter()
            .flat_map(|p| p.names.iter().map(String::as_str))
            .collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{}: image processor {full:?} is not known", named.place()),
        )
        .remedy(format!(
            "if it does the same as one of these, name that in the file: {}",
            known.join(", ")
        )));
    };
    notes.infer("pixels", &format!("as {full} does"), &named.place());
    Ok(found.clone())
}

/// Refuses rules that are switched on and not known.
fn known_rules(place: &Node<'_>) -> Result<()> {
    for (key, node) in place.entries()? {
        if key.starts_with("do_") && !RULES.contains(&key) && node.is_bool() && node.flag()? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{}: Atom does not know this rule of an image processor",
                    node.place()
                ),
            )
            .remedy("if pictures come out the same without it, set it to false"));
        }
    }
    Ok(())
}

/// Frames per second and most frames, if the model takes videos.
fn video_settings(places: &Places<'_>, video: &Places<'_>) -> Result<Option<(f64, usize)>> {
    let (fps, most) = match places.get("video_sampling")? {
        Some(sampling) => (sampling.get("fps")?, sampling.get("max_frames")?),
        None if video.0.is_empty() => return Ok(None),
        None => (video.get("fps")?, video.get("num_frames")?),
    };
    let rate = fps.as_ref().map_or(Ok(1.0), Node::number)?;
    if !(rate > 0.0 && rate <= 1000.0) {
        return Err(fps.map_or_else(
            || Error::new(ErrorKind::Internal, "no rate"),
            |fps| fps.wrong("frames per second, above 0"),
        ));
    }
    let frames = most.as_ref().map_or(Ok(64), Node::whole)?;
    match most {
        Some(most) if frames == 0 || frames > 4096 => Err(most.wrong("1 to 4096 frames")),
        _ => Ok(Some((rate, frames))),
    }
}

struct Settings<'a> {
    places: &'a Places<'a>,
    defaults: &'a Defaults,
}

impl Settings<'_> {
    fn flag(&self, key: &str, otherwise: bool) -> Result<bool> {
        let found = self.places.get(key)?;
        found.map_or(Ok(otherwise), |node| node.flag())
    }

    /// Longest edge and side of a tile.
    fn edges(&self) -> Result<(usize, usize)> {
        let edge = |key: &str, otherwise: usize| -> Result<usize> {
            let Some(size) = self.places.get(key)? else {
                return Ok(otherwise);
            };
            if !size.is_number() && !size.is_object() {
                return Err(size.wrong("a number, or an object with longest_edge"));
            }
            let edge = match size.is_number() {
                true => size,
                false => size.need("longest_edge", "it is the length of the longer side")?,
            };
            let length = edge.whole()?;
            match length {
                1..=LARGEST => Ok(length),
                _ => Err(edge.wrong("1 to 8192 pixels")),
            }
        };
        let tile = edge("max_image_size", self.defaults.tiles.unwrap_or_default())?;
        Ok((edge("size", self.defaults.edge)?, tile))
    }

    /// Resize and crop.
    fn plain(&self, steps: &mut Vec<Step>) -> Result<()> {
        if self.flag("do_resize", true)? {
            steps.push(self.resize()?);
        }
        if self.flag("do_center_crop", self.defaults.crop.is_some())? {
            let (width, height) = match self.places.get("crop_size")? {
                Some(node) => sides(&node)?,
                None => {
                    let side = self.defaults.crop.unwrap_or(self.defaults.size);
                    (side, side)
                }
            };
            steps.push(Step::CenterCrop { width, height });
        }
        // Idefics3 pads the count of its tiles, which is none of ours; others pad pixels.
        if self.flag("do_pad", false)?
            && let Some(node) = self.places.get("do_pad")?
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{}: padding to a square before the resize is not known for this processor",
                    node.place()
                ),
            )
            .remedy("if the model was trained without it, set it to false"));
        }
        Ok(())
    }

    fn resize(&self) -> Result<Step> {
        let squash = |side: usize| Step::Squash {
            width: side,
            height: side,
        };
        let shortest = |size: usize| Step::ShortestEdge {
            size,
            longest: None,
        };
        let one = |size: usize| {
            if self.defaults.square {
                squash(size)
            } else {
                shortest(size)
            }
        };
        let Some(size) = self.places.get("size")? else {
            return Ok(one(self.defaults.size));
        };
        if size.is_number() {
            return Ok(one(positive(&size)?));
        }
        if !size.is_object() {
            return Err(
                size.wrong("a number, or an object with shortest_edge, or with height and width")
            );
        }
        let (edge, longest) = (size.get("shortest_edge")?, size.get("longest_edge")?);
        match (edge, longest, size.get("height")?, size.get("width")?) {
            (None, None, Some(height), Some(width)) => Ok(Step::Squash {
                width: positive(&width)?,
                height: positive(&height)?,
            }),
            (Some(edge), longest, None, None) => Ok(Step::ShortestEdge {
                size: positive(&edge)?,
                longest: longest.as_ref().map(positive).transpose()?,
            }),
            (None, Some(longest), None, None) => Ok(Step::LongestEdge {
                size: positive(&longest)?,
                even: false,
                most: LARGEST,
            }),
            _ => Err(size.wrong("an object with shortest_edge, or with height and width")),
        }
    }

    fn resample(&self, places: &Places<'_>) -> Result<&'static str> {
        const NAMES: [&str; 6] = [
            "nearest", "lanczos3", "bilinear", "bicubic", "box", "hamming",
        ];
        let Some(node) = places.get("resample")? else {
            return Ok(NAMES[self.defaults.resample.min(5)]);
        };
        let wrong = || {
            node.wrong(
                "a filter of Pillow: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming",
            )
        };
        if node.is_string() {
            let name = node.text()?.to_ascii_lowercase();
            let found = NAMES
                .iter()
                .find(|own| name.starts_with(own.trim_end_matches('3')));
            return found.copied().ok_or_else(wrong);
        }
        NAMES
            .get(node.whole().map_err(|_| wrong())?)
            .copied()
            .ok_or_else(wrong)
    }

    /// What levels of 0 to 255 are multiplied by.
    fn rescale(&self) -> Result<f64> {
        if !self.flag("do_rescale", true)? {
            return Ok(1.0);
        }
        let Some(node) = self.places.get("rescale_factor")? else {
            return Ok(1.0 / 255.0);
        };
        let factor = node.number()?;
        match factor > 0.0 && factor <= 1.0 {
            true => Ok(factor),
            false => Err(node.wrong("a number above 0, up to 1")),
        }
    }

    fn normalisation(&self) -> Result<([f64; 3], [f64; 3])> {
        if !self.flag("do_normalize", true)? {
            return Ok(([0.0; 3], [1.0; 3]));
        }
        let three = |key: &str, otherwise: [f64; 3]| -> Result<[f64; 3]> {
            let Some(node) = self.places.get(key)? else {
                return Ok(otherwise);
            };
            if node.is_number() {
                return Ok([node.number()?; 3]);
            }
            node.three()
        };
        let std = three("image_std", self.defaults.std)?;
        if let Some(node) = self.places.get("image_std")?
            && std.iter().any(|std| *std as f32 == 0.0)
        {
            return Err(node.wrong("numbers other than 0"));
        }
        Ok((three("image_mean", self.defaults.mean)?, std))
    }
}

fn positive(node: &Node<'_>) -> Result<usize> {
    match node.whole()? {
        size @ 1..=LARGEST => Ok(size),
        _ => Err(node.wrong("1 to 8192 pixels")),
    }
}

/// Width and height of a number, or of an object with both.
fn sides(node: &Node<'_>) -> Result<(usize, usize)> {
    if node.is_number() {
        let side = positive(node)?;
        return Ok((side, side));
    }
    let side = |key: &str| positive(&node.need(key, "it is a side of the crop")?);
    Ok((side("width")?, side("height")?))
}

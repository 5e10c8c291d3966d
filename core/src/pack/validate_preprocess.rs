//! What `[module.preprocess]` must satisfy beyond its grammar. Every message names the key.

use super::preprocess::{PreprocessSpec, StepSpec, whole_view};
use super::spec::{ModuleKind, ModuleSpec, PortSpec, Role};
use super::validate_values::{bad, require, size};
use crate::error::Result;
use crate::ort::DType;

/// The largest side of a picture on its way, in pixels.
const MOST: usize = 8192;
/// Steps of one list.
const MOST_STEPS: usize = 16;

pub(super) fn preprocess(spec: &PreprocessSpec, module: &ModuleSpec) -> Result<()> {
    size("preprocess.width", spec.width as usize, MOST)?;
    size("preprocess.height", spec.height as usize, MOST)?;
    size("preprocess.views (its length)", spec.views.len(), 64)?;
    require(
        spec.views
            .iter()
            .all(|view| view.fraction > 0.0 && view.fraction <= 1.0),
        "preprocess.views.fraction",
        "is out of range",
        "give a fraction above 0, up to 1",
    )?;
    require(
        spec.mean.iter().all(|mean| mean.is_finite()),
        "preprocess.mean",
        format_args!("= {:?}", spec.mean),
        "give finite numbers",
    )?;
    require(
        spec.std.iter().all(|std| std.is_finite() && *std != 0.0),
        "preprocess.std",
        format_args!("= {:?}", spec.std),
        "give finite numbers other than 0",
    )?;
    require(
        spec.rescale.is_finite() && spec.rescale != 0.0,
        "preprocess.rescale",
        format_args!("= {}", spec.rescale),
        "give a finite number other than 0; 1/255 when left out",
    )?;
    match spec.steps.is_empty() {
        true => views(spec, module),
        false => steps(spec, module),
    }
}

fn views(spec: &PreprocessSpec, module: &ModuleSpec) -> Result<()> {
    for (key, given) in [
        ("preprocess.pixel_mask", spec.pixel_mask.is_some()),
        ("preprocess.video", spec.video.is_some()),
    ] {
        require(
            !given,
            key,
            "has no meaning without preprocess.steps",
            "give steps, or remove it",
        )?;
    }
    require(
        module.inputs.len() == 1 && module.inputs[0].shape.len() == 4,
        "inputs",
        "are not one tensor of four dimensions",
        "what sees pixels has one input, [batch, 3, height, width] or [batch, height, width, 3]; with preprocess.steps also \
         [1, pictures, 3, height, width] and a pixel_mask",
    )
}

fn steps(spec: &PreprocessSpec, module: &ModuleSpec) -> Result<()> {
    require(
        spec.views == whole_view(),
        "preprocess.views",
        "stands beside preprocess.steps",
        "give one of them",
    )?;
    require(
        module.kind != ModuleKind::Detector,
        "preprocess.steps",
        "has no meaning for a detector",
        "give views: boxes are found in them",
    )?;
    list("preprocess.steps", &spec.steps, spec)?;
    if let Some(video) = &spec.video {
        list("preprocess.video.steps", &video.steps, spec)?;
    }
    let single = |port: &&PortSpec| matches!(port.role, Role::Embedding | Role::Posteriors);
    let lists = std::iter::once(&spec.steps).chain(spec.video.as_ref().map(|video| &video.steps));
    let mut all = lists.flatten();
    if let Some(port) = module.outputs.iter().find(single) {
        require(
            !all.any(|step| matches!(step, StepSpec::Tiles(_))),
            "preprocess.steps",
            format_args!(
                "cut into tiles, and output {:?} is of one picture",
                port.name
            ),
            "leave tiles out, or give only the role \"features\"",
        )?;
    }
    inputs(spec, module)
}

/// Sizes in range, `tiles` last, and a result of the size that the graph reads.
fn list(key: &str, steps: &[StepSpec], spec: &PreprocessSpec) -> Result<()> {
    size(&format!("{key} (its length)"), steps.len(), MOST_STEPS)?;
    for (at, step) in steps.iter().enumerate() {
        let sides: &[Option<u32>] = match step {
            StepSpec::Squash(to) => &[Some(to.width), Some(to.height)],
            StepSpec::ShortestEdge(to) => &[Some(to.size), to.longest],
            StepSpec::LongestEdge(to) => &[Some(to.size), to.most],
            StepSpec::CenterCrop(to) => &[Some(to.width), Some(to.height)],
            StepSpec::Pad(to) => &[to.width, to.height],
            StepSpec::Tiles(to) => &[Some(to.size)],
        };
        for side in sides.iter().flatten() {
            size(&format!("{key}[{at}] (a side)"), *side as usize, MOST)?;
        }
        if let StepSpec::ShortestEdge(to) = step {
            require(
                to.longest.is_none_or(|longest| longest >= to.size),
                format_args!("{key}[{at}].longest"),
                format_args!("is below size = {}", to.size),
                "give at least size",
            )?;
        }
        require(
            at + 1 == steps.len() || !matches!(step, StepSpec::Tiles(_)),
            format_args!("{key}[{at}]"),
            "is tiles and not the last step",
            "put it last: what follows is rescaling and normalising",
        )?;
    }
    let made = match steps.last() {
        Some(StepSpec::Squash(to)) => Some((to.width, to.height)),
        Some(StepSpec::CenterCrop(to)) => Some((to.width, to.height)),
        Some(StepSpec::Pad(to)) => to.width.zip(to.height),
        Some(StepSpec::Tiles(to)) => Some((to.size, to.size)),
        _ => None,
    };
    match made {
        Some(made) if made == (spec.width, spec.height) => Ok(()),
        Some((width, height)) => bad(
            key,
            format_args!(
                "make {width}x{height} pixels, and the graph reads width x height = {}x{}",
                spec.width, spec.height
            ),
            "correct one of them",
        ),
        None => bad(
            key,
            "do not end with a size that every picture gets",
            "end with squash, center-crop, pad with width and height, or tiles",
        ),
    }
}

/// The input of pixels, and that of the mask.
fn inputs(spec: &PreprocessSpec, module: &ModuleSpec) -> Result<()> {
    let mask = spec.pixel_mask.as_deref();
    let is_mask = |port: &&PortSpec| Some(port.name.as_str()) == mask;
    let declared = module.inputs.iter().find(is_mask);
    if let (Some(name), None) = (mask, declared) {
        return bad(
            "preprocess.pixel_mask",
            format_args!("= {name:?} is no input"),
            "name a declared input",
        );
    }
    let mut pixels = module.inputs.iter().filter(|port| !is_mask(port));
    let Some(port) = pixels.next() else {
        return bad(
            "inputs",
            "hold no pixels",
            "declare the input that reads the picture",
        );
    };
    if let Some(other) = pixels.next() {
        return bad(
            "inputs",
            format_args!(
                "hold {:?} and {:?}, and only one can be the picture",
                port.name, other.name
            ),
            "name the mask in preprocess.pixel_mask; other inputs of a visual encoder are not supported",
        );
    }
    let rank = port.shape.len();
    require(
        rank == 4 || rank == 5,
        "inputs.shape",
        format_args!("of {:?} has {rank} dimensions", port.name),
        "pixels are [pictures, 3, height, width] or [1, pictures, 3, height, width], or with the channels last",
    )?;
    let (Some(name), Some(mask)) = (mask, declared) else {
        return Ok(());
    };
    require(
        mask.shape.len() + 1 == rank,
        "preprocess.pixel_mask",
        format_args!("= {name:?} has {} dimensions", mask.shape.len()),
        "it has those of the pixels without the channels",
    )?;
    require(
        matches!(
            mask.dtype,
            DType::Bool | DType::U8 | DType::I32 | DType::I64 | DType::F32 | DType::F16
        ),
        "preprocess.pixel_mask",
        format_args!("= {name:?} is of a type that no mask has"),
        "it is bool, u8, i32, i64, f32 or f16",
    )
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::pack::Manifest;

    /// A captioner's tower that cuts tiles, with every key that steps may have.
    const PACK: &str = r#"
schema = 1
id = "eyes"
version = "1"
licence = "MIT"
[[module]]
id = "vision"
kind = "visual-encoder"
model = { file = "vision.onnx", sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", bytes = 1 }
precision = "fp32"
inputs = [
  { name = "pixel_values", dtype = "f32", shape = ["batch", "pictures", 3, 512, 512] },
  { name = "mask", dtype = "bool", shape = ["batch", "pictures", 512, 512] },
]
outputs = [{ name = "rows", dtype = "f32", shape = ["pictures", 64, 576], role = "features" }]
[module.preprocess]
width = 512
height = 512
rescale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
resample = "lanczos3"
pixel_mask = "mask"
steps = [
  { do = "longest-edge", size = 2048, even = true, most = 4096 },
  { do = "tiles", size = 512, whole = "last" },
]
[module.preprocess.video]
resample = "bicubic"
steps = [{ do = "squash", width = 512, height = 512 }]
"#;

    #[test]
    fn what_is_wrong_with_steps_is_named() {
        Manifest::parse(PACK).unwrap();
        let squash = r#"{ do = "squash", width = 512, height = 512 }"#;
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "resample = \"lanczos3\"",
                "resample = \"cubic\"",
                &["cubic", "bicubic"],
            ),
            (
                "rescale = 0.00392156862745098",
                "rescale = 0.0",
                &["preprocess.rescale"],
            ),
            (
                "rescale = 0.00392156862745098",
                "rescale = nan",
                &["preprocess.rescale"],
            ),
            (
                "pixel_mask = \"mask\"\n",
                "",
                &["inputs", "pixel_values", "mask"],
            ),
            (
                "pixel_mask = \"mask\"",
                "pixel_mask = \"veil\"",
                &["pixel_mask", "veil"],
            ),
            (
                "dtype = \"bool\", shape = [\"batch\", \"pictures\", 512, 512]",
                "dtype = \"bool\", shape = [\"batch\", 512, 512]",
                &["pixel_mask", "3 dimensions"],
            ),
            (
                "size = 512, whole",
                "size = 384, whole",
                &["preprocess.steps", "384x384", "512x512"],
            ),
            (
                "whole = \"last\"",
                "whole = \"middle\"",
                &["middle", "first"],
            ),
            ("do = \"tiles\"", "do = \"slices\"", &["slices", "tiles"]),
            ("even = true", "uneven = true", &["uneven"]),
            ("size = 2048", "size = 0", &["preprocess.steps[0]"]),
            ("size = 2048", "size = 100000", &["preprocess.steps[0]"]),
            (
                "  { do = \"tiles\", size = 512, whole = \"last\" },\n",
                "",
                &["preprocess.steps", "end with"],
            ),
            (
                "  { do = \"longest-edge\", size = 2048, even = true, most = 4096 },\n",
                "  { do = \"tiles\", size = 512 },\n",
                &["preprocess.steps[0]", "not the last"],
            ),
            (
                squash,
                "{ do = \"squash\", width = 500, height = 512 }",
                &["preprocess.video.steps", "500x512"],
            ),
            (
                squash,
                "{ do = \"shortest-edge\", size = 512, longest = 100 }",
                &["preprocess.video.steps[0].longest"],
            ),
            (
                "role = \"features\"",
                "role = \"embedding\"",
                &["preprocess.steps", "tiles", "rows"],
            ),
            (
                "pixel_mask",
                "views = [{ fit = \"crop\", fraction = 0.5 }]\npixel_mask",
                &["preprocess.views", "preprocess.steps"],
            ),
            (
                "shape = [\"batch\", \"pictures\", 3, 512, 512]",
                "shape = [\"batch\", 786432]",
                &["pixel_values", "2 dimensions"],
            ),
        ];
        for (from, to, named) in cases {
            assert_eq!(PACK.matches(from).count(), 1, "{from}");
            let error = Manifest::parse(&PACK.replace(from, to)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadPack, "{to}: {error}");
            let said = error.to_string();
            for name in *named {
                assert!(said.contains(name), "{to}: {said:?} does not name {name:?}");
            }
        }
        // Without steps these keys mean nothing.
        let start = PACK.find("steps = [").unwrap();
        let end = PACK.find("[module.preprocess.video]").unwrap();
        let viewed = PACK.replace(&PACK[start..end], "");
        let error = Manifest::parse(&viewed).unwrap_err();
        assert!(error.message().contains("preprocess.pixel_mask"), "{error}");
    }
}

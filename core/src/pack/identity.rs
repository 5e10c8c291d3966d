//! What decides the results of a pack's modules, as canonical identities.
//!
//! Each stored thing has an identity of its own, so that a change makes only that invalid which it changes:
//!
//! | identity | decided by |
//! |---|---|
//! | embedding | the visual encoder's weights and preprocessing, and the output of role `embedding` |
//! | posteriors, feature map | the same weights and preprocessing, and the output of their role |
//! | detections | for each detector in order: weights, variants, preprocessing, labels and thresholds |
//! | form | the weights of one variant of a module; a store keeps to one form of its encoder |
//!
//! Posteriors and feature map come out of the run that makes the embedding, but each through a port of its own: a pack that
//! declares another output for its connector leaves vectors and posteriors valid. What the classes of the posteriors are
//! called is the captioner's business and part of its identity.
//!
//! Names of packs and modules, versions, licences, descriptions, providers and their options, policies, load paths and
//! golden outputs decide no result. Declared types and shapes do not either: the graph has them, and loading refuses a
//! manifest that disagrees. External data counts by its name beside the graph, because the graph finds it by that name.
//!
//! The encoder's variants are not part of the embedding's identity: a pack that gains one for an accelerator keeps its
//! stores. Which form made a store is noted with its first vector ([`ModuleSpec::variant`]). Which form of a detector ran
//! is not noted, so all forms are part of the detections' identity.

use std::collections::BTreeMap;
use std::path::Path;

use super::decoder::{Constant, DecoderPorts, DecoderSpec, LayerName, Scalar};
use super::file_ref::FileRef;
use super::generation::{EarlyStopping, GenerationSpec, Never};
use super::manifest::Manifest;
use super::preprocess::{
    At, CropStep, Fit, Layout, LongestEdgeStep, Order, PadStep, PreprocessSpec, Resample,
    ShortestEdgeStep, SquashStep, StepSpec, TilesStep, VideoSteps, ViewSpec, Whole, per_byte,
    whole_view,
};
use super::spec::{DetectorSpec, ModuleSpec, Role, TokenizerSpec, VariantSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::features::{FeatureSources, Variant};
use crate::identity::{Canonical, Digest, Encode, Record, Value, encode_names, encode_struct};

// Raise a version when the same modules come to make something else: another resize, another way to average views or to
// drop overlapping boxes.
const EMBEDDING: u32 = 1;
const POSTERIORS: u32 = 1;
const FEATURE_MAP: u32 = 1;
const DETECTIONS: u32 = 1;
const FORM: u32 = 1;

/// What a store must know about the pack that fills it.
#[derive(Debug, Clone)]
pub struct IndexIdentity {
    /// What makes the vectors.
    pub embedding: Canonical,
    /// The vectors' length.
    pub dim: usize,
    /// What makes the other features.
    pub features: FeatureSources,
    /// The forms of the visual encoder, its own first.
    pub forms: Vec<Variant>,
    /// For people: the pack, its version and the encoder.
    pub description: String,
}

impl Manifest {
    /// The identities of what the index task stores.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a pack that cannot index, [`ErrorKind::BadPack`] for an encoder without a vector of
    /// fixed length.
    pub fn index_identity(&self) -> Result<IndexIdentity> {
        let index = self.tasks.index.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("pack {:?} cannot index, so it has no store", self.id),
            )
            .remedy("use a pack whose pack.toml has [tasks.index]")
        })?;
        let encoder = self.module(&index.visual_encoder)?;
        let lacks = || {
            Error::new(
                ErrorKind::BadPack,
                format!(
                    "module {:?} has no output of role \"embedding\" with a fixed last dimension",
                    encoder.id
                ),
            )
            .remedy("declare it in pack.toml")
        };
        let forms = (0..encoder.variants.len()).map(Some);
        let own = std::iter::once(None);
        Ok(IndexIdentity {
            embedding: output(encoder, Role::Embedding, "atom.embedding", EMBEDDING)
                .ok_or_else(lacks)?,
            dim: encoder.embedding_dim().ok_or_else(lacks)?,
            features: self.feature_sources()?,
            forms: own.chain(forms).map(|form| encoder.variant(form)).collect(),
            description: format!("{} {} {}", self.id, self.version, encoder.id),
        })
    }

    /// The identities of the features besides the vector: what a captioner reads, so part of its identity. Each is absent
    /// where no module makes the part.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a module the pack lacks.
    pub fn feature_sources(&self) -> Result<FeatureSources> {
        let map = match self.captioner_encoder() {
            Some(id) => self.feature_map(id)?,
            None => match &self.tasks.index {
                Some(index) => self.feature_map(&index.visual_encoder)?,
                None => None,
            },
        };
        let Some(index) = &self.tasks.index else {
            return Ok(FeatureSources {
                map,
                ..FeatureSources::default()
            });
        };
        let encoder = self.module(&index.visual_encoder)?;
        let detectors = index.detectors.iter().map(|id| self.module(id));
        let detectors = detectors.collect::<Result<Vec<_>>>()?;
        let of = |role, domain, version| {
            output(encoder, role, domain, version).map(|canonical| canonical.finish())
        };
        Ok(FeatureSources {
            posteriors: of(Role::Posteriors, "atom.posteriors", POSTERIORS),
            map,
            detections: detections(&detectors).map(|canonical| canonical.finish()),
        })
    }
}

impl Manifest {
    /// The identity of the rows that the encoder `id` makes for a captioner; `None` if it makes none.
    fn feature_map(&self, id: &str) -> Result<Option<Digest>> {
        let encoder = self.module(id)?;
        let index = self.tasks.index.as_ref();
        // Which form of the index task's encoder ran is noted with the first vector; of another encoder nothing is noted.
        let forms = match index.is_some_and(|index| index.visual_encoder == encoder.id) {
            true => Forms::Own,
            false => Forms::All,
        };
        let views = encoder.preprocess.as_ref().map_or(1, |p| p.views.len());
        let port = encoder.output_with(Role::Features);
        // Version 1 averaged the rows of several views.
        let version = match port.is_some_and(|port| port.shape.len() > 2) && views > 1 {
            true => FEATURE_MAP + 1,
            false => FEATURE_MAP,
        };
        let made = output_of(encoder, Role::Features, "atom.feature-map", version, forms);
        Ok(made.map(|canonical| canonical.finish()))
    }
}

/// The identity of the encoder's output of role `role`; `None` if it has none.
fn output(encoder: &ModuleSpec, role: Role, domain: &str, version: u32) -> Option<Canonical> {
    output_of(encoder, role, domain, version, Forms::Own)
}

fn output_of(
    encoder: &ModuleSpec,
    role: Role,
    domain: &str,
    version: u32,
    forms: Forms,
) -> Option<Canonical> {
    let port = encoder.output_with(role)?;
    let mut canonical = Canonical::new(domain, version);
    canonical
        .field("encoder", &encoder.computation(forms))
        .field("output", &port.name);
    Some(canonical)
}

/// The identity of what `detectors` find, one after another; `None` without any.
fn detections(detectors: &[&ModuleSpec]) -> Option<Canonical> {
    if detectors.is_empty() {
        return None;
    }
    let records = detectors.iter().map(|detector| {
        let mut detector = (*detector).clone();
        // A detector looks at its first view only.
        if let Some(preprocess) = &mut detector.preprocess {
            preprocess.views.truncate(1);
        }
        detector.computation(Forms::All).value()
    });
    let mut canonical = Canonical::new("atom.detections", DETECTIONS);
    canonical.field("detectors", &Value::list(records));
    Some(canonical)
}

/// Which forms of a module count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// Its own: for results that are noted with the form that made them.
    Own,
    /// Its variants too: any of them may have made the result.
    All,
}

impl ModuleSpec {
    /// Everything that decides what the module computes, except which of its outputs is read.
    pub fn computation(&self, forms: Forms) -> Record {
        let Self {
            model,
            data,
            preprocess,
            tokenizer,
            decoder,
            detector,
            variants,
            id: _,
            kind: _,
            precision: _,
            providers: _,
            policy: _,
            load: _,
            inputs: _,
            outputs: _,
            golden: _,
            options: _,
            fixed: _,
        } = self;
        let mut record = Record::new();
        record
            .field("weights", &weights(model, data))
            .field("preprocess", preprocess)
            .field("tokenizer", tokenizer)
            .field("decoder", decoder)
            .field("detector", detector);
        if forms == Forms::All {
            record.unless_default("variants", variants, &[] as &[VariantSpec]);
        }
        record
    }

    /// What tells the numbers of `variant` from those of the module's other forms; `None`: its own form. The provider is
    /// not part of it: it must reproduce the golden outputs of the very graph that it runs.
    pub fn variant(&self, variant: Option<usize>) -> Variant {
        let own = (&self.precision, &self.model, &self.data);
        let variant = variant.and_then(|at| self.variants.get(at));
        let (precision, model, data) = variant.map_or(own, |v| (&v.precision, &v.model, &v.data));
        Variant {
            hash: Canonical::of("atom.form", FORM, weights(model, data))
                .finish()
                .0,
            name: format!("{} as {} ({})", self.id, model.file, precision.name()),
        }
    }
}

/// The graph, and its external data by the names that the graph calls them.
fn weights(model: &FileRef, data: &[FileRef]) -> Record {
    let folder = Path::new(&model.file).parent().unwrap_or(Path::new(""));
    let beside = |file: &FileRef| {
        let path = Path::new(&file.file);
        let name = path.strip_prefix(folder).unwrap_or(path);
        (name.to_string_lossy().into_owned(), file.value())
    };
    let data: BTreeMap<String, Value> = data.iter().map(beside).collect();
    let mut record = Record::new();
    record
        .field("model", model)
        .unless_default("data", &data, &BTreeMap::<String, Value>::new());
    record
}

/// A file is what it contains.
impl Encode for FileRef {
    fn value(&self) -> Value {
        let Self {
            sha256,
            file: _,
            bytes: _,
        } = self;
        // A manifest with anything but a digest here does not parse.
        Digest::from_hex(sha256).map_or_else(|| sha256.value(), |digest| digest.value())
    }
}

impl Encode for VariantSpec {
    fn value(&self) -> Value {
        let Self {
            model,
            data,
            providers: _,
            precision: _,
            fixed: _,
            golden: _,
        } = self;
        weights(model, data).value()
    }
}

impl Encode for StepSpec {
    fn value(&self) -> Value {
        let (name, step) = match self {
            Self::Squash(step) => ("squash", step.value()),
            Self::ShortestEdge(step) => ("shortest-edge", step.value()),
            Self::LongestEdge(step) => ("longest-edge", step.value()),
            Self::CenterCrop(step) => ("center-crop", step.value()),
            Self::Pad(step) => ("pad", step.value()),
            Self::Tiles(step) => ("tiles", step.value()),
        };
        let mut record = Record::new();
        record.field(name, &step);
        record.value()
    }
}

impl Encode for LayerName {
    fn value(&self) -> Value {
        self.pattern().value()
    }
}

impl Encode for Constant {
    fn value(&self) -> Value {
        match self {
            Self::One(scalar) => scalar.value(),
            Self::Each(scalars) => scalars.value(),
        }
    }
}

impl Encode for EarlyStopping {
    fn value(&self) -> Value {
        match self {
            Self::Finished(flag) => flag.value(),
            Self::Word(Never::Never) => "never".value(),
        }
    }
}

impl Encode for Scalar {
    fn value(&self) -> Value {
        match self {
            Self::Flag(flag) => flag.value(),
            Self::Whole(number) => number.value(),
            Self::Number(number) => number.value(),
        }
    }
}

/// Calls a macro with the encoding of every struct of a manifest that is encoded field by field: the encoding itself is made
/// from this list, and so is the test that adds a field to each.
macro_rules! encoded_structs {
    ($with:ident) => {
        $with!(ViewSpec { fit, fraction });
        $with!(PreprocessSpec {
            width,
            height,
            resample,
            mean,
            std,
            views = whole_view(),
            layout = Layout::Nchw,
            order = Order::Rgb,
            steps = Vec::<StepSpec>::new(),
            rescale = per_byte(),
            pixel_mask,
            video,
        });
        $with!(VideoSteps { steps, resample });
        $with!(SquashStep { width, height, resample });
        $with!(ShortestEdgeStep { size, longest, resample });
        $with!(LongestEdgeStep { size, even = false, most, resample });
        $with!(CropStep { width, height });
        $with!(PadStep { width, height, colour = [0_u8; 3], at = At::Center });
        $with!(TilesStep { size, whole = Whole::Last, resample });
        $with!(DetectorSpec { labels, min_score, nms_iou });
        $with!(TokenizerSpec {
            file,
            max_tokens,
            pad_to,
            pad_id,
            lowercase = false,
            end_id,
        });
        $with!(GenerationSpec {
            beams = 1_usize,
            length_penalty = 1.0_f32,
            early_stopping = EarlyStopping::Finished(false),
            no_repeat_ngram = 0_usize,
            repetition_penalty = 1.0_f32,
            forced_first,
            forced_last,
            suppress = Vec::<u32>::new(),
            min_tokens = 0_usize,
            temperature = 1.0_f32,
            top_k = 50_usize,
            top_p = 1.0_f32,
            sample = false,
            max_tokens,
        });
        // The other dimensions are the graph's, and loading refuses a manifest that disagrees. What its ports are called says
        // which of them reads what.
        $with!(DecoderPorts {
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            encoder_hidden_states,
            encoder_attention_mask,
            use_cache_branch,
            num_logits_to_keep,
            logits,
            past_key,
            past_value,
            present_key,
            present_value,
            cross_past_key,
            cross_past_value,
            cross_present_key,
            cross_present_value,
        });
        $with!(DecoderSpec {
            bos,
            eos,
            context,
            chat_template,
            cached_rows,
            first_position = 0_u32,
            ports = DecoderPorts::default(),
            constants = BTreeMap::<String, Constant>::new(),
            start = Vec::<u32>::new(),
            generation = GenerationSpec::default(),
            exact_prefix = true,
        } ignoring { layers, kv_heads, head_dim, vocab, kv, kv_dtype });
    };
}
encoded_structs!(encode_struct);
encode_names!(Resample {
    Nearest = "nearest",
    Box = "box",
    Bilinear = "bilinear",
    Hamming = "hamming",
    Bicubic = "bicubic",
    Lanczos3 = "lanczos3",
});
encode_names!(At { Center = "center", TopLeft = "top-left" });
encode_names!(Whole { First = "first", Last = "last", None = "none" });
encode_names!(Fit { Crop = "crop", Stretch = "stretch", Pad = "pad" });
encode_names!(Layout { Nchw = "nchw", Nhwc = "nhwc" });
encode_names!(Order { Rgb = "rgb", Bgr = "bgr" });

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;

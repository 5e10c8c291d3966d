use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::pack::{
    Dim, EarlyStopping, GenerationSpec, LoadPath, Never, Policy, Precision, Provider,
};

const REFERENCE: &str = include_str!("../../../tests/fixtures/identity/reference.toml");
const NPU: &str = include_str!("../../../tests/fixtures/identity/reference-npu.toml");
const FOREIGN: &str = include_str!("../../../tests/fixtures/identity/foreign.toml");

fn manifest(text: &str) -> Manifest {
    Manifest::parse(text).unwrap()
}

/// Every identity of a pack by name.
fn identities(manifest: &Manifest) -> BTreeMap<String, String> {
    let index = manifest.index_identity().unwrap();
    let mut all = BTreeMap::from([("embedding".to_owned(), index.embedding.finish().to_string())]);
    let FeatureSources {
        posteriors,
        map,
        detections,
    } = index.features;
    for (name, digest) in [
        ("posteriors", posteriors),
        ("map", map),
        ("detections", detections),
    ] {
        all.extend(digest.map(|digest| (name.to_owned(), digest.to_string())));
    }
    for (at, form) in index.forms.iter().enumerate() {
        all.insert(format!("form {at}"), Digest(form.hash).to_string());
    }
    for module in &manifest.modules {
        let computation = Canonical::of("test", 1, module.computation(Forms::All));
        all.insert(
            format!("module {}", module.id),
            computation.finish().to_string(),
        );
    }
    all
}

/// Which identities `change` changes in the reference pack for NPUs.
fn changed(change: impl FnOnce(&mut Manifest)) -> BTreeSet<String> {
    let (old, mut new) = (manifest(NPU), manifest(NPU));
    change(&mut new);
    assert!(old != new, "nothing was changed");
    let (old, new) = (identities(&old), identities(&new));
    let names = old.keys().chain(new.keys());
    let differs = names.filter(|name| old.get(*name) != new.get(*name));
    differs.cloned().collect()
}

fn module<'a>(manifest: &'a mut Manifest, id: &str) -> &'a mut ModuleSpec {
    manifest.modules.iter_mut().find(|m| m.id == id).unwrap()
}

/// A change of `id` that `names` the identities of the test pack it changes.
fn expect(what: &str, names: &[&str], id: &str, change: impl FnOnce(&mut ModuleSpec)) {
    let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let found = changed(|manifest| change(module(manifest, id)));
    assert_eq!(found, expected, "{id}: {what}");
}

fn other(file: &mut FileRef) {
    file.sha256 = "ab".repeat(32);
}

#[test]
fn identities_of_known_packs_stay_as_they_are() {
    let pinned = include_str!("../../../tests/fixtures/identity/pinned.txt");
    let mut found = String::new();
    for (name, text) in [
        ("reference", REFERENCE),
        ("reference-npu", NPU),
        ("foreign", FOREIGN),
    ] {
        for (identity, digest) in identities(&manifest(text)) {
            found += &format!("{name} | {identity} | {digest}\n");
        }
    }
    assert!(found == pinned, "found:\n{found}");
}

#[test]
fn hashes_of_format_2_are_those_that_the_old_atom_wrote() {
    // Read from stores that Atom made at commit 94bc795: meta.identity, meta.variant, captions.maker.
    let hex = |text| Digest::from_hex(text).unwrap();
    for (text, store, form, captions) in [
        (
            REFERENCE,
            "b105b851078a76a0cf864dfcc0cef6f5c1eb487af32c7b9dd6ee61841bc7c51f",
            "de12a70dd364b83a106766b9e4cf398dba83ec80497f9a6cf877afa12bcb84ba",
            None,
        ),
        (
            NPU,
            "cadd0ed681cf739f7f113bc2a4bf7f6b05c0ea94f193011da7a88a94398eb351",
            "de12a70dd364b83a106766b9e4cf398dba83ec80497f9a6cf877afa12bcb84ba",
            None,
        ),
        (
            FOREIGN,
            "dad9647685832bec349317b3f80dbc25ca4b8370db6aa8977e6b5740325ee04a",
            "b46b16efc45c7511d39f1672dccc6c8da839e3a9c85a2d669d84d19bb86e5174",
            Some("9e46ee9858d93d0c65fa4aee7fbd1bbb2de8d7f02e42bb72d1db097d3e70a8ea"),
        ),
    ] {
        let manifest = manifest(text);
        let legacy = manifest.legacy_identity().unwrap().unwrap();
        assert_eq!(legacy.store, hex(store), "{}", manifest.id);
        assert_eq!(legacy.forms[0], hex(form));
        assert_eq!(legacy.captions, captions.map(hex));
        let forms = manifest.index_identity().unwrap().forms.len();
        assert_eq!(legacy.forms.len(), forms);
    }
    let npu = manifest(NPU).legacy_identity().unwrap().unwrap();
    assert_eq!(npu.forms.len(), 2);
    assert_eq!(
        npu.forms[1],
        hex("84a2abc816de84738264eb3e1cb6020627b9552991ebfd3be3413152b755ac32")
    );
}

/// What the visual encoder makes.
const ENCODER: &[&str] = &["embedding", "map", "module visual-encoder", "posteriors"];

#[test]
fn a_change_of_the_encoder_changes_what_it_makes_and_nothing_else() {
    let id = "visual-encoder";
    let made = |what: &str, change: &dyn Fn(&mut PreprocessSpec)| {
        expect(what, ENCODER, id, |m| {
            change(m.preprocess.as_mut().unwrap())
        });
    };
    made("width", &|p| p.width += 1);
    made("height", &|p| p.height += 1);
    made("resample", &|p| p.resample = Resample::Lanczos3);
    made("mean", &|p| p.mean[2] += 0.001);
    made("std", &|p| p.std[0] += 0.001);
    made("layout", &|p| p.layout = Layout::Nhwc);
    made("order", &|p| p.order = Order::Bgr);
    made("fit", &|p| p.views[0].fit = Fit::Pad);
    made("fraction", &|p| p.views[1].fraction = 0.5);
    made("one view less", &|p| p.views.truncate(1));
    let weights = [ENCODER, &["form 0"]].concat();
    expect("graph", &weights, id, |m| other(&mut m.model));
    expect("data", &weights, id, |m| other(&mut m.data[0]));
    expect("data under another name", &weights, id, |m| {
        m.data[0].file = "other.data".into();
    });
    // A variant makes other numbers, but which one made a store is noted with it.
    let variant = ["form 1", "module visual-encoder"];
    expect("variant", &variant, id, |m| other(&mut m.variants[0].model));
    expect("no variant", &variant, id, |m| m.variants.clear());
    for (role, name) in [
        (Role::Embedding, "embedding"),
        (Role::Posteriors, "posteriors"),
        (Role::Features, "map"),
    ] {
        expect("another output", &[name], id, |m| {
            let port = m.outputs.iter_mut().find(|port| port.role == role);
            port.unwrap().name = "hidden".into();
        });
    }
    expect("no connector reads it", &["map"], id, |m| {
        let port = m.outputs.iter_mut().find(|p| p.role == Role::Features);
        port.unwrap().role = Role::None;
    });
}

#[test]
fn a_change_of_a_detector_changes_the_detections_and_nothing_else() {
    for id in ["detector", "object-detector", "hand-detector"] {
        let module = format!("module {id}");
        let both = ["detections", module.as_str()];
        let expect = |what: &str, change: &dyn Fn(&mut ModuleSpec)| expect(what, &both, id, change);
        let rules = |change: &dyn Fn(&mut DetectorSpec)| {
            expect("rules", &|m| change(m.detector.as_mut().unwrap()));
        };
        rules(&|d| d.labels[0] += "s");
        rules(&|d| d.labels.push("ghost".into()));
        rules(&|d| d.min_score += 0.01);
        rules(&|d| d.nms_iou += 0.01);
        expect("graph", &|m| other(&mut m.model));
        expect("data", &|m| other(&mut m.data[0]));
        expect("mean", &|m| m.preprocess.as_mut().unwrap().mean[0] += 0.5);
        expect("view", &|m| {
            m.preprocess.as_mut().unwrap().views[0].fit = Fit::Crop;
        });
        expect("variant", &|m| {
            m.variants.push(VariantSpec {
                providers: vec![Provider::Qnn],
                model: FileRef {
                    file: "small.onnx".into(),
                    sha256: "cd".repeat(32),
                    bytes: 1,
                },
                data: Vec::new(),
                precision: Precision::Int8,
                fixed: BTreeMap::new(),
                golden: None,
            });
        });
    }
    let task = |change: &dyn Fn(&mut Vec<String>)| {
        let found = changed(|m| change(&mut m.tasks.index.as_mut().unwrap().detectors));
        assert_eq!(found, BTreeSet::from(["detections".to_owned()]));
    };
    // The labels of detections count through all detectors, so their order matters.
    task(&|detectors| detectors.swap(0, 1));
    task(&|detectors| detectors.truncate(2));
    task(&Vec::clear);
}

#[test]
fn labels_are_not_run_together() {
    let with = |labels: &[&str]| {
        let mut manifest = manifest(NPU);
        let spec = module(&mut manifest, "detector").detector.as_mut().unwrap();
        spec.labels = labels.iter().map(|label| (*label).to_owned()).collect();
        manifest.feature_sources().unwrap().detections
    };
    assert_ne!(with(&["a", "b"]), with(&["ab"]));
    assert_ne!(with(&["a, b"]), with(&["a", "b"]));
    assert_ne!(with(&["b", "a"]), with(&["a", "b"]));
}

#[test]
fn what_decides_no_result_changes_nothing() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("id", |m| m.id += "-2"),
        ("version", |m| m.version = "9".into()),
        ("licence", |m| m.licence = "MIT".into()),
        ("description", |m| m.description += "!"),
        ("query template", |m| {
            m.tasks.search.as_mut().unwrap().query_template = "{}".into();
        }),
        ("captioner", |m| m.captioner = manifest(FOREIGN).captioner),
    ];
    for (what, change) in changes {
        assert_eq!(changed(change), BTreeSet::new(), "{what}");
    }
    type ModuleChange = fn(&mut ModuleSpec);
    let changes: &[(&str, ModuleChange)] = &[
        ("precision", |m| m.precision = Precision::Int4),
        ("providers", |m| m.providers = vec![Provider::Nnapi]),
        ("policy", |m| m.policy = Policy::Require),
        ("load path", |m| {
            m.load = match m.load {
                LoadPath::Plain => LoadPath::Prepacked,
                LoadPath::Prepacked => LoadPath::Plain,
            };
        }),
        ("golden", |m| m.golden = None),
        ("options", |m| {
            m.options.insert(Provider::Qnn, Default::default());
        }),
        ("fixed", |m| {
            m.fixed.insert("batch".into(), 2);
        }),
        ("shape", |m| m.inputs[0].shape[0] = Dim::Fixed(7)),
        ("bytes", |m| m.model.bytes += 1),
        ("folder", |m| {
            m.model.file = format!("folder/{}", m.model.file);
            for file in &mut m.data {
                file.file = format!("folder/{}", file.file);
            }
        }),
    ];
    for id in ["visual-encoder", "detector", "text-encoder"] {
        for (what, change) in changes {
            expect(what, &[], id, change);
        }
    }
    expect("providers of a variant", &[], "visual-encoder", |m| {
        m.variants[0].providers = vec![Provider::Nnapi];
        m.variants[0].fixed.clear();
        m.variants[0].golden = None;
    });
    // The text encoder and its words have no part in what is stored.
    let text = ["module text-encoder"];
    expect("weights", &text, "text-encoder", |m| other(&mut m.model));
    expect("tokenizer", &text, "text-encoder", |m| {
        other(&mut m.tokenizer.as_mut().unwrap().file);
    });
    expect("tokens", &text, "text-encoder", |m| {
        m.tokenizer.as_mut().unwrap().max_tokens += 1;
    });
}

#[test]
fn a_decoder_is_what_it_reads_and_says() {
    let of = |change: &dyn Fn(&mut DecoderSpec)| {
        let mut manifest = manifest(FOREIGN);
        let module = module(&mut manifest, "mouth");
        change(module.decoder.as_mut().unwrap());
        module.computation(Forms::All)
    };
    let plain = of(&|_| {});
    let matters: &[&dyn Fn(&mut DecoderSpec)] = &[
        &|d| d.bos = Some(3),
        &|d| d.eos.push(7),
        &|d| d.context -= 1,
        &|d| d.chat_template = None,
        &|d| other(d.chat_template.as_mut().unwrap()),
        &|d| d.cached_rows = Some(1),
        &|d| d.start = vec![2],
        &|d| d.exact_prefix = false,
        &|d| d.generation.beams = 3,
        &|d| d.generation.forced_last = Some(2),
        &|d| d.generation.early_stopping = EarlyStopping::Word(Never::Never),
        &|d| d.first_position = 1,
        &|d| d.ports.past_key = Some(LayerName::new("past_key_values.%d.value")),
        &|d| {
            let constant = Constant::One(Scalar::Whole(1));
            d.constants.insert("task".into(), constant);
        },
    ];
    let of_the_graph: &[&dyn Fn(&mut DecoderSpec)] = &[
        &|d| d.layers += 1,
        &|d| d.kv_heads += 1,
        &|d| d.head_dim += 1,
        &|d| d.vocab += 1,
        &|d| d.kv = crate::pack::KvForm::Shared,
        &|d| d.kv_dtype = crate::pack::DType::F16,
    ];
    for change in matters {
        assert_ne!(of(*change), plain);
    }
    for change in of_the_graph {
        assert_eq!(of(*change), plain);
    }
}

/// Declares, for each encoded struct, one with the same fields and one more that has a default, and compares encodings.
/// The generic parameters carry the names of the fields, whose types need not be said again.
macro_rules! grow {
    ($type:ident { $($field:ident $(= $default:expr)?),* $(,)? }
     $(ignoring { $($ignored:ident),* $(,)? })?) => {{
        #[allow(non_camel_case_types, dead_code)]
        struct Grown<$($field,)* $($($ignored,)*)?> {
            $($field: $field,)*
            $($($ignored: $ignored,)*)?
            added_later: u32,
        }
        #[allow(non_camel_case_types)]
        impl<$($field: Encode,)* $($($ignored,)*)?> Encode
            for Grown<$($field,)* $($($ignored,)*)?>
        {
            fn value(&self) -> Value {
                let Self { $($field,)* $($($ignored: _,)*)? added_later } = self;
                let mut record = Record::new();
                $(encode_struct!(@field record, $field, [], [$($default)?]);)*
                encode_struct!(@field record, added_later, [], [4_u32]);
                record.value()
            }
        }
        for sample in samples::<$type>() {
            let now = sample.value();
            let $type { $($field,)* $($($ignored,)*)? } = sample;
            let mut grown = Grown { $($field,)* $($($ignored,)*)? added_later: 4 };
            assert_eq!(grown.value(), now, stringify!($type));
            grown.added_later = 5;
            assert_ne!(grown.value(), now, stringify!($type));
            GROWN.lock().unwrap().insert(stringify!($type));
        }
    }};
}

static GROWN: std::sync::Mutex<BTreeSet<&str>> = std::sync::Mutex::new(BTreeSet::new());

/// Values of a type in the known packs.
trait Sampled: Sized {
    fn of(module: &ModuleSpec) -> Vec<Self>;
}

macro_rules! sampled {
    ($($type:ident: $of:expr;)*) => {
        $(impl Sampled for $type {
            fn of(module: &ModuleSpec) -> Vec<Self> {
                let of: fn(&ModuleSpec) -> Vec<$type> = $of;
                of(module)
            }
        })*
    };
}
sampled! {
    ViewSpec: |m| m.preprocess.iter().flat_map(|p| p.views.clone()).collect();
    PreprocessSpec: |m| m.preprocess.clone().into_iter().collect();
    // The known packs have views and no steps.
    VideoSteps: |_| vec![VideoSteps { steps: steps(), resample: Some(Resample::Box) }];
    SquashStep: |_| of_steps(|step| match step { StepSpec::Squash(s) => Some(s), _ => None });
    ShortestEdgeStep: |_| of_steps(|step| match step { StepSpec::ShortestEdge(s) => Some(s), _ => None });
    LongestEdgeStep: |_| of_steps(|step| match step { StepSpec::LongestEdge(s) => Some(s), _ => None });
    CropStep: |_| of_steps(|step| match step { StepSpec::CenterCrop(s) => Some(s), _ => None });
    PadStep: |_| of_steps(|step| match step { StepSpec::Pad(s) => Some(s), _ => None });
    TilesStep: |_| of_steps(|step| match step { StepSpec::Tiles(s) => Some(s), _ => None });
    DetectorSpec: |m| m.detector.clone().into_iter().collect();
    TokenizerSpec: |m| m.tokenizer.clone().into_iter().collect();
    DecoderSpec: |m| m.decoder.clone().into_iter().collect();
    GenerationSpec: |m| m.decoder.iter().map(|decoder| decoder.generation.clone()).collect();
    DecoderPorts: |m| m.decoder.iter().map(|decoder| {
        let logits = Some("scores".into());
        DecoderPorts { logits, ..decoder.ports.clone() }
    }).collect();
}

/// One step of each kind, twice: with all that it may say, and with its defaults.
fn steps() -> Vec<StepSpec> {
    #[derive(serde::Deserialize)]
    struct Steps {
        steps: Vec<StepSpec>,
    }
    let text = r#"
steps = [
  { do = "squash", width = 32, height = 16, resample = "hamming" },
  { do = "squash", width = 32, height = 16 },
  { do = "shortest-edge", size = 8, longest = 9, resample = "box" },
  { do = "shortest-edge", size = 8 },
  { do = "longest-edge", size = 64, even = true, most = 4096, resample = "nearest" },
  { do = "longest-edge", size = 64 },
  { do = "center-crop", width = 5, height = 6 },
  { do = "pad", width = 7, height = 8, colour = [1, 2, 3], at = "top-left" },
  { do = "pad" },
  { do = "tiles", size = 32, whole = "first", resample = "lanczos3" },
  { do = "tiles", size = 32 },
]"#;
    toml::from_str::<Steps>(text).unwrap().steps
}

fn of_steps<T>(of: fn(StepSpec) -> Option<T>) -> Vec<T> {
    steps().into_iter().filter_map(of).collect()
}

#[test]
fn every_step_and_each_of_its_settings_counts() {
    let mut seen = BTreeSet::new();
    for step in steps() {
        assert!(seen.insert(format!("{:?}", step.value())), "{step:?}");
    }
    let id = "visual-encoder";
    let squash = || steps().swap_remove(0);
    expect("steps", ENCODER, id, |m| {
        m.preprocess.as_mut().unwrap().steps.push(squash())
    });
    expect("rescale", ENCODER, id, |m| {
        m.preprocess.as_mut().unwrap().rescale = 1.0
    });
    expect("mask", ENCODER, id, |m| {
        m.preprocess.as_mut().unwrap().pixel_mask = Some("mask".into());
    });
    expect("video", ENCODER, id, |m| {
        let resample = None;
        let steps = steps();
        m.preprocess.as_mut().unwrap().video = Some(VideoSteps { steps, resample });
    });
}

fn samples<T: Sampled>() -> Vec<T> {
    let all = [REFERENCE, NPU, FOREIGN].map(manifest);
    let modules = all.iter().flat_map(|manifest| &manifest.modules);
    modules.flat_map(T::of).collect()
}

#[test]
fn a_field_with_a_default_added_to_any_struct_changes_nothing() {
    encoded_structs!(grow);
    assert_eq!(
        GROWN.lock().unwrap().len(),
        14,
        "a struct has no sample in the known packs"
    );
}

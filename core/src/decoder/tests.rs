//! Which graphs are described, and how the others are refused.

use super::*;
use crate::error::{ErrorKind, Result};

const SPEC: &str = r#"
    layers = 2
    kv_heads = 3
    head_dim = 64
    vocab = 100
    context = 50
    kv = "concat"
    kv_dtype = "f32"
    eos = [2]
"#;

fn port(name: &str, dtype: DType, shape: &[Option<usize>]) -> Port {
    let dim = |size: &Option<usize>| match size {
        Some(size) => Dim::Fixed(*size),
        None => Dim::Symbolic("n".to_owned()),
    };
    Port {
        name: name.to_owned(),
        dtype,
        shape: shape.iter().map(dim).collect(),
    }
}

fn whole(name: &str) -> Port {
    port(name, DType::I64, &[None, None])
}

fn cache(name: &str) -> Port {
    port(name, DType::F32, &[None, Some(3), None, Some(64)])
}

/// Inputs and outputs of a graph.
#[derive(Clone)]
struct Graph(Vec<Port>, Vec<Port>);

impl Graph {
    /// As `SPEC` has it; `infix` stands between layer and part.
    fn plain(infix: &str) -> Self {
        let inputs = ["input_ids", "attention_mask", "position_ids"].map(whole);
        let logits = port("logits", DType::F32, &[None, None, Some(100)]);
        Self(inputs.to_vec(), vec![logits]).with_caches(infix)
    }

    fn with_caches(mut self, infix: &str) -> Self {
        for layer in 0..2 {
            for part in ["key", "value"] {
                self.0
                    .push(cache(&format!("past_key_values.{layer}.{infix}{part}")));
                self.1
                    .push(cache(&format!("present.{layer}.{infix}{part}")));
            }
        }
        self
    }

    /// A merged encoder-decoder model's.
    fn crossed() -> Self {
        let mut graph = Self::plain("decoder.").with_caches("encoder.");
        let states = port("encoder_hidden_states", DType::F16, &[None, None, Some(32)]);
        graph.0.push(states);
        graph.0.push(whole("encoder_attention_mask"));
        graph
            .0
            .push(port("use_cache_branch", DType::Bool, &[Some(1)]));
        graph
    }

    fn with(&self, port: Port) -> Self {
        let mut graph = self.without(&port.name);
        graph.0.push(port);
        graph
    }

    fn without(&self, name: &str) -> Self {
        let mut graph = self.clone();
        graph.0.retain(|port| port.name != name);
        graph
    }

    fn without_output(&self, name: &str) -> Self {
        let mut graph = self.clone();
        graph.1.retain(|port| port.name != name);
        graph
    }

    fn map(&self, spec: &str) -> Result<DecoderMap> {
        let spec: DecoderSpec = toml::from_str(spec).expect("spec");
        DecoderMap::new("mouth.onnx", &spec, &self.0, &self.1)
    }

    /// Holds that it is refused, in these words.
    fn refused(&self, spec: &str, words: &[&str]) {
        let error = self.map(spec).expect_err("a misfit");
        assert_eq!(error.kind(), ErrorKind::BadModel);
        let text = error.to_string();
        for word in words.iter().chain(&["mouth.onnx"]) {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}

fn source<'a>(map: &'a DecoderMap, name: &str) -> &'a Source {
    let input = map.inputs.iter().find(|input| input.port.name == name);
    &input.expect(name).source
}

#[test]
fn optimums_names_need_no_keys() {
    let map = Graph::plain("").map(SPEC).expect("map");
    assert_eq!(map.rows(), ("input_ids", Rows::Ids(DType::I64)));
    assert_eq!(*source(&map, "position_ids"), Source::Positions(1));
    assert_eq!(map.layers()[1].past[0], "past_key_values.1.key");
    assert_eq!(map.layers()[1].present[1], "present.1.value");
    assert!(!map.reads_encoder() && map.cross().is_empty());
    assert_eq!(map.cache_bytes(10), 2 * 2 * 3 * 64 * 10 * 4);
    assert_eq!(map.cross_bytes(10), 0);

    // Neither mask nor positions, embeddings of a known width, 32-bit numbers.
    let graph = Graph::plain("")
        .without("input_ids")
        .without("attention_mask");
    let rows = port("inputs_embeds", DType::F16, &[Some(1), None, Some(56)]);
    let graph = graph
        .with(rows)
        .with(port("position_ids", DType::I32, &[Some(3), None, None]));
    let map = graph.map(SPEC).expect("map");
    assert_eq!(
        map.rows(),
        ("inputs_embeds", Rows::Embeds(DType::F16, Some(56)))
    );
    assert!(map.has_three_positions());
    let ids = Graph::plain("").with(port("input_ids", DType::I32, &[None, None]));
    assert_eq!(ids.map(SPEC).expect("map").rows().1, Rows::Ids(DType::I32));

    let map = Graph::crossed().map(SPEC).expect("map");
    assert_eq!(map.layers()[0].past[0], "past_key_values.0.decoder.key");
    assert_eq!(map.cross()[1].present[1], "present.1.encoder.value");
    assert_eq!(map.cross_bytes(10), map.cache_bytes(10));
    assert_eq!(
        *source(&map, "past_key_values.1.encoder.key"),
        Source::CrossPast
    );
    assert_eq!(*source(&map, "use_cache_branch"), Source::CacheBranch);
}

#[test]
fn every_input_is_known_or_refused() {
    let plain = Graph::plain("");
    for (extra, words) in [
        (
            port("past_conv.0", DType::F32, &[None, Some(64)]),
            ["\"past_conv.0\"", "f32 [n, 64]"],
        ),
        (
            port("use_cache", DType::Bool, &[]),
            ["\"use_cache\"", "decoder.constants"],
        ),
        (
            cache("past_key_values.2.key"),
            ["layer 2", "decoder.layers = 2"],
        ),
        // A number that no integer holds; one that is not written as layers are.
        (
            cache("past_key_values.99999999999999999999999.key"),
            ["layer 999", "decoder.layers"],
        ),
        (
            cache("past_key_values.01.key"),
            ["layer 01", "decoder.layers"],
        ),
        (
            cache("past_key_values.-1.key"),
            ["\"past_key_values.-1.key\"", "does not know"],
        ),
        // The other of Optimum's names for the same.
        (
            cache("past_key_values.0.decoder.key"),
            ["0.decoder.key", "does not know"],
        ),
    ] {
        plain.with(extra).refused(SPEC, &words);
    }
    let twice = Graph(
        [plain.0.clone(), vec![whole("input_ids")]].concat(),
        plain.1.clone(),
    );
    twice.refused(SPEC, &["two inputs", "input_ids"]);
    let both = plain.with(port("inputs_embeds", DType::F32, &[None, None, None]));
    both.refused(SPEC, &["both"]);
    plain
        .without("input_ids")
        .refused(SPEC, &["neither", "inputs_embeds"]);
}

#[test]
fn types_and_shapes_are_held_against_the_manifest() {
    let plain = Graph::plain("");
    let key = "past_key_values.0.key";
    let spec = |from: &str, to: &str| SPEC.replace(from, to);
    plain.refused(
        &spec("layers = 2", "layers = 3"),
        &["past_key_values.2.key", "decoder.layers = 3"],
    );
    plain.refused(
        &spec("layers = 2", "layers = 1"),
        &["past_key_values.1.key", "decoder.layers = 1"],
    );
    plain.refused(
        &spec("heads = 3", "heads = 4"),
        &[key, "[n, 3, n, 64]", "kv_heads 4"],
    );
    plain.refused(&spec("dim = 64", "dim = 32"), &[key, "head_dim 32"]);
    plain.refused(&spec("\"f32\"", "\"f16\""), &[key, "f32", "expected f16"]);
    plain.refused(&spec("= 100", "= 99"), &["logits", "vocab 99"]);
    let unmasked = plain.without("attention_mask");
    unmasked.refused(&spec("concat", "shared"), &["attention_mask", "shared"]);
    plain
        .without_output("logits")
        .refused(SPEC, &["no output \"logits\""]);
    plain
        .without_output("present.1.value")
        .refused(SPEC, &["present.1.value", "present_value"]);
    for (port, words) in [
        (
            port("input_ids", DType::F32, &[None, None]),
            ["input_ids", "i64 or i32"],
        ),
        (
            port("input_ids", DType::I64, &[None, Some(1)]),
            ["[n, 1]", "sequence (open)"],
        ),
        (
            port("position_ids", DType::I64, &[None]),
            ["[n]", "sequence"],
        ),
        (
            port("position_ids", DType::I64, &[Some(4), None, None]),
            ["[4, n, n]", "numbers 3"],
        ),
        (
            port("attention_mask", DType::I64, &[None, None, None, None]),
            ["attention_mask", "[batch 1, total (open)]"],
        ),
        (
            port("use_cache_branch", DType::I64, &[Some(1)]),
            ["use_cache_branch", "expected bool"],
        ),
        (
            port("num_logits_to_keep", DType::I64, &[Some(2)]),
            ["num_logits_to_keep", "[2]"],
        ),
        (
            port(key, DType::F32, &[None, Some(3), Some(128), Some(64)]),
            [key, "length (open)"],
        ),
        (
            port(key, DType::F32, &[Some(4), Some(3), None, Some(64)]),
            [key, "batch 1"],
        ),
        (port(key, DType::F32, &[]), [key, "[]"]),
    ] {
        plain.with(port).refused(SPEC, &words);
    }
    // An output whose shape is not known is looked at when it comes.
    let mut unknown = plain.clone();
    unknown.1.iter_mut().for_each(|port| port.shape.clear());
    unknown.map(SPEC).expect("map");
}

#[test]
fn an_encoders_ports_need_each_other() {
    let graph = Graph::crossed();
    let first = "past_key_values.0.encoder.key";
    graph
        .without("use_cache_branch")
        .refused(SPEC, &[first, "first step", "decoder_model_merged"]);
    let unseen = graph.without("encoder_hidden_states");
    unseen.refused(SPEC, &["encoder_attention_mask", "encoder_hidden_states"]);
    unseen
        .without("encoder_attention_mask")
        .refused(SPEC, &[first, "encoder_hidden_states"]);
    graph
        .without("past_key_values.1.encoder.key")
        .refused(SPEC, &["1.encoder.key", "cross_past_key"]);
    graph
        .without_output("present.0.encoder.key")
        .refused(SPEC, &["present.0.encoder.key", "cross_present_key"]);
    graph.refused(
        &SPEC.replace("concat", "shared"),
        &["use_cache_branch", "concat"],
    );
}

#[test]
fn names_of_the_manifest_are_taken_and_must_be_there() {
    let spec = |keys: &str| format!("{SPEC}\n[ports]\n{keys}");
    let mut graph = Graph::plain("");
    for port in graph.0.iter_mut().chain(&mut graph.1) {
        port.name = port
            .name
            .replace("past_key_values.", "in.")
            .replace("present.", "out.");
    }
    let keys = "past_key = \"in.%d.key\"\npast_value = \"in.%d.value\"\npresent_key = \"out.%d.key\"\npresent_value = \"out.%d.value\"";
    let map = graph.map(&spec(keys)).expect("map");
    assert_eq!(map.layers()[1].present[0], "out.1.key");
    graph.refused(SPEC, &["past_key_values.0.key", "past_key_values.%d.key"]);
    let plain = Graph::plain("");
    plain.refused(
        &spec("position_ids = \"where\""),
        &["\"where\"", "decoder.ports.position_ids"],
    );
    plain.refused(&spec("logits = \"scores\""), &["\"scores\""]);
    plain.refused(
        &spec("cross_past_key = \"c.%d.k\""),
        &["\"c.0.k\"", "cross_past_key"],
    );
    // Two keys, or two layers' patterns, for one port.
    plain.refused(
        &spec("use_cache_branch = \"position_ids\""),
        &["position_ids", "bool"],
    );
    plain.refused(
        &spec("past_value = \"past_key_values.%d.key\""),
        &["past_key", "past_value", "both name"],
    );
}

#[test]
fn constants_take_the_ports_shape_and_type() {
    let flag = port("verbose", DType::Bool, &[]);
    let sizes = port("sizes", DType::I32, &[None, Some(2)]);
    let bias = port("bias", DType::F16, &[Some(1), None]);
    let graph = Graph::plain("").with(flag).with(sizes).with(bias);
    let spec = |verbose: &str, sizes: &str, bias: &str| {
        format!("{SPEC}\n[constants]\nverbose = {verbose}\nsizes = {sizes}\nbias = {bias}")
    };
    let map = graph
        .map(&spec("true", "[3, 4]", "[0.5, 1, -2]"))
        .expect("map");
    let shape = |name| match source(&map, name) {
        Source::Constant(_, shape) => shape.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (shape("verbose"), shape("sizes"), shape("bias")),
        (vec![], vec![1, 2], vec![1, 3])
    );
    graph.map(&spec("false", "7", "[1]")).expect("one for all");
    for (verbose, sizes, bias, words) in [
        ("1", "7", "[1]", ["verbose", "1 is no bool"]),
        ("true", "[1, 2, 3]", "[1]", ["sizes", "3 numbers for 2"]),
        (
            "true",
            "3000000000",
            "[1]",
            ["sizes", "3000000000 is no i32"],
        ),
        ("true", "true", "[1]", ["sizes", "true is no i32"]),
        ("true", "7", "1", ["bias", "give a list"]),
        ("true", "7", "[1e9]", ["bias", "is no f16"]),
    ] {
        graph.refused(&spec(verbose, sizes, bias), &words);
    }
    let huge = port("sizes", DType::I32, &[Some(usize::MAX), Some(2)]);
    graph
        .with(huge)
        .refused(&spec("true", "7", "[1]"), &["sizes", "too large"]);
}

#[test]
fn claims_of_a_hostile_manifest_do_not_overflow() {
    let mut spec: DecoderSpec = toml::from_str(SPEC).expect("spec");
    let map = Graph::plain("").map(SPEC).expect("map");
    spec.context = usize::MAX;
    let huge = DecoderMap { spec, ..map };
    assert_eq!(huge.cache_bytes(usize::MAX), u64::MAX);
}

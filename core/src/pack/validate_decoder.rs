//! What must hold for `[module.decoder]`.

use std::collections::{BTreeMap, BTreeSet};

use super::decoder::{Constant, DecoderPorts, DecoderSpec, LAYER, LayerName, Scalar};
use super::generation::GenerationSpec;
use super::validate_values::{bad, file, require, size, within};
use crate::error::Result;
use crate::ort::DType;

/// Longest name of a port.
const LONGEST_NAME: usize = 256;

/// Most tokens a text begins with.
const LONGEST_START: usize = 64;

/// Most texts that a beam search follows.
const MOST_BEAMS: usize = crate::control::MOST_BEAMS;

/// Most numbers of a [`Constant`].
const LONGEST_CONSTANT: usize = 4096;

/// Checks a decoder's table.
pub(super) fn decoder(spec: &DecoderSpec) -> Result<()> {
    size("decoder.layers", spec.layers, 1024)?;
    size("decoder.kv_heads", spec.kv_heads, 1024)?;
    size("decoder.head_dim", spec.head_dim, 65_536)?;
    size("decoder.vocab", spec.vocab, 1 << 24)?;
    size("decoder.context", spec.context, 1 << 24)?;
    require(
        matches!(spec.kv_dtype, DType::F32 | DType::F16),
        "decoder.kv_dtype",
        format_args!("= {}", spec.kv_dtype),
        "it is \"f32\" or \"f16\"",
    )?;
    require(
        !spec.eos.is_empty(),
        "decoder.eos",
        "is empty",
        "name the tokens that end a text",
    )?;
    let in_vocab = |&id: &u32| (id as usize) < spec.vocab;
    require(
        spec.eos.iter().chain(&spec.bos).all(in_vocab),
        "decoder.eos or decoder.bos",
        "names a token outside the vocabulary",
        "token ids are below decoder.vocab",
    )?;
    if let Some(rows) = spec.cached_rows {
        size("decoder.cached_rows", rows, spec.context)?;
    }
    require(
        spec.first_position <= 1024,
        "decoder.first_position",
        format_args!("= {}", spec.first_position),
        "it is 0 to 1024",
    )?;
    require(
        spec.start.len() <= LONGEST_START && spec.start.iter().all(in_vocab),
        "decoder.start",
        format_args!("= {:?}", spec.start),
        &format!("it has up to {LONGEST_START} tokens below decoder.vocab"),
    )?;
    ports(&spec.ports)?;
    constants(&spec.constants)?;
    generation(&spec.generation, spec)?;
    match &spec.chat_template {
        Some(template) => file("decoder.chat_template", template),
        None => Ok(()),
    }
}

fn ports(ports: &DecoderPorts) -> Result<()> {
    let mut seen = BTreeSet::new();
    let patterns = ports.patterns();
    let patterns = patterns.map(|(key, name)| (key, name.map(LayerName::pattern)));
    let names = ports.names();
    for (key, name) in names.into_iter().chain(patterns) {
        let Some(name) = name else { continue };
        let key = format!("decoder.ports.{key}");
        require(
            !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0'),
            &key,
            format_args!("has {} bytes", name.len()),
            &format!("a port's name has 1 to {LONGEST_NAME} bytes and no NUL"),
        )?;
        require(
            seen.insert(name),
            &key,
            format_args!("= {name:?} names a port that another key names"),
            "name each port once",
        )?;
    }
    for (key, name) in patterns {
        let Some(name) = name else { continue };
        require(
            name.matches('%').count() == 1 && name.contains(LAYER),
            format_args!("decoder.ports.{key}"),
            format_args!("= {name:?} does not hold %d once"),
            "%d stands for the layer's number, as in past_key_values.%d.key",
        )?;
    }
    Ok(())
}

fn generation(given: &GenerationSpec, spec: &DecoderSpec) -> Result<()> {
    let key = |name: &str| format!("decoder.generation.{name}");
    size(&key("beams"), given.beams, MOST_BEAMS)?;
    within(
        &key("length_penalty"),
        given.length_penalty.into(),
        -100.0,
        100.0,
    )?;
    for (name, penalty, range) in [
        ("repetition_penalty", given.repetition_penalty, "above 0"),
        (
            "temperature",
            given.temperature,
            "above 0; sample = false is greedy",
        ),
    ] {
        require(
            penalty > 0.0 && penalty.is_finite(),
            key(name),
            format_args!("= {penalty}"),
            &format!("it is a finite number {range}"),
        )?;
    }
    require(
        given.top_p > 0.0 && given.top_p <= 1.0,
        key("top_p"),
        format_args!("= {}", given.top_p),
        "it is above 0, up to 1",
    )?;
    for (name, count) in [
        ("no_repeat_ngram", given.no_repeat_ngram),
        ("min_tokens", given.min_tokens),
    ] {
        require(
            count <= spec.context,
            key(name),
            format_args!("= {count}"),
            "it is 0 (off) up to decoder.context",
        )?;
    }
    if let Some(most) = given.max_tokens {
        size(&key("max_tokens"), most, spec.context)?;
    }
    let forced = given.forced_first.iter().chain(&given.forced_last);
    if let Some(id) = forced
        .chain(&given.suppress)
        .find(|id| **id as usize >= spec.vocab)
    {
        return bad(
            "decoder.generation",
            format_args!("names token {id} in forced_first, forced_last or suppress"),
            format!("token ids are below decoder.vocab, which is {}", spec.vocab),
        );
    }
    require(
        given.beams == 1 || !given.sample,
        key("sample"),
        "= true together with beams above 1",
        "a beam search draws nothing at random; leave one of them out",
    )
}

fn constants(constants: &BTreeMap<String, Constant>) -> Result<()> {
    for (name, constant) in constants {
        let key = format!("decoder.constants.{name:?}");
        let scalars = constant.scalars();
        require(
            (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('\0'),
            "decoder.constants",
            format_args!("has a name of {} bytes", name.len()),
            &format!("a port's name has 1 to {LONGEST_NAME} bytes and no NUL"),
        )?;
        size(
            &format!("{key} (its length)"),
            scalars.len(),
            LONGEST_CONSTANT,
        )?;
        let finite = |scalar: &Scalar| !matches!(scalar, Scalar::Number(x) if !x.is_finite());
        if !scalars.iter().all(finite) {
            return bad(key, "is not finite", "give finite numbers");
        }
    }
    Ok(())
}

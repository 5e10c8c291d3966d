//! Names of a decoder's caches: the manifest's, else Optimum's.

use crate::pack::{DecoderPorts, LayerName};

const PAST: &str = "past_key_values";
const PRESENT: &str = "present";

/// The name of one part of a cache, and the key of `[module.decoder.ports]` for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) key: &'static str,
    pub(super) name: LayerName,
}

/// Names of a cache's ports; keys first, then values.
pub(super) struct CacheNames {
    pub(super) past: [Pattern; 2],
    pub(super) present: [Pattern; 2],
}

/// The names of self-attention's cache. Optimum uses `past_key_values.%d.decoder.key` in place of `past_key_values.%d.key` if the
/// graph also has ports for an encoder's keys and values. `is_input` and `is_output` tell which of the two the graph has.
pub(super) fn cache(
    ports: &DecoderPorts,
    is_input: &dyn Fn(&str) -> bool,
    is_output: &dyn Fn(&str) -> bool,
) -> CacheNames {
    let usual = |side: &str, part: &str, exists: &dyn Fn(&str) -> bool| {
        let plain = LayerName::new(&format!("{side}.%d.{part}"));
        let split = LayerName::new(&format!("{side}.%d.decoder.{part}"));
        if !exists(&plain.at(0)) && exists(&split.at(0)) {
            split
        } else {
            plain
        }
    };
    CacheNames {
        past: named(ports, ["past_key", "past_value"], |part| {
            usual(PAST, part, is_input)
        }),
        present: named(ports, ["present_key", "present_value"], |part| {
            usual(PRESENT, part, is_output)
        }),
    }
}

/// The names of an encoder's keys and values.
pub(super) fn cross(ports: &DecoderPorts) -> CacheNames {
    let usual = |side: &str, part: &str| LayerName::new(&format!("{side}.%d.encoder.{part}"));
    CacheNames {
        past: named(ports, ["cross_past_key", "cross_past_value"], |part| {
            usual(PAST, part)
        }),
        present: named(
            ports,
            ["cross_present_key", "cross_present_value"],
            |part| usual(PRESENT, part),
        ),
    }
}

/// Whether the manifest names an encoder's keys or values.
pub(super) fn names_cross(ports: &DecoderPorts) -> bool {
    let names = cross(ports);
    let mut patterns = names.past.iter().chain(&names.present);
    patterns.any(|pattern| ports.pattern(pattern.key).is_some())
}

/// The names under `keys`, of a key and of a value; `usual` names the part that the manifest does not.
fn named(
    ports: &DecoderPorts,
    keys: [&'static str; 2],
    usual: impl Fn(&str) -> LayerName,
) -> [Pattern; 2] {
    let pattern = |key: &'static str, part: &str| Pattern {
        key,
        name: ports.pattern(key).cloned().unwrap_or_else(|| usual(part)),
    };
    [pattern(keys[0], "key"), pattern(keys[1], "value")]
}

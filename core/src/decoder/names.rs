//! Which names a decoder's ports have: those of the manifest, else Optimum's.

use crate::pack::{DecoderPorts, LayerName};

/// The pattern of one part of a cache, and the key of `[module.decoder.ports]` that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) key: &'static str,
    pub(super) name: LayerName,
}

/// Patterns of keys and values, in this order.
pub(super) struct CacheNames {
    pub(super) past: [Pattern; 2],
    pub(super) present: [Pattern; 2],
}

/// The patterns of self-attention's cache. Optimum names its ports `past_key_values.%d.key`, and `.%d.decoder.key` where there
/// are ports for an encoder's keys and values too: `is_input` and `is_output` say which of these the graph has.
pub(super) fn cache(
    ports: &DecoderPorts,
    is_input: &dyn Fn(&str) -> bool,
    is_output: &dyn Fn(&str) -> bool,
) -> CacheNames {
    let pattern =
        |key, given: &Option<LayerName>, side: &str, part: &str, there: &dyn Fn(&str) -> bool| {
            let name = given.clone().unwrap_or_else(|| {
                let plain = LayerName::new(&format!("{side}.%d.{part}"));
                let split = LayerName::new(&format!("{side}.%d.decoder.{part}"));
                if !there(&plain.at(0)) && there(&split.at(0)) {
                    split
                } else {
                    plain
                }
            });
            Pattern { key, name }
        };
    CacheNames {
        past: [
            pattern("past_key", &ports.past_key, PAST, "key", is_input),
            pattern("past_value", &ports.past_value, PAST, "value", is_input),
        ],
        present: [
            pattern("present_key", &ports.present_key, PRESENT, "key", is_output),
            pattern(
                "present_value",
                &ports.present_value,
                PRESENT,
                "value",
                is_output,
            ),
        ],
    }
}

/// The patterns of an encoder's keys and values.
pub(super) fn cross(ports: &DecoderPorts) -> CacheNames {
    let pattern = |key, given: &Option<LayerName>, side: &str, part: &str| Pattern {
        key,
        name: given
            .clone()
            .unwrap_or_else(|| LayerName::new(&format!("{side}.%d.encoder.{part}"))),
    };
    CacheNames {
        past: [
            pattern("cross_past_key", &ports.cross_past_key, PAST, "key"),
            pattern("cross_past_value", &ports.cross_past_value, PAST, "value"),
        ],
        present: [
            pattern(
                "cross_present_key",
                &ports.cross_present_key,
                PRESENT,
                "key",
            ),
            pattern(
                "cross_present_value",
                &ports.cross_present_value,
                PRESENT,
                "value",
            ),
        ],
    }
}

/// Whether the manifest names an encoder's keys or values.
pub(super) fn names_cross(ports: &DecoderPorts) -> bool {
    [
        &ports.cross_past_key,
        &ports.cross_past_value,
        &ports.cross_present_key,
        &ports.cross_present_value,
    ]
    .into_iter()
    .any(Option::is_some)
}

const PAST: &str = "past_key_values";
const PRESENT: &str = "present";

//! What is wrong with `[module.decoder]` is said by naming the key.

use atom_core::ErrorKind;
use atom_core::pack::Manifest;

use crate::manifest::FULL;
use crate::support::Test;

/// Keys of `[module.decoder]` that name ports and give values.
#[test]
fn a_decoders_names_and_values_are_checked_before_there_is_a_graph() -> Test {
    let long = "n".repeat(257);
    let many = format!("sizes = [{}]", vec!["1"; 4097].join(", "));
    let long_name = format!("logits = \"{long}\"");
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "ports",
            "past_key = \"k.%d\"\npresent_value = \"o.%d\"",
            &[],
        ),
        (
            "ports",
            "past_key = \"k.0\"",
            &["decoder.ports.past_key", "%d once"],
        ),
        (
            "ports",
            "past_key = \"k.%d.%d\"",
            &["decoder.ports.past_key", "%d once"],
        ),
        (
            "ports",
            "present_key = \"%s.%d\"",
            &["decoder.ports.present_key", "%d once"],
        ),
        (
            "ports",
            "cross_past_value = \"%\"",
            &["cross_past_value", "%d once"],
        ),
        (
            "ports",
            "past_key = \"\"",
            &["decoder.ports.past_key", "0 bytes"],
        ),
        ("ports", &long_name, &["decoder.ports.logits", "257 bytes"]),
        (
            "ports",
            "position_ids = \"a\"\nlogits = \"a\"",
            &["decoder.ports.logits", "another key"],
        ),
        ("ports", "past_keys = \"k.%d\"", &["past_keys"]),
        ("ports", "past_key = 3", &["past_key"]),
        ("constants", "flag = true\nsizes = [1, 2.5]\nscale = 3", &[]),
        (
            "constants",
            "scale = nan",
            &["decoder.constants", "scale", "finite"],
        ),
        (
            "constants",
            "scale = [1, inf]",
            &["decoder.constants", "scale", "finite"],
        ),
        ("constants", "scale = []", &["decoder.constants", "scale"]),
        ("constants", "scale = \"one\"", &["a constant is a number"]),
        ("constants", "scale = [[1]]", &["a constant is a number"]),
        ("constants", &many, &["decoder.constants", "sizes", "4096"]),
        ("", "cached_rows = 0", &["decoder.cached_rows"]),
        ("", "cached_rows = 4096", &["decoder.cached_rows", "2048"]),
        ("", "first_position = 5000", &["decoder.first_position"]),
        ("", "first_position = -1", &["first_position"]),
        ("", "cached_rows = 1\nfirst_position = 1", &[]),
    ];
    let end = "chat_template = { file = \"chat_template.jinja\"";
    for (table, keys, says) in cases {
        let at = FULL.find(end).ok_or("the test's own text has changed")?;
        let at = at + FULL[at..].find('\n').unwrap_or(0) + 1;
        let table = match *table {
            "" => String::new(),
            name => format!("[module.decoder.{name}]\n"),
        };
        let text = format!("{}{table}{keys}\n{}", &FULL[..at], &FULL[at..]);
        match (Manifest::parse(&text), says) {
            (Ok(_), []) => {}
            (Ok(_), _) => return Err(format!("{keys:?} is accepted").into()),
            (Err(error), says) => {
                let text = error.to_string();
                assert!(!says.is_empty(), "{keys:?}: {text}");
                assert_eq!(error.kind(), ErrorKind::BadPack);
                for word in *says {
                    assert!(text.contains(word), "{keys:?}: {text} should say {word:?}");
                }
            }
        }
    }
    Ok(())
}

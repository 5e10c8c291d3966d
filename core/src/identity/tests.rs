use std::collections::BTreeMap;

use super::*;

fn of(fill: impl FnOnce(&mut Canonical)) -> Canonical {
    let mut canonical = Canonical::new("test", 1);
    fill(&mut canonical);
    canonical
}

#[test]
fn the_bytes_are_those_of_the_documentation() {
    let canonical = of(|c| {
        c.field("b", &-2_i32).field("a", "é");
    });
    let mut bytes = b"atom identity\n".to_vec();
    bytes.extend([4, 4, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"test");
    bytes.extend([1, 16, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(1_i128.to_le_bytes());
    bytes.extend([8, 9 + 9 + 2 + 9 + 9 + 16, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([
        1, 0, 0, 0, 0, 0, 0, 0, b'a', 4, 2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa9,
    ]);
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, b'b', 1, 16, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend((-2_i128).to_le_bytes());
    assert_eq!(canonical.bytes(), bytes);
    assert_eq!(
        canonical.finish().to_string(),
        "474a27f355eb4615842a39a4c4c355556b9d2e59ebf287f528b4696e82aaeb7a",
        "the hash of these bytes"
    );
}

#[test]
fn different_values_have_different_encodings() {
    let list = |texts: &[&str]| texts.value();
    let nested = |outer: &[(&str, Value)]| {
        let mut record = Record::new();
        for (name, value) in outer {
            record.field(name, value);
        }
        record.value()
    };
    let values = [
        Value::absent(),
        0_u8.value(),
        1_u8.value(),
        (-1_i64).value(),
        u64::MAX.value(),
        0.0_f64.value(),
        1.0_f64.value(),
        0.1_f32.value(),
        0.1_f64.value(),
        f64::NAN.value(),
        f64::INFINITY.value(),
        false.value(),
        true.value(),
        "".value(),
        "1".value(),
        "true".value(),
        Value::bytes(b""),
        Value::bytes(b"1"),
        Value::bytes(&[0; 32]),
        Digest([0; 32]).value(),
        list(&[]),
        list(&[""]),
        list(&["", ""]),
        list(&["ab"]),
        list(&["a", "b"]),
        list(&["b", "a"]),
        [["a", "b"]].value(),
        [["a"], ["b"]].value(),
        [Some(1_u8), None].value(),
        [None, Some(1_u8)].value(),
        [Some(1_u8)].value(),
        nested(&[]),
        nested(&[("a", 1_u8.value())]),
        nested(&[("a1", 1_u8.value())]),
        nested(&[("a", "1".value())]),
        nested(&[("a", 1_u8.value()), ("b", 1_u8.value())]),
        nested(&[("a", nested(&[("b", 1_u8.value())]))]),
        nested(&[("a", nested(&[])), ("b", 1_u8.value())]),
        nested(&[("a.b", 1_u8.value())]),
    ];
    for (at, first) in values.iter().enumerate() {
        for second in &values[..at] {
            assert_ne!(first, second);
        }
    }
}

#[test]
fn equal_numbers_are_written_alike_whatever_holds_them() {
    assert_eq!(7_u8.value(), 7_i64.value());
    assert_eq!(7_usize.value(), 7_u32.value());
    assert_eq!(0.25_f32.value(), 0.25_f64.value());
    assert_eq!((-0.0_f32).value(), 0.0_f64.value());
    assert_eq!(f32::NAN.value(), (-f64::NAN).value());
    assert_eq!(
        f64::from_bits(0x7ff0_0000_0000_0001).value(),
        f64::NAN.value()
    );
}

#[test]
fn order_defaults_and_absence_change_nothing() {
    let plain = of(|c| {
        c.field("a", &1_u8).field("b", "x");
    });
    let other = of(|c| {
        c.field("b", "x").unless_default("new", &4_u8, &4_u8);
        c.field("c", &None::<u8>).field("a", &1_u8);
    });
    assert_eq!(plain.bytes(), other.bytes());
    let changed = of(|c| {
        c.field("b", "x")
            .unless_default("new", &5_u8, &4_u8)
            .field("a", &1_u8);
    });
    assert_ne!(plain.finish(), changed.finish());
}

#[test]
fn domain_and_version_keep_identities_apart() {
    let all = [
        Canonical::new("a", 1),
        Canonical::new("a", 2),
        Canonical::new("b", 1),
        Canonical::new("", 1),
    ];
    for (at, first) in all.iter().enumerate() {
        assert!(
            all[..at]
                .iter()
                .all(|other| other.finish() != first.finish())
        );
    }
}

#[test]
fn a_struct_is_encoded_by_its_declared_names() {
    struct Now {
        width: u32,
        filter: Option<String>,
        tiles: u32,
        note: &'static str,
    }
    encode_struct!(Now { width as "w", filter, tiles = 1_u32 } ignoring { note });
    let mut expected = Record::new();
    expected.field("w", &96_u32).field("filter", "box");
    let now = Now {
        width: 96,
        filter: Some("box".into()),
        tiles: 1,
        note: "anything",
    };
    assert_eq!(now.note, "anything");
    assert_eq!(now.value(), expected.value());
    expected.field("tiles", &2_u32);
    assert_eq!(Now { tiles: 2, ..now }.value(), expected.value());
}

#[test]
fn differences_name_the_fields() {
    let base = |mean: f32, filter: Option<&str>| {
        let mut inner = Record::new();
        inner.field("mean", &[mean, 0.5]).field("filter", &filter);
        inner.field("empty", &BTreeMap::<String, u8>::new());
        of(|c| {
            c.field("preprocess", &inner)
                .field("weights", &Digest([3; 32]));
        })
    };
    let of = |a: &Canonical, b: &Canonical| differences(&a.bytes(), &b.bytes());
    let first = base(0.1, None);
    assert_eq!(of(&first, &first), Some(vec![]));
    let second = base(0.2, Some("box"));
    assert_eq!(
        of(&first, &second).unwrap(),
        [
            Difference {
                field: "preprocess.filter".into(),
                first: None,
                second: Some("\"box\"".into()),
            },
            Difference {
                field: "preprocess.mean".into(),
                first: Some("[0.1, 0.5]".into()),
                second: Some("[0.2, 0.5]".into()),
            },
        ]
    );
    let mut other = first.clone();
    other.version = 2;
    assert_eq!(of(&first, &other).unwrap()[0].field, "(version)");
    // Different fields are never taken for one another.
    let flat = Canonical::of("a", 1, {
        let mut record = Record::new();
        record.field("b.c", &1_u8);
        record
    });
    let deep = Canonical::of("a", 1, {
        let (mut inner, mut record) = (Record::new(), Record::new());
        record.field("b", &*inner.field("c", &1_u8));
        record
    });
    assert_eq!(of(&flat, &deep).unwrap().len(), 2);
    let bytes = first.bytes();
    for cut in 0..bytes.len() {
        assert_eq!(differences(&bytes, &bytes[..cut]), None, "cut at {cut}");
    }
    assert_eq!(differences(&bytes, b"something else"), None);
}

#[test]
fn hexadecimal_goes_both_ways() {
    let digest = Canonical::new("a", 1).finish();
    assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
    for text in ["", "0", &"g".repeat(64), &"é".repeat(32), &"0".repeat(63)] {
        assert_eq!(Digest::from_hex(text), None, "{text}");
    }
}

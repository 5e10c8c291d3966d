use super::super::schema::{FunctionProto, OperatorSetIdProto};
use super::super::test_models::{external, model, node, subgraph, value};
use super::*;
use crate::ErrorKind;

fn raw(name: &str, element: ElementType, dims: &[i64], bytes: usize) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(element.to_i32()),
        dims: dims.to_vec(),
        raw_data: Some(vec![0; bytes].into()),
        ..Default::default()
    }
}

fn place<'a>(location: &'a str, offset: &'a str, length: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("location", location),
        ("offset", offset),
        ("length", length),
    ]
}

fn whole() -> Model {
    let inner = GraphProto {
        node: vec![node("", "Relu", &["x"], &["r"])],
        initializer: vec![raw("packed", ElementType::INT4, &[3], 2)],
        ..Default::default()
    };
    let mut branch = node("", "If", &["x"], &["y"]);
    branch.attribute.push(subgraph("else_branch", inner));
    let mut own = node("", "Own", &["y"], &["z"]);
    own.domain = Some("me".to_owned());
    let mut constant = node("", "Constant", &[], &["k"]);
    let entries = place("deep/other.bin", "0", "9");
    let tensors = &mut constant.attribute;
    tensors.push(Default::default());
    *tensors[0].t.get_or_insert_default() = external("t", &[9], &entries);
    let mut model = model(GraphProto {
        node: vec![branch, own, constant],
        initializer: vec![
            raw("w", ElementType::FLOAT, &[2, 3], 24),
            external("far", &[4], &place("w.bin", "64", "16")),
            external("farther", &[4], &place("w.bin", "128", "16")),
        ],
        input: vec![value("x", &[0, -1, 3]), value("w", &[2, 3])],
        output: vec![value("z", &[0]), ValueInfoProto::default()],
        ..Default::default()
    });
    let proto = &mut model.proto;
    proto.producer_name = Some("pytorch".to_owned());
    proto.producer_version = Some("2.6".to_owned());
    proto.opset_import = vec![OperatorSetIdProto {
        version: Some(18),
        ..Default::default()
    }];
    proto.functions = vec![FunctionProto {
        name: Some("Own".to_owned()),
        domain: Some("me".to_owned()),
        node: vec![node("", "Relu", &["a"], &["b"])],
        ..Default::default()
    }];
    model
}

#[test]
fn a_summary_tells_ports_operators_and_weights() -> Result<()> {
    let summary = whole().inspect()?;
    assert_eq!(summary.producer, "pytorch 2.6");
    assert_eq!(summary.opsets, BTreeMap::from([("ai.onnx".to_owned(), 18)]));
    let shape = vec![
        Dimension::Named("batch".to_owned()),
        Dimension::Open,
        Dimension::Fixed(3),
    ];
    let input = Port {
        name: "x".to_owned(),
        element: Some(ElementType::FLOAT),
        shape: Some(shape),
    };
    assert_eq!(summary.inputs, [input]);
    assert_eq!(summary.outputs[1].element, None);
    assert_eq!(summary.outputs[1].shape, None);
    let operators = summary.operators.iter();
    let operators: Vec<String> = operators
        .map(|(op, count)| format!("{op} {count}"))
        .collect();
    assert_eq!(operators, ["Constant 1", "If 1", "Relu 2", "me::Own 1"]);
    assert_eq!(summary.functions[0].to_string(), "me::Own");
    let weights: Vec<_> = summary
        .initializers
        .iter()
        .map(|w| (&w.name[..], w.bytes, w.external.as_deref()))
        .collect();
    assert_eq!(
        weights,
        [
            ("w", 24, None),
            ("far", 16, Some("w.bin")),
            ("farther", 16, Some("w.bin")),
            ("packed", 2, None),
        ]
    );
    let files = [("deep/other.bin".to_owned(), 9), ("w.bin".to_owned(), 144)];
    assert_eq!(summary.external_files, BTreeMap::from(files));
    Ok(())
}

fn refused(tensor: TensorProto) -> String {
    let model = model(GraphProto {
        initializer: vec![tensor],
        ..Default::default()
    });
    let refused = model.inspect().expect_err("it describes it");
    assert_eq!(refused.kind(), ErrorKind::BadModel);
    assert!(refused.remedy_text().is_some(), "{refused}");
    refused.message().to_owned()
}

#[test]
fn weights_that_cannot_be_are_refused_by_name() {
    let most = u64::MAX.to_string();
    for tensor in [
        raw("bad", ElementType::FLOAT, &[2, -3], 24),
        raw("bad", ElementType::FLOAT, &[2, 3], 23),
        raw("bad", ElementType::FLOAT, &[i64::MAX, i64::MAX], 24),
        external("bad", &[1], &place("w.bin", "1", &most)),
        external("bad", &[1], &place("w.bin", "-1", "1")),
        external("bad", &[1], &place("w.bin", "1", "one")),
        external("bad", &[1], &place("/etc/passwd", "0", "1")),
        external("bad", &[1], &place("../w.bin", "0", "1")),
        external("bad", &[1], &place("a/../../w.bin", "0", "1")),
        external("bad", &[1], &place("", "0", "1")),
        external("bad", &[1], &place("a\0b", "0", "1")),
        external("bad", &[1], &[("length", "1")]),
    ] {
        let why = refused(tensor);
        assert!(why.contains("\"bad\""), "{why}");
    }
}

#[test]
fn missing_and_short_files_of_weights_are_named() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| crate::Error::io("temp", &e))?;
    let check = || whole().check_external_files(dir.path());
    let write = |name: &str, bytes: usize| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(dir.path().join("deep"))
            .and_then(|()| std::fs::write(&path, vec![0; bytes]))
            .map_err(|e| crate::Error::io(path.display(), &e))
    };
    let missing = check().expect_err("nothing is there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.message().contains("other.bin"), "{missing}");
    write("deep/other.bin", 9)?;
    write("w.bin", 143)?;
    let short = check().expect_err("a byte is missing");
    assert_eq!(short.kind(), ErrorKind::BadModel);
    assert!(short.message().contains("w.bin"), "{short}");
    write("w.bin", 144)?;
    check()
}

#[test]
fn files_of_weights_get_other_names_everywhere() -> Result<()> {
    let mut model = whole();
    model.rename_external_files(|old| format!("towers/{}", old.replace('/', "-")))?;
    let files = model.external_files()?;
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names, ["towers/deep-other.bin", "towers/w.bin"]);
    let outside = model.rename_external_files(|_| "../w.bin".to_owned());
    assert_eq!(outside.map_err(|e| e.kind()), Err(ErrorKind::BadModel));
    Ok(())
}

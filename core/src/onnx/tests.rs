use std::time::{Duration, Instant};

use buffa::bytes::Buf;
use buffa::{UnknownField, UnknownFieldData};

use super::schema::{AttributeProto, NodeProto, TensorProto};
use super::test_models::{encoded, external, model, node, number, subgraph, value};
use super::*;

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// A field of `number` with a length.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    buffa::types::put_len_delimited_header(number, content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// With one of most things.
fn rich() -> Model {
    let inner = GraphProto {
        node: vec![node("inner", "Relu", &["x"], &["r"])],
        ..Default::default()
    };
    let mut branch = node("branch", "If", &["x"], &["y"]);
    branch.attribute = vec![number("n", -1), subgraph("then_branch", inner)];
    model(GraphProto {
        node: vec![branch],
        initializer: vec![
            external("far", &[2], &[("location", "w"), ("length", "8")]),
            TensorProto {
                name: Some("near".to_owned()),
                dims: vec![3],
                raw_data: Some(vec![1, 2, 3].into()),
                ..Default::default()
            },
        ],
        input: vec![value("x", &[0, 3])],
        ..Default::default()
    })
}

#[test]
fn a_model_is_written_as_it_was_read() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    let bytes = rich().to_vec()?;
    let read = Model::parse(bytes.clone())?;
    assert_eq!(read, rich());
    assert_eq!(read.to_vec()?, bytes);
    read.write(&path)?;
    assert_eq!(std::fs::read(&path).ok(), Some(bytes));
    assert_eq!(Model::read(&path)?, read);
    assert_eq!(
        std::fs::read_dir(dir.path()).map(|d| d.count()).ok(),
        Some(1)
    );
    Ok(())
}

#[test]
fn fields_of_a_newer_schema_survive_a_rewrite() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    let data = [
        (900, UnknownFieldData::Varint(7)),
        (901, UnknownFieldData::Fixed32(8)),
    ];
    let newer = |fields: &mut buffa::UnknownFields, mark: &[u8]| {
        for (number, data) in data.clone() {
            fields.push(UnknownField { number, data });
        }
        let data = UnknownFieldData::LengthDelimited(mark.to_vec());
        fields.push(UnknownField { number: 902, data });
    };
    let mut model = rich();
    let proto = &mut model.proto;
    newer(&mut proto.__buffa_unknown_fields, b"in the model");
    let graph = proto.graph.get_or_insert_default();
    newer(&mut graph.__buffa_unknown_fields, b"in the graph");
    newer(&mut graph.node[0].__buffa_unknown_fields, b"in a node");
    let attribute = &mut graph.node[0].attribute[0];
    newer(&mut attribute.__buffa_unknown_fields, b"in an attribute");
    let tensor = &mut graph.initializer[0];
    newer(&mut tensor.__buffa_unknown_fields, b"in a tensor");
    let entry = &mut tensor.external_data[0];
    newer(&mut entry.__buffa_unknown_fields, b"in an entry");
    graph.node[0].op_type = Some("Relu".to_owned());
    model.write(&path)?;

    // A kind of attribute that is newer than the schema, too: the number of its type is no known one.
    let mut odd = encoded(&AttributeProto::default());
    odd.extend([0xa0, 0x01, 0x63]);
    let odd_node = field(1, &field(5, &odd));
    let mut bytes = std::fs::read(&path).map_err(|e| Error::io("temp", &e))?;
    // Twice the same field: the graphs are merged.
    bytes.extend(field(7, &odd_node));
    std::fs::write(&path, &bytes).map_err(|e| Error::io("temp", &e))?;

    // What every rewrite does: read, change a tensor, write.
    let mut read = Model::read(&path)?;
    read.rename_external_files(|_| "elsewhere".to_owned())?;
    let part = read.extract(&["x"], &["y"])?;
    for (model, everything) in [(read, true), (part, false)] {
        let bytes = model.to_vec()?;
        let has = |mark: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
        for mark in ["model", "graph", "node", "attribute", "tensor", "entry"] {
            let there = bytes.windows(mark.len()).any(|w| w == mark.as_bytes());
            // The part has no need of the tensor.
            let there_is = everything || !["tensor", "entry"].contains(&mark);
            assert_eq!(there, there_is, "{mark}");
        }
        assert_eq!(has(&[0xa0, 0x01, 0x63]), everything);
        assert_eq!(has(b"elsewhere"), everything);
        let again = Model::parse(bytes.clone())?;
        assert_eq!(again.to_vec()?, bytes);
        let fields = &again.graph().node[0].__buffa_unknown_fields;
        assert_eq!(fields.iter().count(), 3);
    }
    Ok(())
}

#[test]
fn weights_are_slices_of_the_content() -> Result<()> {
    let weights = vec![7; 1 << 20];
    let whole = model(GraphProto {
        initializer: vec![TensorProto {
            raw_data: Some(weights.into()),
            ..Default::default()
        }],
        ..Default::default()
    });
    let content = Bytes::from(whole.to_vec()?);
    let read = Model::parse(content.clone())?;
    let raw = read.graph().initializer[0].raw_data.as_ref();
    let slice = raw.map(|raw| content.as_ptr_range().contains(&raw.as_ptr()));
    assert_eq!(slice, Some(true));
    // A copy of the model and a part of it share them, too.
    let copy = read.clone();
    let of_copy = copy.graph().initializer[0].raw_data.as_ref();
    assert_eq!(of_copy.map(|b| b.as_ptr()), raw.map(|b| b.as_ptr()));
    assert_eq!(content.remaining(), content.len());
    Ok(())
}

#[test]
fn what_is_no_model_is_refused_with_a_remedy() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    let whole = rich().to_vec()?;
    for bad in [
        &b""[..],
        b"no model at all",
        &[0xff; 30],
        &whole[..whole.len() - 3],
        // Its graph says that it is longer than everything.
        &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        // A text that is none.
        &[0x3a, 0x03, 0x12, 0x01, 0xff],
    ] {
        std::fs::write(&path, bad).map_err(|e| Error::io("temp", &e))?;
        let refused = Model::read(&path).expect_err("it was read");
        assert_eq!(refused.kind(), ErrorKind::BadModel);
        assert!(refused.message().contains("m.onnx"), "{refused}");
        assert!(refused.remedy_text().is_some(), "{refused}");
    }
    assert_eq!(kind(Model::read(dir.path())), Some(ErrorKind::BadModel));
    let missing = Model::read(&dir.path().join("none"));
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
    Ok(())
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    // It has holes in place of bytes.
    File::create(&path)
        .and_then(|file| file.set_len(LARGEST_FILE + 1))
        .map_err(|e| Error::io("temp", &e))?;
    let began = Instant::now();
    let refused = Model::read(&path).expect_err("it was read");
    assert_eq!(refused.kind(), ErrorKind::BadModel);
    assert!(refused.message().contains("m.onnx"), "{refused}");
    assert!(began.elapsed() < Duration::from_millis(500));
    Ok(())
}

#[test]
fn a_model_that_fits_no_file_is_not_written() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    rich().write(&path)?;
    let before = std::fs::read(&path).ok();
    // The same bytes forty times.
    let weights = Bytes::from(vec![0; 64 << 20]);
    let tensor = TensorProto {
        raw_data: Some(weights),
        ..Default::default()
    };
    let large = model(GraphProto {
        initializer: vec![tensor; 40],
        ..Default::default()
    });
    let refused = large.write(&path).expect_err("it was written");
    assert_eq!(refused.kind(), ErrorKind::BadModel);
    assert!(refused.message().contains("m.onnx"), "{refused}");
    assert_eq!(kind(large.to_vec()), Some(ErrorKind::BadModel));
    assert_eq!(std::fs::read(&path).ok(), before);
    assert_eq!(
        std::fs::read_dir(dir.path()).map(|d| d.count()).ok(),
        Some(1)
    );
    Ok(())
}

#[test]
fn deep_nesting_is_refused() {
    let mut graph = GraphProto::default();
    let nest = |graph| {
        let mut branch = node("b", "If", &["x"], &["y"]);
        branch.attribute.push(subgraph("then_branch", graph));
        GraphProto {
            node: vec![branch],
            ..Default::default()
        }
    };
    for _ in 0..30 {
        graph = nest(graph);
    }
    let fine = encoded(&model(graph).proto);
    let fine = Model::parse(fine).expect("thirty are not too many");
    assert!(fine.inspect().is_ok());
    // Built as bytes: a structure so deep could not even be dropped.
    let mut content = Vec::new();
    for _ in 0..3_000 {
        content = field(1, &field(5, &field(6, &content)));
    }
    let refused = Model::parse(field(7, &content)).expect_err("it was read");
    assert_eq!(refused.kind(), ErrorKind::BadModel);
    assert!(refused.message().contains("nested"), "{refused}");
    // Groups of a newer schema, of which nobody knows the end.
    let groups = vec![0xbb; 1 << 20];
    assert_eq!(kind(Model::parse(groups)), Some(ErrorKind::BadModel));
}

#[test]
fn more_messages_than_any_model_has_are_refused() {
    for (what, bomb) in [
        ("nodes", field(7, &[0x0a, 0x00].repeat(8 << 20))),
        (
            "attributes",
            field(7, &field(1, &[0x2a, 0x00].repeat(8 << 20))),
        ),
        ("tensors", field(7, &[0x2a, 0x00].repeat(8 << 20))),
        ("names", field(7, &field(1, &[0x0a, 0x00].repeat(8 << 20)))),
        ("unknown fields", [0xc0, 0x3e, 0x00].repeat(4 << 20)),
    ] {
        let began = Instant::now();
        let refused = Model::parse(bomb).expect_err(what);
        assert_eq!(refused.kind(), ErrorKind::BadModel);
        assert!(
            refused.message().contains("more nodes"),
            "{what}: {refused}"
        );
        assert!(began.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn elements_are_small() {
    // The limit of what they may take together allows as many as any graph has.
    for (size, least) in [
        (size_of::<NodeProto>(), 400_000),
        (size_of::<AttributeProto>(), 300_000),
        (size_of::<TensorProto>(), 300_000),
    ] {
        assert!(ELEMENT_BYTES / size >= least, "{size} bytes");
    }
}

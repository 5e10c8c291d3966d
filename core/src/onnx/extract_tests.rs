use super::super::schema::{OperatorSetIdProto, TensorProto};
use super::super::test_models::{external, model, node, subgraph, value};
use super::*;

/// Two towers, `a` → `p` and `b` → `q`, which share the weights `w`, and a head over both.
fn towers() -> Model {
    let mut own = node("own", "Own", &["m"], &["p"]);
    own.domain = Some("me".to_owned());
    let then = GraphProto {
        node: vec![node("then", "Add", &["n", "hidden"], &["t"])],
        initializer: vec![weights("local")],
        output: vec![value("t", &[2])],
        ..Default::default()
    };
    let mut branch = node("branch", "If", &["flag"], &["q"]);
    branch.attribute.push(subgraph("then_branch", then));
    let mut whole = model(GraphProto {
        name: Some("towers".to_owned()),
        node: vec![
            node("left", "MatMul", &["a", "w"], &["m"]),
            own,
            node("right", "MatMul", &["b", "w"], &["n"]),
            branch,
            node("head", "Mul", &["p", "q", "scale"], &["logits"]),
            node("spare", "Relu", &["logits"], &["unread"]),
        ],
        initializer: vec![
            external(
                "w",
                &[2, 2],
                &[("location", "weights.bin"), ("length", "16")],
            ),
            weights("hidden"),
            weights("scale"),
        ],
        input: ["a", "b", "flag"].map(|name| value(name, &[0, 2])).to_vec(),
        output: vec![value("logits", &[0, 2])],
        value_info: ["m", "n", "p"].map(|name| value(name, &[0, 2])).to_vec(),
        ..Default::default()
    });
    let function = |name: &str, calls: &str| FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("me".to_owned()),
        node: vec![NodeProto {
            domain: Some("me".to_owned()),
            ..node(name, calls, &["x"], &["y"])
        }],
        ..Default::default()
    };
    whole.proto.functions = vec![
        function("Unused", "Own"),
        // Two that call each other, which nothing may follow for ever.
        function("Own", "Inner"),
        function("Inner", "Own"),
    ];
    whole.proto.opset_import = vec![OperatorSetIdProto {
        version: Some(21),
        ..Default::default()
    }];
    whole
}

fn weights(name: &str) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        ..Default::default()
    }
}

/// Names of nodes, initializers, inputs, outputs, values and functions.
fn names(model: &Model) -> [Vec<String>; 6] {
    let graph = model.graph();
    let values = |values: &[ValueInfoProto]| {
        let all = values.iter().map(|value| text(&value.name).to_owned());
        all.collect()
    };
    let nodes = graph.node.iter().map(|node| text(&node.name).to_owned());
    let tensors = graph.initializer.iter().map(|t| text(&t.name).to_owned());
    let functions = model.proto.functions.iter();
    [
        nodes.collect(),
        tensors.collect(),
        values(&graph.input),
        values(&graph.output),
        values(&graph.value_info),
        functions.map(|f| text(&f.name).to_owned()).collect(),
    ]
}

#[test]
fn each_tower_has_what_it_needs_and_no_more() -> Result<()> {
    let whole = towers();
    let left = whole.extract(&["a"], &["p"])?;
    let expected: [&[&str]; 6] = [
        &["left", "own"],
        &["w"],
        &["a"],
        &["p"],
        &["m"],
        &["Own", "Inner"],
    ];
    assert_eq!(names(&left), expected);
    // The graph inside the branch reads `n` and `hidden` by name alone.
    let right = whole.extract(&["flag", "b"], &["q"])?;
    let expected: [&[&str]; 6] = [
        &["right", "branch"],
        &["w", "hidden"],
        &["flag", "b"],
        &["q"],
        &["n"],
        &[],
    ];
    assert_eq!(names(&right), expected);
    // Weights that both need are where they were.
    for tower in [&left, &right] {
        assert_eq!(tower.graph().initializer[0], whole.graph().initializer[0]);
        assert_eq!(tower.proto.opset_import, whole.proto.opset_import);
        assert_eq!(Model::parse(tower.to_vec()?)?, *tower);
    }
    // Cut in the middle: what makes `p` is not needed.
    let head = whole.extract(&["p", "b", "flag"], &["logits"])?;
    assert_eq!(names(&head)[0], ["right", "branch", "head"]);
    Ok(())
}

#[test]
fn old_files_keep_their_initializers_as_inputs() -> Result<()> {
    let mut old = towers();
    old.proto.ir_version = Some(3);
    let graph = old.proto.graph.get_or_insert_default();
    graph.input.push(value("w", &[2, 2]));
    graph.input.push(value("scale", &[1]));
    let left = old.extract(&["a"], &["p"])?;
    assert_eq!(names(&left)[2], ["a", "w"]);
    Ok(())
}

#[test]
fn cuts_that_make_no_model_are_refused_by_name() {
    let whole = towers();
    for (inputs, outputs, kind, what) in [
        (&["a"][..], &["none"][..], ErrorKind::NotFound, "\"none\""),
        (&["none"], &["p"], ErrorKind::NotFound, "\"none\""),
        (
            &["a"],
            &["logits"],
            ErrorKind::InvalidArgument,
            "[\"b\", \"flag\"]",
        ),
        (&["a", "b"], &["p"], ErrorKind::InvalidArgument, "[\"b\"]"),
        (&["a"], &["a"], ErrorKind::InvalidArgument, "\"a\""),
        (&["a"], &[], ErrorKind::InvalidArgument, "[\"a\"]"),
        // Nothing tells its type.
        (
            &["p", "q"],
            &["logits"],
            ErrorKind::InvalidArgument,
            "\"q\"",
        ),
    ] {
        let refused = whole.extract(inputs, outputs).expect_err(what);
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.message().contains(what), "{refused}");
        assert!(
            refused.remedy_text().is_some() || inputs == outputs,
            "{refused}"
        );
    }
}

#[test]
fn circles_end() -> Result<()> {
    let round = model(GraphProto {
        node: vec![
            node("one", "Add", &["x", "z"], &["y"]),
            node("two", "Relu", &["y"], &["z"]),
        ],
        input: vec![value("x", &[1])],
        output: vec![value("z", &[1])],
        ..Default::default()
    });
    assert_eq!(names(&round.extract(&["x"], &["z"])?)[0], ["one", "two"]);
    Ok(())
}

#[test]
fn parts_share_the_weights_that_both_need() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("weights.bin"), [7_u8; 16]).expect("weights");
    let mut whole = towers();
    let large = TensorProto {
        dims: vec![512],
        data_type: Some(1),
        raw_data: Some(vec![3; 2048].into()),
        ..weights("hidden")
    };
    let graph = whole.proto.graph.get_or_insert_default();
    graph.initializer[1] = large;
    let mut parts = [
        whole.extract(&["a"], &["p"])?,
        whole.extract(&["flag", "b"], &["q"])?,
    ];
    let file = folder.path().join("shared.data");
    let stored = super::super::share_weights(&mut parts, folder.path(), &file, "shared.data")?;
    assert_eq!(
        stored,
        HashMap::from([("w".to_owned(), 16), ("hidden".to_owned(), 2048)])
    );
    // Once, wherever they were before, and the first at the file's beginning.
    let content = std::fs::read(&file).expect("the file");
    assert_eq!(content[..16], [7; 16]);
    assert_eq!(content[64..], [3; 2048]);
    let [left, right] = &parts;
    assert_eq!(left.graph().initializer[0], right.graph().initializer[0]);
    for part in &parts {
        part.check_external_files(folder.path())?;
        assert_eq!(
            part.external_files()?.keys().collect::<Vec<_>>(),
            ["shared.data"]
        );
    }
    assert_eq!(right.external_files()?["shared.data"], 64 + 2048);
    assert!(
        right
            .graph()
            .initializer
            .iter()
            .all(|t| t.raw_data.is_none())
    );
    Ok(())
}

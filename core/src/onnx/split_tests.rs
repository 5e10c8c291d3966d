use super::super::schema::ValueInfoProto;
use super::super::test_models::{external, model, node as plain, number, subgraph};
use super::*;

const COLUMNS: i64 = 100_000;

/// A tensor of `rows` rows of `row` bytes at 4096 in a file.
fn tensor(name: &str, rows: i64, row: i64) -> TensorProto {
    let length = rows.saturating_mul(row).to_string();
    let place = [
        ("location", "weights"),
        ("offset", "4096"),
        ("length", &length),
    ];
    external(name, &[rows, row], &place)
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    let mut node = plain("n", op, inputs, &[output]);
    node.attribute = vec![number("K", 64), number("N", COLUMNS)];
    node
}

fn built(nodes: &[NodeProto], tensors: &[TensorProto], inputs: &[&str]) -> Model {
    let input = |name: &&str| ValueInfoProto {
        name: Some((*name).to_owned()),
        ..Default::default()
    };
    model(GraphProto {
        node: nodes.to_vec(),
        initializer: tensors.to_vec(),
        input: inputs.iter().map(input).collect(),
        ..Default::default()
    })
}

/// The columns of a product with the 3.2 MB of weights `w`, with everything it may read.
fn heavy() -> (NodeProto, [TensorProto; 4]) {
    let node = node("MatMulNBits", &["x", "w", "s", "z", "", "b"], "y");
    let tensors = [
        tensor("w", COLUMNS, 32),
        tensor("s", 2 * COLUMNS, 4),
        tensor("z", COLUMNS, 1),
        tensor("b", COLUMNS, 4),
    ];
    (node, tensors)
}

fn attribute(node: &NodeProto, name: &str) -> Option<i64> {
    let mut attributes = node.attribute.iter();
    attributes.find(|a| text(&a.name) == name).and_then(|a| a.i)
}

#[test]
fn a_heavy_product_is_split_by_columns() {
    let (product, tensors) = heavy();
    let other = node("Gather", &["w", "x"], "g");
    let mut model = built(&[product, other], &tensors, &["x"]);
    let slices = model.split_matmul();
    let nodes = &model.graph().node;
    let columns: Vec<_> = nodes.iter().map(|node| attribute(node, "N")).collect();
    // Half of the columns, rounded up to 64.
    assert_eq!(columns, [Some(50_048), Some(49_952), None, Some(COLUMNS)]);
    let inputs: Vec<String> = nodes.iter().map(|node| node.input.join(" ")).collect();
    assert_eq!(
        inputs,
        [
            "x w.part0 s.part0 z.part0  b.part0",
            "x w.part50048 s.part50048 z.part50048  b.part50048",
            "y.part0 y.part50048",
            "w x"
        ]
    );
    assert_eq!(text(&nodes[2].op_type), "Concat");
    assert_eq!(attribute(&nodes[2], "axis"), Some(-1));
    assert_eq!(nodes[2].output, ["y"]);

    let mut places: Vec<_> = model
        .graph()
        .initializer
        .iter()
        .map(|tensor| {
            let external = External::of(tensor).ok().flatten().expect("external");
            let place = (external.offset, external.length.unwrap_or(0));
            (text(&tensor.name), &tensor.dims[..], place)
        })
        .collect();
    places.sort();
    let rows = [
        ("b.part0", [50_048, 4], 0),
        ("b.part50048", [49_952, 4], 4 * 50_048),
        ("s.part0", [100_096, 4], 0),
        ("s.part50048", [99_904, 4], 8 * 50_048),
        // The whole stays for the other node.
        ("w", [COLUMNS, 32], 0),
        ("w.part0", [50_048, 32], 0),
        ("w.part50048", [49_952, 32], 32 * 50_048),
        ("z.part0", [50_048, 1], 0),
        ("z.part50048", [49_952, 1], 50_048),
    ];
    let expected = rows.each_ref().map(|(name, dims, at)| {
        let bytes = (dims[0] * dims[1]) as u64;
        (*name, &dims[..], (4096 + at, bytes))
    });
    assert_eq!(places, expected);
    let last = TensorSlice {
        name: "w.part50048".to_owned(),
        whole: "w".to_owned(),
        offset: 32 * 50_048,
    };
    assert!(slices.contains(&last), "{slices:?}");
    assert_eq!(slices.len(), 8);
}

#[test]
fn what_cannot_be_split_stays_whole() {
    let whole = |nodes: &[NodeProto], tensors: &[TensorProto], inputs: &[&str]| {
        let mut model = built(nodes, tensors, inputs);
        let before = model.clone();
        let whole = model.split_matmul().is_empty();
        assert_eq!(whole, model == before);
        whole
    };
    let (product, tensors) = heavy();
    let alone = std::slice::from_ref(&product);
    assert!(!whole(alone, &tensors, &["x"]));
    assert!(whole(alone, &tensors, &["x", "s"]), "scales that are given");
    assert!(whole(alone, &tensors[..2], &["x"]), "zero points computed");
    let ordered = node("MatMulNBits", &["x", "w", "s", "", "z"], "y");
    assert!(whole(&[ordered], &tensors, &["x"]), "rows in another order");
    let other = node("MatMul", &["x", "w"], "y");
    assert!(whole(&[other], &tensors, &["x"]), "another operation");
    let nothing = node("MatMulNBits", &[], "y");
    assert!(whole(&[nothing], &tensors, &["x"]), "no inputs");
    let mut negative = product.clone();
    negative.attribute[1].i = Some(-COLUMNS);
    assert!(whole(&[negative], &tensors, &["x"]), "negative columns");
    let mut uneven = tensors.clone();
    uneven[1] = tensor("s", 2 * COLUMNS - 1, 4);
    assert!(whole(alone, &uneven, &["x"]), "scales that do not fit");
    let mut small = tensors.clone();
    small[0] = tensor("w", COLUMNS, 16);
    assert!(whole(alone, &small, &["x"]), "1.6 MB");
    let mut taken = tensors.to_vec();
    taken.push(tensor("z.part50048", 1, 1));
    assert!(whole(alone, &taken, &["x"]), "a name that is taken");
    let taken = [product.clone(), node("Relu", &["x"], "y.part0")];
    assert!(whole(&taken, &tensors, &["x"]), "a result's name is taken");
    let mut inside = tensors.clone();
    inside[0] = TensorProto {
        name: Some("w".to_owned()),
        dims: vec![COLUMNS, 32],
        raw_data: Some(vec![0; 3_200_000].into()),
        ..Default::default()
    };
    assert!(whole(alone, &inside, &["x"]), "weights in the graph");
    // One of nine alike.
    let mut nodes = vec![product.clone()];
    let mut nine = tensors.to_vec();
    for at in 0..8 {
        let name = format!("w{at}");
        nodes.push(node("MatMul", &["x", &name], &name));
        nine.push(tensor(&name, COLUMNS, 45));
    }
    assert!(whole(&nodes, &nine, &["x"]), "a ninth of all weights");
}

#[test]
fn weights_that_something_else_may_read_stay() {
    let (product, tensors) = heavy();
    let names = |model: &Model| -> Vec<String> {
        let tensors = model.graph().initializer.iter();
        let wholes = tensors.filter(|tensor| !text(&tensor.name).contains(".part"));
        wholes.map(|tensor| text(&tensor.name).to_owned()).collect()
    };
    let mut alone = built(std::slice::from_ref(&product), &tensors, &["x"]);
    alone.split_matmul();
    assert_eq!(names(&alone), [""; 0]);
    let mut branch = node("If", &["x"], "i");
    branch
        .attribute
        .push(subgraph("then_branch", GraphProto::default()));
    let mut nested = built(&[product.clone(), branch], &tensors, &["x"]);
    assert_eq!(nested.split_matmul().len(), 8);
    assert_eq!(names(&nested), ["w", "s", "z", "b"]);
    let mut graph = built(&[product], &tensors, &["x"]).graph().clone();
    graph.output.push(ValueInfoProto {
        name: Some("s".to_owned()),
        ..Default::default()
    });
    let mut given = model(graph);
    given.split_matmul();
    assert_eq!(names(&given), ["s"]);
}

/// Nobody has looked at these numbers when a graph is split.
#[test]
fn sizes_that_no_file_has_are_left_to_onnx_runtime() {
    let (product, tensors) = heavy();
    let most = u64::MAX.to_string();
    for at in 0..tensors.len() {
        for (key, value) in [
            ("offset", &most),
            ("length", &most),
            ("length", &((COLUMNS as u64) << 40).to_string()),
        ] {
            let mut odd = tensors.clone();
            set(&mut odd[at], key, value.clone());
            // Split or not: what comes of them is in range, or refused when it is loaded.
            built(std::slice::from_ref(&product), &odd, &["x"]).split_matmul();
        }
    }
    let mut huge = tensors.clone();
    huge[0] = tensor("w", COLUMNS, 1 << 40);
    let mut model = built(&[product], &huge, &["x"]);
    assert!(
        model.split_matmul().is_empty(),
        "more parts than any file has"
    );
}

use super::*;
use crate::pack::protobuf::{message, put_number};

const COLUMNS: u64 = 100_000;

/// A tensor of `rows` rows of `row` bytes at 4096 in a file.
fn tensor(name: &str, rows: u64, row: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, DIMS, rows);
    put_number(&mut out, DIMS, row);
    put_number(&mut out, 2, 2);
    put_field(&mut out, NAME, name.as_bytes());
    for (key, value) in [
        ("location", "weights".to_owned()),
        ("offset", "4096".to_owned()),
        ("length", (rows * row).to_string()),
    ] {
        let entry = message(&[(1, key.as_bytes()), (2, value.as_bytes())]);
        put_field(&mut out, EXTERNAL_DATA, &entry);
    }
    out
}

fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for input in inputs {
        put_field(&mut out, INPUT, input.as_bytes());
    }
    put_field(&mut out, OUTPUT, output.as_bytes());
    put_field(&mut out, NODE_NAME, b"n");
    put_field(&mut out, OP_TYPE, op.as_bytes());
    put_field(&mut out, ATTRIBUTE, &number("K", 64));
    put_field(&mut out, ATTRIBUTE, &number("N", COLUMNS));
    out
}

fn model(nodes: &[Vec<u8>], tensors: &[Vec<u8>], inputs: &[&str]) -> Vec<u8> {
    let mut graph = Vec::new();
    for node in nodes {
        put_field(&mut graph, NODE, node);
    }
    put_field(&mut graph, 2, b"g");
    for tensor in tensors {
        put_field(&mut graph, INITIALIZER, tensor);
    }
    for name in inputs {
        let input = message(&[(VALUE_NAME, name.as_bytes())]);
        put_field(&mut graph, GRAPH_INPUT, &input);
    }
    let mut out = vec![0x08, 0x0a];
    put_field(&mut out, GRAPH, &graph);
    out
}

/// The columns of a product with the 3.2 MB of weights `w`, with everything it may read.
fn heavy() -> (Vec<u8>, [Vec<u8>; 4]) {
    let node = node("MatMulNBits", &["x", "w", "s", "z", "", "b"], "y");
    let tensors = [
        tensor("w", COLUMNS, 32),
        tensor("s", 2 * COLUMNS, 4),
        tensor("z", COLUMNS, 1),
        tensor("b", COLUMNS, 4),
    ];
    (node, tensors)
}

fn within(model: &[u8], number: u64) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for graph in texts(model, GRAPH)? {
        found.extend(texts(graph, number)?.into_iter().map(<[u8]>::to_vec));
    }
    Ok(found)
}

#[test]
fn a_heavy_product_is_cut_by_columns() -> Result<()> {
    let (node, tensors) = heavy();
    let other = super::tests::node("Gather", &["w", "x"], "g");
    let split = split(&model(&[node, other], &tensors, &["x"]))?
        .ok_or_else(|| Error::new(ErrorKind::Internal, "it was not cut"))?;
    let nodes = within(&split.model, NODE)?;
    let read: Vec<Node<'_>> = nodes
        .iter()
        .map(|node| Node::read(node))
        .collect::<Result<_>>()?;
    let columns: Vec<_> = read.iter().map(|node| node.attribute("N")).collect();
    // Half of the columns, rounded up to 64.
    assert_eq!(columns, [Some(50_048), Some(49_952), None, Some(COLUMNS)]);
    let inputs: Vec<String> = read
        .iter()
        .map(|node| String::from_utf8_lossy(&node.inputs.join(&b' ')).into_owned())
        .collect();
    assert_eq!(
        inputs,
        [
            "x w.part0 s.part0 z.part0  b.part0",
            "x w.part50048 s.part50048 z.part50048  b.part50048",
            "y.part0 y.part50048",
            "w x"
        ]
    );
    assert_eq!(read[2].op, b"Concat");
    assert_eq!(read[2].attribute("axis"), Some(u64::MAX), "-1");
    assert_eq!(texts(&nodes[2], OUTPUT)?, [b"y"]);

    let tensors = within(&split.model, INITIALIZER)?;
    let read: Vec<Weights<'_>> = tensors
        .iter()
        .map(|tensor| Weights::read(tensor))
        .collect::<Result<_>>()?;
    let mut places: Vec<_> = read
        .iter()
        .map(|tensor| {
            let name = String::from_utf8_lossy(tensor.name).into_owned();
            (name, tensor.dims.clone(), tensor.offset, tensor.bytes)
        })
        .collect();
    places.sort();
    let place = |name: &str, rows: u64, row: u64, at: u64| {
        (
            name.to_owned(),
            vec![rows, row],
            Some(4096_u64 + at),
            rows * row,
        )
    };
    assert_eq!(
        places,
        [
            place("b.part0", 50_048, 4, 0),
            place("b.part50048", 49_952, 4, 4 * 50_048),
            place("s.part0", 100_096, 4, 0),
            place("s.part50048", 99_904, 4, 8 * 50_048),
            // The whole stays for the other node.
            place("w", COLUMNS, 32, 0),
            place("w.part0", 50_048, 32, 0),
            place("w.part50048", 49_952, 32, 32 * 50_048),
            place("z.part0", 50_048, 1, 0),
            place("z.part50048", 49_952, 1, 50_048),
        ]
    );
    let last = Part {
        name: "w.part50048".to_owned(),
        whole: "w".to_owned(),
        at: 32 * 50_048,
    };
    assert!(split.parts.contains(&last), "{:?}", split.parts);
    assert_eq!(split.parts.len(), 8);
    Ok(())
}

#[test]
fn what_cannot_be_cut_stays_whole() -> Result<()> {
    let whole = |nodes: &[Vec<u8>], tensors: &[Vec<u8>], inputs: &[&str]| -> Result<bool> {
        Ok(split(&model(nodes, tensors, inputs))?.is_none())
    };
    let (product, tensors) = heavy();
    let alone = std::slice::from_ref(&product);
    assert!(!whole(alone, &tensors, &["x"])?);
    assert!(
        whole(alone, &tensors, &["x", "s"])?,
        "scales that are given"
    );
    assert!(
        whole(alone, &tensors[..2], &["x"])?,
        "zero points that are computed"
    );
    let ordered = node("MatMulNBits", &["x", "w", "s", "", "z"], "y");
    assert!(
        whole(&[ordered], &tensors, &["x"])?,
        "rows in another order"
    );
    let other = node("MatMul", &["x", "w"], "y");
    assert!(whole(&[other], &tensors, &["x"])?, "another operation");
    let mut uneven = tensors.clone();
    uneven[1] = tensor("s", 2 * COLUMNS - 1, 4);
    assert!(whole(alone, &uneven, &["x"])?, "scales that do not fit");
    let mut small = tensors.clone();
    small[0] = tensor("w", COLUMNS, 16);
    assert!(whole(alone, &small, &["x"])?, "1.6 MB");
    let mut taken = tensors.to_vec();
    taken.push(tensor("z.part50048", 1, 1));
    assert!(whole(alone, &taken, &["x"])?, "a name that is taken");
    let mut inside = tensors.clone();
    inside[0] = message(&[(NAME, b"w"), (RAW_DATA, &vec![0; 3_200_000])]);
    assert!(whole(alone, &inside, &["x"])?, "weights in the graph");
    // One of nine alike.
    let mut nodes = vec![product.clone()];
    let mut nine = tensors.to_vec();
    for at in 0..8 {
        let name = format!("w{at}");
        nodes.push(node("MatMul", &["x", &name], &name));
        nine.push(tensor(&name, COLUMNS, 45));
    }
    assert!(whole(&nodes, &nine, &["x"])?, "a ninth of all weights");
    Ok(())
}

/// Nobody has looked at these numbers when a graph is cut.
#[test]
fn sizes_that_no_file_has_are_left_to_onnx_runtime() -> Result<()> {
    let text = |tensor: &[u8], from: &str, to: &str| -> Vec<u8> {
        let mut out = Vec::new();
        for field in Field::all(tensor).flatten() {
            match field.payload.map(entry) {
                Some(Ok((key, value))) if field.number == EXTERNAL_DATA && key == from => {
                    assert_ne!(value, to);
                    let entry = message(&[(1, key.as_bytes()), (2, to.as_bytes())]);
                    put_field(&mut out, EXTERNAL_DATA, &entry);
                }
                _ => out.extend_from_slice(field.raw),
            }
        }
        out
    };
    let (product, tensors) = heavy();
    let most = u64::MAX.to_string();
    for at in 0..tensors.len() {
        for (key, value) in [
            ("offset", &most),
            ("length", &most),
            ("length", &(COLUMNS << 40).to_string()),
        ] {
            let mut odd = tensors.clone();
            odd[at] = text(&tensors[at], key, value);
            // Cut or not: what it makes of them is in range, or refused when it is loaded.
            split(&model(std::slice::from_ref(&product), &odd, &["x"]))?;
        }
    }
    let mut huge = tensors.clone();
    huge[0] = tensor("w", COLUMNS, 1 << 40);
    let whole = split(&model(&[product], &huge, &["x"]))?.is_none();
    assert!(whole, "more parts than anything has");
    Ok(())
}

#[test]
fn what_is_no_graph_is_refused() {
    let (node, tensors) = heavy();
    let whole = model(&[node], &tensors, &["x"]);
    for bad in [whole[..whole.len() - 3].to_vec(), vec![0xff; 30]] {
        assert_eq!(
            split(&bad).map_err(|e| e.kind()).err(),
            Some(ErrorKind::BadModel)
        );
    }
}

use super::super::schema::TensorProto;
use super::super::test_models::{model, node, number, value};
use super::*;

fn weights(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        ..Default::default()
    }
}

fn graph() -> Model {
    let mut gemm = node("gemm", "Gemm", &["p", "b"], &["q"]);
    gemm.attribute.push(number("transA", 1));
    model(GraphProto {
        node: vec![
            node("widen", "DequantizeLinear", &["w8", "scale"], &["w"]),
            node("conv", "Conv", &["x", "w"], &["y"]),
            node("narrow", "QuantizeLinear", &["y", "scale"], &["y8"]),
            node("relu", "Relu", &["y8"], &["z"]),
            node("product", "MatMul", &["a", "b"], &["c"]),
            gemm,
        ],
        initializer: vec![weights("w8", &[4, 3, 3, 3]), weights("b", &[10, 20])],
        value_info: vec![
            value("y", &[0, 4, 8, 8]),
            value("a", &[0, 10]),
            value("c", &[0, 20]),
            value("p", &[10, 7]),
            value("q", &[7, 20]),
        ],
        ..Default::default()
    })
}

const CONV: u64 = 2 * 4 * 8 * 8 * 27;
const PRODUCT: u64 = 2 * 20 * 10;
const GEMM: u64 = 7 * 20 * 10;

fn batch(size: usize) -> BTreeMap<String, usize> {
    [("batch".to_owned(), size)].into()
}

#[test]
fn shares_are_of_the_multiply_accumulates() {
    let cost = graph().compute_cost(&batch(2)).expect("shapes");
    let all = [("conv", CONV), ("product", PRODUCT), ("gemm", GEMM)];
    let all: HashMap<String, u64> = all.map(|(name, cost)| (name.to_owned(), cost)).into();
    assert_eq!(cost.0, all);
    let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let npu = names(&["conv_token_12", "relu"]);
    let rest = names(&["product", "gemm"]);
    let total = (CONV + PRODUCT + GEMM) as f64;
    let expected = vec![CONV as f64 / total, (PRODUCT + GEMM) as f64 / total];
    assert_eq!(cost.shares(&[&npu, &rest]), Some(expected));
    assert_eq!(cost.shares(&[&npu, &names(&["relu"])]), None);
}

#[test]
fn what_the_graph_does_not_say_is_not_made_up() {
    assert!(graph().compute_cost(&BTreeMap::new()).is_none());
    // Nor is what cannot be.
    let mut negative = graph();
    let graph_of = |model: &mut Model| model.proto.graph.get_or_insert_default().clone();
    let mut graph = graph_of(&mut negative);
    graph.value_info[0] = value("y", &[0, -4, 8, 8]);
    assert!(model(graph.clone()).compute_cost(&batch(2)).is_none());
    graph.value_info[0] = value("y", &[1 << 40, 1 << 40]);
    assert!(model(graph.clone()).compute_cost(&batch(2)).is_none());
    // A value that has its own shape.
    graph.value_info.remove(0);
    graph.node[0] = node("widen", "DequantizeLinear", &["y"], &["y"]);
    assert!(model(graph).compute_cost(&batch(2)).is_none());
}

use super::*;
use crate::ErrorKind;

fn field(number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![(number << 3 | 2) as u8, payload.len() as u8];
    assert!(payload.len() < 128 || number == 7);
    if payload.len() >= 128 {
        out = vec![
            (number << 3 | 2) as u8,
            payload.len() as u8 | 0x80,
            (payload.len() >> 7) as u8,
        ];
    }
    out.extend_from_slice(payload);
    out
}

fn number(number: u64, value: u8) -> Vec<u8> {
    vec![(number << 3) as u8, value]
}

fn node(name: &str, operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
    out.extend(field(2, output.as_bytes()));
    out.extend(field(3, name.as_bytes()));
    out.extend(field(4, operator.as_bytes()));
    field(1, &out)
}

fn weights(name: &str, dims: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = dims.iter().flat_map(|&dim| number(1, dim)).collect();
    out.extend(field(8, name.as_bytes()));
    field(5, &out)
}

/// `batch` for a size of 0.
fn value(name: &str, dims: &[u8]) -> Vec<u8> {
    let dim = |&dim: &u8| match dim {
        0 => field(1, &field(2, b"batch")),
        size => field(1, &number(1, size)),
    };
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    let mut out = field(1, name.as_bytes());
    out.extend(field(2, &field(1, &field(2, &shape))));
    field(13, &out)
}

fn graph() -> Vec<u8> {
    let parts = [
        node("widen", "DequantizeLinear", &["w8", "scale"], "w"),
        node("conv", "Conv", &["x", "w"], "y"),
        node("narrow", "QuantizeLinear", &["y", "scale"], "y8"),
        node("relu", "Relu", &["y8"], "z"),
        node("product", "MatMul", &["a", "b"], "c"),
        weights("w8", &[4, 3, 3, 3]),
        weights("b", &[10, 20]),
        value("y", &[0, 4, 8, 8]),
        value("a", &[0, 10]),
        value("c", &[0, 20]),
    ];
    field(7, &parts.concat())
}

const CONV: u64 = 2 * 4 * 8 * 8 * 27;
const PRODUCT: u64 = 2 * 20 * 10;

fn batch(size: usize) -> BTreeMap<String, usize> {
    [("batch".to_owned(), size)].into()
}

#[test]
fn shares_are_of_the_multiply_accumulates() -> Result<()> {
    let compute = Compute::of(&graph(), &batch(2))?.expect("shapes");
    let all = HashMap::from([("conv".to_owned(), CONV), ("product".to_owned(), PRODUCT)]);
    assert_eq!(compute.0, all);
    let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let (npu, rest) = (names(&["conv_token_12", "relu"]), names(&["product"]));
    let total = (CONV + PRODUCT) as f64;
    let expected = vec![CONV as f64 / total, PRODUCT as f64 / total];
    assert_eq!(compute.shares(&[&npu, &rest]), Some(expected));
    assert_eq!(compute.shares(&[&npu, &names(&["relu"])]), None);
    Ok(())
}

#[test]
fn what_the_graph_does_not_say_is_not_made_up() -> Result<()> {
    assert!(Compute::of(&graph(), &BTreeMap::new())?.is_none());
    for end in [1, 20, 100] {
        let cut = &graph()[..end];
        let told = Compute::of(cut, &batch(2)).err().map(|e| e.kind());
        assert_eq!(told, Some(ErrorKind::BadModel), "{end}");
    }
    Ok(())
}

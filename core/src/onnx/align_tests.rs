use super::super::schema::GraphProto;
use super::super::test_models::{external, model};
use super::*;

/// A model with one tensor of these entries.
fn saved(entries: &[(&str, &str)]) -> Model {
    model(GraphProto {
        name: Some("g".to_owned()),
        initializer: vec![external("w", &[1], entries)],
        ..Default::default()
    })
}

fn place(offset: &'static str, length: &'static str) -> [(&'static str, &'static str); 2] {
    [("offset", offset), ("length", length)]
}

#[test]
fn blocks_move_to_aligned_places() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    let data = dir.path().join("m.onnx.data");
    let io = |e: std::io::Error| Error::io("weights", &e);
    let bytes: Vec<u8> = (0..=255).collect();
    fs::write(&data, &bytes).map_err(io)?;
    let before = [
        ("location", "d"),
        ("offset", "0"),
        ("length", "100"),
        ("prepacked_0", "K+1|100;7;0|107;3;9"),
    ];
    let after = [
        ("location", "d"),
        ("offset", "128"),
        ("length", "100"),
        ("prepacked_0", "K+1|0;7;0|64;3;9"),
    ];
    saved(&before).write(&path)?;
    assert_eq!(align_external_data(&path, &[]), Ok(67));
    assert_eq!(Model::read(&path), Ok(saved(&after)));
    let moved = fs::read(&data).map_err(io)?;
    assert_eq!(moved[..7], bytes[100..107]);
    assert_eq!(moved[64..67], bytes[107..110]);
    assert_eq!(moved[128..], bytes[..100]);
    assert_eq!(align_external_data(&path, &[]), Ok(67));
    assert_eq!(fs::read(&data).map_err(io)?, moved);
    Ok(())
}

#[test]
fn a_tensor_that_names_no_offset_begins_the_file() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let (path, data) = (dir.path().join("m.onnx"), dir.path().join("m.onnx.data"));
    let bytes: Vec<u8> = (0..32).collect();
    fs::write(&data, &bytes).map_err(|e| Error::io("weights", &e))?;
    saved(&[("length", "24"), ("prepacked_0", "K|24;8;0")]).write(&path)?;
    assert_eq!(align_external_data(&path, &[]), Ok(8));
    let after = saved(&[
        ("length", "24"),
        ("prepacked_0", "K|0;8;0"),
        ("offset", "64"),
    ]);
    assert_eq!(Model::read(&path), Ok(after));
    let moved = fs::read(&data).map_err(|e| Error::io("weights", &e))?;
    assert_eq!((&moved[..8], &moved[64..]), (&bytes[24..], &bytes[..24]));
    Ok(())
}

#[test]
fn slices_of_what_is_there_are_not_kept_twice() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let (path, data) = (dir.path().join("m.onnx"), dir.path().join("m.onnx.data"));
    let saved = |first, second| {
        model(GraphProto {
            initializer: vec![
                external("w.1", &[64], &place(first, "64")),
                external("w", &[256], &place("0", "256")),
                external("w.2", &[64], &place(second, "64")),
            ],
            ..Default::default()
        })
    };
    let slice = |name: &str, offset| TensorSlice {
        name: name.to_owned(),
        whole: "w".to_owned(),
        offset,
    };
    let whole: Vec<u8> = (0..=255).collect();
    // The first is what it is said to be, the second is not.
    let bytes = [&whole[..], &whole[64..128], &whole[64..128]].concat();
    fs::write(&data, &bytes).map_err(|e| Error::io("weights", &e))?;
    saved("256", "320").write(&path)?;
    let slices = [slice("w.1", 64), slice("w.2", 128), slice("none", 0)];
    assert_eq!(align_external_data(&path, &slices), Ok(320));
    assert_eq!(Model::read(&path), Ok(saved("64", "256")));
    assert_eq!(fs::read(&data).ok().as_deref(), Some(&bytes[..320]));
    Ok(())
}

#[test]
fn what_is_not_understood_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| Error::io("temp", &e))?;
    let path = dir.path().join("m.onnx");
    let io = |e: std::io::Error| Error::io("temp", &e);
    fs::write(dir.path().join("m.onnx.data"), [0; 64]).map_err(io)?;
    let whole = place("0", "64");
    let mut cut = saved(&whole).to_vec()?;
    cut.truncate(cut.len() - 3);
    for bad in [
        saved(&place("1", "64")).to_vec()?,
        saved(&place("18446744073709551615", "64")).to_vec()?,
        saved(&place("-1", "64")).to_vec()?,
        saved(&whole[..1]).to_vec()?,
        saved(&[whole[0], whole[1], ("prepacked_0", "K|1;2")]).to_vec()?,
        saved(&[whole[0], whole[1], ("prepacked_0", "K|x;2;3")]).to_vec()?,
        saved(&[whole[0], whole[1], ("prepacked_0", "K|60;5;3")]).to_vec()?,
        cut,
        vec![0xff; 30],
    ] {
        fs::write(&path, &bad).map_err(io)?;
        let refused = align_external_data(&path, &[]);
        assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::BadModel));
        assert_eq!(fs::read(&path).ok(), Some(bad), "it was changed");
    }
    Ok(())
}

//! The code in atom-core is what the schema gives.

use std::error::Error;

#[test]
fn schema_is_what_the_proto_file_gives() -> Result<(), Box<dyn Error>> {
    let path = atom_onnx_schema::room().join("schema.rs");
    let generated = atom_onnx_schema::generate()?;
    if std::env::var_os("ATOM_UPDATE").is_some() {
        std::fs::write(&path, &generated)?;
    }
    let committed = std::fs::read_to_string(&path)?;
    let differs = generated
        .lines()
        .zip(committed.lines())
        .position(|(new, old)| new != old);
    assert!(
        generated == committed,
        "core/src/onnx/schema.rs differs from what onnx-ml.proto gives, first in line {:?}; set ATOM_UPDATE=1 to write it",
        differs.map(|line| line + 1)
    );
    Ok(())
}

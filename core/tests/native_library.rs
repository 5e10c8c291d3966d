//! Missing, foreign and too old ONNX Runtime libraries, in a process of its own: the first good one stays open for ever.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::process::Command;

use atom_core::ErrorKind;
use atom_core::ort::{DType, Environment, EnvironmentOptions, Tensor};

const TOO_OLD: &str = r#"
#include <stdint.h>
static const void *get_api(uint32_t version) { return version <= 16 ? "a table" : 0; }
static const char *get_version(void) { return "1.16.3"; }
static const struct { const void *(*api)(uint32_t); const char *(*version)(void); } base = { get_api, get_version };
const void *OrtGetApiBase(void) { return &base; }
"#;
const NO_BASE: &str = "const void *OrtGetApiBase(void) { return 0; }";
const OTHER: &str = "int something_else(void) { return 1; }";

#[test]
fn every_wrong_library_is_an_error_and_the_right_one_opens_after() -> Result<(), Box<dyn StdError>>
{
    let dir = tempfile::tempdir()?;
    let open = |library: PathBuf, threads| {
        Environment::open(&EnvironmentOptions {
            library: Some(library),
            threads,
        })
    };
    let refused = |library: PathBuf, says: &str| -> Result<(), Box<dyn StdError>> {
        let error = open(library.clone(), None).err().ok_or("it opens")?;
        assert_eq!(error.kind(), ErrorKind::NativeLibrary, "{error}");
        assert!(
            error.message().contains(says),
            "{error} should say {says:?}"
        );
        assert!(
            error.message().contains(&*library.to_string_lossy()),
            "{error}"
        );
        assert!(
            error
                .remedy_text()
                .is_some_and(|text| text.contains("ATOM_ORT_LIBRARY"))
        );
        assert!(Environment::current().is_none());
        Ok(())
    };
    refused(
        dir.path().join("missing.so"),
        "cannot open shared object file",
    )?;
    let text = dir.path().join("text.so");
    std::fs::write(&text, "not a library")?;
    refused(text, "")?;
    let cases = [
        ("old", TOO_OLD, "version 1.16.3, too old"),
        ("null", NO_BASE, "returns nothing"),
        ("other", OTHER, "not ONNX Runtime"),
    ];
    for (name, source, says) in cases {
        let (code, library) = (
            dir.path().join(name).with_extension("c"),
            dir.path().join(name).with_extension("so"),
        );
        std::fs::write(&code, source)?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&code)
            .status()?;
        assert!(built.success());
        refused(library, says)?;
    }
    // Nothing is open: tensors say so and do not look for a library themselves.
    let early = Tensor::zeros(DType::F32, &[1])
        .err()
        .ok_or("a tensor without ONNX Runtime")?;
    assert_eq!(early.kind(), ErrorKind::NativeLibrary);

    let environment = Environment::open(&EnvironmentOptions::default())?;
    assert!(environment.version().starts_with("1."));
    assert!(environment.threads() >= 1);
    assert!(std::ptr::eq(
        environment,
        Environment::open(&EnvironmentOptions::default())?
    ));
    assert!(
        open(
            environment.library().to_owned(),
            Some(environment.threads())
        )
        .is_ok()
    );
    for (library, threads, says) in [
        (dir.path().join("old.so"), None, "old.so"),
        (
            environment.library().to_owned(),
            Some(environment.threads() + 1),
            "thread count",
        ),
        (
            environment.library().to_owned(),
            Some(0),
            "thread count of 0",
        ),
    ] {
        let error = open(library, threads).err().ok_or("a second environment")?;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(
            error.message().contains(says),
            "{error} should say {says:?}"
        );
    }
    Ok(())
}

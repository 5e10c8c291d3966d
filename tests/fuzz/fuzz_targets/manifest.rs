//! The text of a `pack.toml`: read or refused.

#![no_main]

use atom_core::ErrorKind;
use atom_core::pack::Manifest;
use atom_fuzz::{is_an_answer, shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: atom_fuzz::seeds::write("manifest"), |text: &str| {
    shown(|| match Manifest::parse(text) {
        Ok(manifest) => assert!(manifest.files().all(|file| !file.file.is_empty())),
        Err(error) => is_an_answer(&error, &[ErrorKind::BadPack, ErrorKind::Unsupported]),
    });
});

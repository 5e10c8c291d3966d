//! A folder of an exported model with other configurations: described or refused.

#![no_main]

use std::cell::OnceCell;

use atom_core::ErrorKind;
use atom_core::pack::Manifest;
use atom_fuzz::folders::Exports;
use atom_fuzz::{is_an_answer, shown};
use atom_import::{ImportOptions, describe};
use libfuzzer_sys::fuzz_target;

thread_local!(static EXPORTS: OnceCell<Exports> = const { OnceCell::new() });

fuzz_target!(init: atom_fuzz::seeds::write("folder"), |input: &[u8]| {
    EXPORTS.with(|exports| {
        exports.get_or_init(Exports::write).with(input, |export| {
            let options = ImportOptions {
                folders: vec![export.dir.clone()],
                pack: export.dir.with_file_name("pack"),
                ..ImportOptions::default()
            };
            shown(|| match describe(&options) {
                Ok(text) => {
                    if let Err(error) = Manifest::parse(&text) {
                        panic!("{error:?}\n{text}");
                    }
                }
                Err(error) => is_an_answer(
                    &error,
                    &[
                        ErrorKind::BadModel,
                        ErrorKind::NotFound,
                        ErrorKind::Unsupported,
                        ErrorKind::InvalidArgument,
                    ],
                ),
            });
        });
    });
});

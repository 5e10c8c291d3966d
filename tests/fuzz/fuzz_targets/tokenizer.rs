//! A `tokenizer.json`: it reads words, or is refused.

#![no_main]

use atom_core::ErrorKind;
use atom_core::language::Tokenizer;
use atom_fuzz::{is_an_answer, shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: atom_fuzz::seeds::write("tokenizer"), |json: &[u8]| {
    shown(|| {
        let tokenizer = match Tokenizer::from_bytes(json, 64) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return is_an_answer(&error, &[ErrorKind::BadPack]),
        };
        for text in ["A fox: naïve\u{a0}\u{4e2d}\u{1f642}  <image>\n42", ""] {
            match tokenizer.encode(text, true) {
                Ok(ids) => {
                    if let Err(error) = tokenizer.decode(&ids) {
                        is_an_answer(&error, &[ErrorKind::BadPack]);
                    }
                }
                Err(error) => is_an_answer(&error, &[ErrorKind::InvalidArgument]),
            }
            match tokenizer.encode_truncated(text) {
                Ok(encoded) => assert!(encoded.ids.len() <= 64, "{} tokens", encoded.ids.len()),
                Err(error) => is_an_answer(&error, &[ErrorKind::InvalidArgument]),
            }
        }
    });
});

//! A chat template, as packs and folders of models bring them: rendered or refused.

#![no_main]

use atom_core::ErrorKind;
use atom_core::language::{ChatTemplate, ContentPart, Markers, Message};
use atom_core::pack::ContentForm;
use atom_fuzz::{is_an_answer, shown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: atom_fuzz::seeds::write("template"), |source: &str| {
    let messages = [
        Message::system("Be short."),
        Message::of(
            "user",
            vec![
                ContentPart::Image,
                ContentPart::Video,
                ContentPart::text("What is <é>? "),
            ],
        ),
        Message::assistant("A | fox"),
    ];
    shown(|| {
        let template = match ChatTemplate::new(source, "<s>", "</s>") {
            Ok(template) => template,
            Err(error) => return is_an_answer(&error, &[ErrorKind::BadPack]),
        };
        for form in [ContentForm::Text, ContentForm::Parts] {
            let markers = Markers {
                image: "<image>".to_owned(),
                video: "<video>".to_owned(),
                form,
            };
            if let Err(error) = template.render(&messages, &markers) {
                is_an_answer(&error, &[ErrorKind::BadPack, ErrorKind::InvalidArgument]);
            }
        }
    });
});

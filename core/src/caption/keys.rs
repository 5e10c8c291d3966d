//! Which keys of `pack.toml` a kind of captioner needs, and which mean nothing to it.

use crate::error::{Error, ErrorKind, Result};
use crate::pack::{CaptionerSpec, Manifest, Task};

/// See [`CaptionerContext::expect_keys`](super::CaptionerContext::expect_keys).
pub(super) fn expect(
    manifest: &Manifest,
    spec: &CaptionerSpec,
    needed: &[&str],
    optional: &[&str],
) -> Result<()> {
    let mut given: Vec<String> = [
        ("visual_encoder", spec.visual_encoder.is_some()),
        ("features", spec.features.is_some()),
        ("encoder", spec.encoder.is_some()),
        ("video_token", spec.video_token.is_some()),
        ("content", spec.content.is_some()),
        ("add_special_tokens", spec.add_special_tokens.is_some()),
        ("video", spec.video.is_some()),
        ("language_decoder", spec.language_decoder.is_some()),
        ("token_embedding", spec.token_embedding.is_some()),
        ("connector", spec.connector.is_some()),
        ("image_token", spec.image_token.is_some()),
        ("options", !spec.options.is_empty()),
    ]
    .into_iter()
    .filter(|(_, given)| *given)
    .map(|(key, _)| key.to_owned())
    .collect();
    given.extend(spec.files.keys().map(|name| format!("files.{name}")));
    for key in needed.iter().filter(|key| **key != "prompt") {
        if !given.iter().any(|have| have == key) {
            return Err(missing(&format!("captioner.{key}"), &spec.kind));
        }
    }
    let known = |key: &str| needed.contains(&key) || optional.contains(&key);
    if let Some(key) = given.iter().find(|key| !known(key)) {
        return Err(meaningless(&format!("captioner.{key}"), &spec.kind));
    }
    let tasks = &manifest.tasks;
    for (name, task, served) in [
        ("caption", Task::Caption, tasks.caption.is_some()),
        ("ask", Task::Ask, tasks.ask.is_some()),
    ] {
        let key = format!("tasks.{name}.prompt");
        match tasks.prompt(task) {
            None if served && needed.contains(&"prompt") => return Err(missing(&key, &spec.kind)),
            Some(_) if !known("prompt") => return Err(meaningless(&key, &spec.kind)),
            _ => {}
        }
    }
    let named = tasks
        .caption
        .as_ref()
        .is_some_and(|task| !task.prompts.is_empty());
    if named && !known("prompt") {
        return Err(meaningless("tasks.caption.prompts", &spec.kind));
    }
    Ok(())
}

/// `key` is needed and not there.
pub(super) fn missing(key: &str, kind: &str) -> Error {
    Error::new(ErrorKind::BadPack, format!("{key} is missing"))
        .remedy(format!("a captioner of kind = {kind:?} needs it"))
}

fn meaningless(key: &str, kind: &str) -> Error {
    Error::new(
        ErrorKind::BadPack,
        format!("{key} has no meaning for a captioner of kind = {kind:?}"),
    )
    .remedy("remove it, or correct captioner.kind")
}

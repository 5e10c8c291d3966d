//! Keys of manifests that earlier versions of Atom read, and what to write in their place.

use crate::error::{Error, ErrorKind, Result};

/// Refuses a manifest with a key that was replaced.
///
/// # Errors
/// [`ErrorKind::BadPack`] naming the key; the remedy says what to write.
pub(super) fn check(manifest: &toml::Table) -> Result<()> {
    if manifest.contains_key("grounding") {
        return replaced(
            "grounding",
            "write [captioner] with kind = \"grounded\", and taxonomy under [captioner.files]",
        );
    }
    let tasks = manifest.get("tasks").and_then(toml::Value::as_table);
    for name in ["caption", "ask"] {
        let task = tasks.and_then(|tasks| tasks.get(name)?.as_table());
        let Some(task) = task else { continue };
        if let Some(mode) = task.get("mode") {
            let kind = match mode.as_str() {
                Some("prefix") => "vlm",
                _ => "grounded",
            };
            let remedy = format!("write [captioner] with kind = {kind:?}");
            return replaced(&format!("tasks.{name}.mode"), &remedy);
        }
        for key in [
            "language_decoder",
            "token_embedding",
            "connector",
            "image_token",
        ] {
            if task.contains_key(key) {
                return replaced(&format!("tasks.{name}.{key}"), "move it to [captioner]");
            }
        }
    }
    Ok(())
}

fn replaced(key: &str, remedy: &str) -> Result<()> {
    let message = format!("{key} is a key of an earlier version of Atom");
    Err(Error::new(ErrorKind::BadPack, message).remedy(remedy))
}

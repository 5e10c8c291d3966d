//! What must hold for `[captioner]`, whatever its kind; the rest is for the kind to check.

use super::manifest::CaptionerSpec;
use super::spec::ModuleKind;
use super::validate_values::{file, name, require, size};
use crate::error::Result;

/// Most frames of a video that a prompt shows.
const MOST_FRAMES: usize = 1024;

/// Checks the table. `refers` checks that a key names a module of a kind.
pub(super) fn captioner(
    spec: &CaptionerSpec,
    refers: impl Fn(&str, &str, ModuleKind) -> Result<()>,
) -> Result<()> {
    name("captioner.kind", &spec.kind)?;
    for (key, id, kind) in [
        (
            "visual_encoder",
            &spec.visual_encoder,
            ModuleKind::VisualEncoder,
        ),
        ("encoder", &spec.encoder, ModuleKind::Encoder),
        (
            "language_decoder",
            &spec.language_decoder,
            ModuleKind::LanguageDecoder,
        ),
        (
            "token_embedding",
            &spec.token_embedding,
            ModuleKind::TokenEmbedding,
        ),
        ("connector", &spec.connector, ModuleKind::Connector),
    ] {
        if let Some(id) = id {
            refers(&format!("captioner.{key}"), id, kind)?;
        }
    }
    for (key, token) in [
        ("image_token", &spec.image_token),
        ("video_token", &spec.video_token),
    ] {
        require(
            token.as_ref().is_none_or(|token| !token.trim().is_empty()),
            format_args!("captioner.{key}"),
            "is blank",
            "write the token as the tokenizer does, or leave it out",
        )?;
    }
    if let Some(video) = &spec.video {
        size("captioner.video.max_frames", video.max_frames, MOST_FRAMES)?;
        require(
            video.fps > 0.0 && video.fps <= 1000.0,
            "captioner.video.fps",
            format_args!("= {}", video.fps),
            "it is above 0, up to 1000",
        )?;
    }
    for (name, declared) in &spec.files {
        file(&format!("captioner.files.{name}"), declared)?;
    }
    Ok(())
}

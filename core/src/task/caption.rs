//! Saying what the keyframes of a segment show.

use std::ops::ControlFlow;

use crate::control::{Control, TextOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::ground::Grounding;
use crate::language::{LanguageModel, VisualPrefix, say};
use crate::module::Registry;
use crate::pack::CaptionMode;
use crate::task::{Statement, grounding};
use crate::trace;

/// The caption task of one pack. Making it loads no module; may be used from several threads at once.
#[derive(Debug)]
pub struct Captioner(Way);

#[derive(Debug)]
enum Way {
    Grounded(LanguageModel, Box<Grounding>),
    Prefix(VisualPrefix),
}

impl Captioner {
    /// The caption task of the registry's pack.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the pack has none, [`ErrorKind::BadPack`] when what it names does not fit.
    pub fn new(registry: &Registry) -> Result<Self> {
        let manifest = registry.pack().manifest();
        let Some(task) = &manifest.tasks.caption else {
            let message = format!("pack {:?} cannot caption", manifest.id);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .remedy("use a pack with a [tasks.caption]"));
        };
        Ok(Self(match task.mode {
            CaptionMode::Grounded => Way::Grounded(
                LanguageModel::new(registry, &task.language_decoder, None)?,
                Box::new(grounding(registry.pack())?),
            ),
            CaptionMode::Prefix => Way::Prefix(VisualPrefix::new(registry, task)?),
        }))
    }

    /// One sentence on the keyframes of one segment; where they differ it hedges. In a grounded pack it names nothing
    /// the features do not carry. `on_text` gets the text as it comes and may end it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without features or for `max_tokens` of 0, [`ErrorKind::BadPack`] for features of
    /// another pack, and what the decoder reports. Cancel and deadline are no errors: the text so far comes back with
    /// that reason.
    pub fn caption(
        &self,
        frames: &[&Features],
        options: &TextOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Statement> {
        let _span = trace::span("language", "caption");
        match &self.0 {
            Way::Grounded(model, known) => {
                let seen = known.observe(frames)?;
                let prompt = format!("{} Describe the picture.", seen.context());
                let said = say(model, &prompt, &seen.sentences(), options, control, on_text)?;
                Ok(Statement::new(said, seen.grounds()))
            }
            Way::Prefix(prefix) => {
                let said = prefix.say(frames, None, options, control, on_text)?;
                Ok(Statement::new(said, Vec::new()))
            }
        }
    }
}

//! The loop that draws a text token by token.

use std::ops::ControlFlow;

use super::constraint::{Constraint, Next};
use super::generation::Generation;
use super::rules::Place;
use super::sampling::{Sampler, check_finite};
use super::stop::StopStrings;
use super::text::{GenerateOptions, Generated, StopReason, interrupted, sorted};
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};

impl Generation {
    /// Continues the text. `on_text` gets every piece as it becomes certain, on this thread, and breaks off by
    /// returning [`ControlFlow::Break`]. The tokens drawn become part of this generation; `truncate` takes them back.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], before anything runs, for options out of range or that exclude each other, when nothing was fed, or when
    /// `max_tokens` (or the constraint's longest text, if shorter) does not fit into the context;
    /// [`ErrorKind::Inference`] for a failed step or logits that are not finite. Cancel and deadline are no errors
    /// here: they end the text, also from within a step.
    pub fn generate(
        &mut self,
        options: &GenerateOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let mut sampler = Sampler::new(&options.sampling)?;
        let mut stop = StopStrings::new(&options.stop)?;
        let mut walk = options
            .constraint
            .as_ref()
            .map(Constraint::walk)
            .transpose()?;
        let longest = options
            .constraint
            .as_ref()
            .map_or(usize::MAX, Constraint::longest);
        if self.position() == 0 {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "nothing was fed to go on from")
                    .remedy("feed a prompt first"),
            );
        }
        // The last token need not go through the decoder.
        self.check_room(options.max_tokens.min(longest).saturating_sub(1))?;
        options.rules.check(self.model.0.spec.vocab)?;
        if options.beams.count != 1 {
            return self.beam_search(options, control, on_text);
        }

        let end_tokens = sorted(&self.model.0.spec.eos);
        // Every token before the next one.
        let mut seen = self.ids();
        let mut scores = Vec::new();
        let mut decode = self.model.tokenizer().stream();
        let mut text = String::new();
        let mut token_ids = Vec::new();
        let mut allowed = Vec::new();
        let mut show = |piece: &str| {
            if piece.is_empty() {
                return ControlFlow::Continue(());
            }
            text.push_str(piece);
            on_text(piece)
        };
        let stop_reason = loop {
            let next = walk.as_ref().map_or(Next::Open, |walk| walk.next());
            if next == Next::End {
                break StopReason::Constraint;
            }
            if token_ids.len() >= options.max_tokens {
                break StopReason::MaxTokens;
            }
            let token = if let Next::Forced(token) = next {
                if let Err(error) = control.check() {
                    break interrupted(error)?;
                }
                token
            } else {
                if let Err(error) = self.refresh(control) {
                    break interrupted(error)?;
                }
                let limit = walk.as_ref().map(|walk| {
                    allowed.clear();
                    allowed.extend_from_slice(walk.allowed());
                    if walk.may_end() {
                        allowed.extend_from_slice(&end_tokens);
                        allowed.sort_unstable();
                    }
                    allowed.as_slice()
                });
                let token = if options.rules.is_empty() {
                    sampler.next(&self.logits, &seen, limit)?
                } else {
                    check_finite(&self.logits)?;
                    scores.clone_from(&self.logits);
                    let place = Place {
                        seen: &seen,
                        made: token_ids.len(),
                        most: options.max_tokens,
                        ends: &end_tokens,
                    };
                    options.rules.apply(&mut scores, &place);
                    sampler.pick(&scores, &seen, limit)?
                };
                if end_tokens.binary_search(&token).is_ok() {
                    break StopReason::EndOfText;
                }
                token
            };
            if let Some(walk) = &mut walk {
                walk.advance(token)?;
            }
            self.pending.push(token);
            token_ids.push(token);
            seen.push(token);
            let (piece, met) = stop.push(&decode.push(token)?);
            if show(&piece).is_break() {
                stop.rest();
                break StopReason::Cancelled;
            }
            if met {
                break StopReason::StopString;
            }
        };
        // Nothing is left to wait for: the text is over whatever the callback says.
        let _ = show(&stop.rest());
        Ok(Generated {
            text,
            tokens: token_ids.len(),
            token_ids,
            stop_reason,
        })
    }
}

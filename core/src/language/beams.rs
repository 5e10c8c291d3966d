//! Beam search, as Hugging Face `transformers` defines it.
//!
//! Several texts are followed at once. At every step each is continued by every token; the best continuations that do not end go
//! on, and those that end among the best are finished. The score of a text is the sum of its tokens' log-probabilities, and of a
//! finished one that sum divided by its length to the power of the length penalty.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::generation::Generation;
use super::rules::{Place, penalise};
use super::sampling::check_finite;
use super::text::{Beams, GenerateOptions, Generated, StopReason, interrupted, sorted};
use crate::control::{Control, MOST_BEAMS};
use crate::error::{Error, ErrorKind, Result};
use crate::pack::{EarlyStopping, Never};

/// A text that goes on.
struct Running {
    generation: Generation,
    ids: Vec<u32>,
    score: f32,
}

/// A text that has ended.
struct Finished {
    ids: Vec<u32>,
    score: f32,
    /// Whether a token ended it, and not its length.
    ended: bool,
}

/// A running text and a token that continues it.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    beam: usize,
    token: u32,
}

impl Candidate {
    /// Best first; of equals the lowest beam and token.
    fn order(&self, other: &Self) -> Ordering {
        let by_place = (self.beam, self.token).cmp(&(other.beam, other.token));
        other.score.total_cmp(&self.score).then(by_place)
    }
}

/// What a search has so far.
struct Search<'a> {
    beams: &'a Beams,
    most: usize,
    running: Vec<Running>,
    /// Best first, at most as many as beams.
    finished: Vec<Finished>,
    /// Whether a running text may still become better than the worst finished one.
    hopeful: bool,
}

impl Generation {
    /// Continues the text by beam search. `on_text` gets the text in one piece when it is over.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); [`ErrorKind::InvalidArgument`] for options that a beam search does not take.
    pub(super) fn beam_search(
        &mut self,
        options: &GenerateOptions,
        control: &Control,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated> {
        check(options)?;
        let ends = sorted(&self.model.0.spec.eos);
        let mut search = Search {
            beams: &options.beams,
            most: options.max_tokens,
            running: vec![Running {
                generation: self.fork()?,
                ids: Vec::new(),
                score: 0.0,
            }],
            finished: Vec::new(),
            hopeful: true,
        };
        let mut broken = None;
        let mut goes_on = options.max_tokens > 0;
        while goes_on {
            goes_on = match search.step(options, &ends, control) {
                Ok(goes_on) => goes_on,
                Err(error) => {
                    broken = Some(interrupted(error)?);
                    false
                }
            };
        }
        let (token_ids, ended) = search.best();
        let text = self.model.tokenizer().decode(&token_ids)?;
        let mut stop_reason = broken.unwrap_or(match ended {
            true => StopReason::EndOfText,
            false => StopReason::MaxTokens,
        });
        self.pending.extend_from_slice(&token_ids);
        if !text.is_empty() && on_text(&text).is_break() && broken.is_none() {
            stop_reason = StopReason::Cancelled;
        }
        Ok(Generated {
            text,
            tokens: token_ids.len(),
            token_ids,
            stop_reason,
        })
    }
}

fn check(options: &GenerateOptions) -> Result<()> {
    let refuse = |what: &str| {
        let message = format!("{what} cannot be used with {} beams", options.beams.count);
        Err(Error::new(ErrorKind::InvalidArgument, message).remedy("give 1 beam, or leave it out"))
    };
    let count = options.beams.count;
    if !(1..=MOST_BEAMS).contains(&count) || !options.beams.length_penalty.is_finite() {
        let what = format!(
            "beams = {count}, length_penalty = {}",
            options.beams.length_penalty
        );
        return Err(Error::new(ErrorKind::InvalidArgument, what)
            .remedy(format!("give 1 to {MOST_BEAMS} beams and a finite penalty")));
    }
    if options.sampling.temperature != 0.0 {
        return refuse("a temperature above 0");
    }
    if options.constraint.is_some() {
        return refuse("a constraint");
    }
    if !options.stop.is_empty() {
        return refuse("a stop string");
    }
    Ok(())
}

impl Search<'_> {
    /// One token more. Whether the search goes on.
    fn step(&mut self, options: &GenerateOptions, ends: &[u32], control: &Control) -> Result<bool> {
        let count = self.beams.count;
        let keep = (1 + ends.len()).max(2) * count;
        let made = self.running[0].ids.len();
        let mut candidates = Vec::new();
        for (beam, running) in self.running.iter_mut().enumerate() {
            running.generation.refresh(control)?;
            let mut scores = log_softmax(running.generation.logits())?;
            let seen = running.generation.ids();
            penalise(&mut scores, &seen, options.sampling.repetition_penalty);
            options.rules.apply(
                &mut scores,
                &Place {
                    seen: &seen,
                    made,
                    most: self.most,
                    ends,
                },
            );
            let of_beam = (0u32..).zip(&scores).map(|(token, score)| Candidate {
                score: running.score + score,
                beam,
                token,
            });
            let possible = of_beam.filter(|candidate| candidate.score > f32::NEG_INFINITY);
            let mut of_beam: Vec<Candidate> = possible.collect();
            best_of(&mut of_beam, keep);
            candidates.extend(of_beam);
        }
        best_of(&mut candidates, keep);
        candidates.sort_unstable_by(Candidate::order);
        if candidates.is_empty() {
            let what = "no token of the decoder's vocabulary is allowed here";
            return Err(Error::new(ErrorKind::Inference, what));
        }
        let made = made + 1;
        let is_end = |candidate: &Candidate| ends.binary_search(&candidate.token).is_ok();
        let stops = |candidate: &Candidate| is_end(candidate) || made >= self.most;
        let full = self.finished.len() == count;
        let early = self.beams.early_stopping == EarlyStopping::Finished(true);
        if self.hopeful && !(full && early) {
            let length = (made as f32).powf(self.beams.length_penalty);
            for candidate in candidates.iter().take(count).filter(|it| stops(it)) {
                let mut ids = self.running[candidate.beam].ids.clone();
                let ended = is_end(candidate);
                ids.extend((!ended).then_some(candidate.token));
                self.finished.push(Finished {
                    ids,
                    score: candidate.score / length,
                    ended,
                });
            }
            // Stable: of equals the one that finished first.
            self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
            self.finished.truncate(count);
        }
        let goes_on = candidates.iter().filter(|candidate| !stops(candidate));
        let next: Vec<Candidate> = goes_on.take(count).copied().collect();
        if next.is_empty() {
            return Ok(false);
        }
        let full = self.finished.len() == count;
        self.hopeful &= !full || self.may_improve(next[0].score, made);
        if !self.hopeful || (full && early) {
            return Ok(false);
        }
        self.advance(&next)?;
        Ok(true)
    }

    /// Whether the best running text, of `score` after `made` tokens, may become better than the worst finished one.
    fn may_improve(&self, score: f32, made: usize) -> bool {
        let penalty = self.beams.length_penalty;
        let length = match self.beams.early_stopping {
            EarlyStopping::Word(Never::Never) if penalty > 0.0 => self.most,
            _ => made,
        };
        let worst = self
            .finished
            .last()
            .map_or(f32::NEG_INFINITY, |it| it.score);
        score / (length as f32).powf(penalty) > worst
    }

    /// Makes the chosen continuations the running texts. A text that goes on in several ways is forked, the others move.
    fn advance(&mut self, next: &[Candidate]) -> Result<()> {
        let mut old: Vec<Option<Running>> = self.running.drain(..).map(Some).collect();
        for (at, candidate) in next.iter().enumerate() {
            let again = next[at + 1..].iter().any(|it| it.beam == candidate.beam);
            let slot = &mut old[candidate.beam];
            let (mut generation, mut ids) = match slot {
                Some(running) if again => (running.generation.fork()?, running.ids.clone()),
                slot => match slot.take() {
                    Some(running) => (running.generation, running.ids),
                    None => continue,
                },
            };
            generation.pending.push(candidate.token);
            ids.push(candidate.token);
            self.running.push(Running {
                generation,
                ids,
                score: candidate.score,
            });
        }
        Ok(())
    }

    /// The best finished text, or the best running one if none is finished; and whether a token ended it.
    fn best(mut self) -> (Vec<u32>, bool) {
        if !self.finished.is_empty() {
            let best = self.finished.swap_remove(0);
            return (best.ids, best.ended);
        }
        let best = self.running.into_iter().next();
        (best.map_or_else(Vec::new, |it| it.ids), false)
    }
}

/// Keeps the `count` best, in no order.
fn best_of(candidates: &mut Vec<Candidate>, count: usize) {
    if candidates.len() > count {
        candidates.select_nth_unstable_by(count, Candidate::order);
        candidates.truncate(count);
    }
}

/// ln p of every token.
fn log_softmax(logits: &[f32]) -> Result<Vec<f32>> {
    check_finite(logits)?;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - top).exp())
        .sum();
    let norm = total.ln() as f32;
    Ok(logits.iter().map(|logit| logit - top - norm).collect())
}

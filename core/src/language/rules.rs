//! Rules on which token may come next, as the logits processors of Hugging Face `transformers` define them.

use super::sampling::NO_TOKEN;
use crate::error::{Error, ErrorKind, Result};

/// Rules on which token may come next. The default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// No sequence of so many tokens occurs twice in prompt and text; 0 is off.
    pub no_repeat_ngram: usize,
    /// The text does not end before it has so many tokens.
    pub min_tokens: usize,
    /// The first token of the text.
    pub forced_first: Option<u32>,
    /// The last token of a text that reaches the most tokens it may have.
    pub forced_last: Option<u32>,
    /// Tokens that never come.
    pub suppress: Vec<u32>,
}

/// Where in a text the next token is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Every token before it, of prompt and text; a row that stands for no token is `NO_TOKEN` or left out.
    pub(super) seen: &'a [u32],
    /// How many of them are of the text.
    pub(super) made: usize,
    /// The most tokens of the text.
    pub(super) most: usize,
    /// Tokens that end it.
    pub(super) ends: &'a [u32],
}

impl Rules {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses tokens that the vocabulary does not have.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the token.
    pub(super) fn check(&self, vocab: usize) -> Result<()> {
        let forced = self.forced_first.iter().chain(&self.forced_last);
        match forced
            .chain(&self.suppress)
            .find(|id| **id as usize >= vocab)
        {
            None => Ok(()),
            Some(id) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("token {id} is outside the decoder's vocabulary of {vocab}"),
            )),
        }
    }

    /// Sets the scores of tokens that may not come to negative infinity. Scores are logits, or log-probabilities.
    pub(super) fn apply(&self, scores: &mut [f32], place: &Place<'_>) {
        let mut ban = |id: u32| {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        };
        repeated(place.seen, self.no_repeat_ngram, &mut ban);
        if place.made < self.min_tokens {
            place.ends.iter().copied().for_each(&mut ban);
        }
        // The last rule that applies decides, as in `transformers`.
        for (forced, applies) in [
            (self.forced_first, place.made == 0),
            (self.forced_last, place.made + 1 == place.most),
        ] {
            if let (Some(id), true) = (forced, applies) {
                scores.fill(f32::NEG_INFINITY);
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = 0.0;
                }
            }
        }
        for id in &self.suppress {
            if let Some(score) = scores.get_mut(*id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Gives `ban` every token that would complete a sequence of `length` tokens that `seen` has already.
fn repeated(seen: &[u32], length: usize, ban: &mut impl FnMut(u32)) {
    if length == 0 || seen.len() + 1 < length {
        return;
    }
    let (tail, windows) = (&seen[seen.len() + 1 - length..], seen.windows(length));
    for window in windows {
        let (before, last) = window.split_at(length - 1);
        if before == tail && !window.contains(&NO_TOKEN) {
            ban(last[0]);
        }
    }
}

/// Makes every token of `seen` less likely: `penalty` divides a positive score and multiplies a negative one.
pub(super) fn penalise(scores: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut ids: Vec<u32> = seen.to_vec();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = match *score < 0.0 {
                true => *score * penalty,
                false => *score / penalty,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(rules: &Rules, seen: &[u32], made: usize, most: usize) -> Vec<u32> {
        let mut scores = vec![1.0; 8];
        let place = Place {
            seen,
            made,
            most,
            ends: &[7],
        };
        rules.apply(&mut scores, &place);
        let out = (0..8).filter(|id| scores[*id as usize] == f32::NEG_INFINITY);
        out.collect()
    }

    #[test]
    fn no_sequence_occurs_twice() {
        let rules = |length| Rules {
            no_repeat_ngram: length,
            ..Rules::default()
        };
        assert_eq!(banned(&rules(0), &[1, 1, 1], 3, 9), [0u32; 0]);
        assert_eq!(banned(&rules(1), &[1, 5, 1], 3, 9), [1, 5]);
        assert_eq!(banned(&rules(2), &[1, 5, 1, 6, 1], 5, 9), [5, 6]);
        assert_eq!(banned(&rules(3), &[1, 5, 2, 1, 5], 5, 9), [2]);
        assert_eq!(
            banned(&rules(3), &[1, 5], 2, 9),
            [0u32; 0],
            "too short to repeat"
        );
        assert_eq!(banned(&rules(2), &[], 0, 9), [0u32; 0]);
        assert_eq!(banned(&rules(usize::MAX), &[1, 5], 2, 9), [0u32; 0]);
        assert_eq!(banned(&rules(2), &[NO_TOKEN, 5, NO_TOKEN], 0, 9), [0u32; 0]);
    }

    #[test]
    fn forced_tokens_are_the_only_ones() {
        let rules = Rules {
            forced_first: Some(3),
            forced_last: Some(7),
            min_tokens: 2,
            ..Rules::default()
        };
        assert_eq!(banned(&rules, &[0], 0, 3), [0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(banned(&rules, &[0, 3], 1, 3), [7], "too short to end");
        assert_eq!(banned(&rules, &[0, 3, 1], 2, 3), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(
            banned(&rules, &[0], 0, 1),
            [0, 1, 2, 3, 4, 5, 6],
            "the last one decides"
        );
        let outside = Rules {
            forced_first: Some(8),
            ..Rules::default()
        };
        assert!(outside.check(8).is_err() && rules.check(8).is_ok());
    }

    #[test]
    fn suppressed_tokens_never_come() {
        let rules = Rules {
            suppress: vec![2, 99],
            ..Rules::default()
        };
        assert_eq!(banned(&rules, &[1], 1, 9), [2]);
    }

    #[test]
    fn a_penalty_makes_scores_smaller_whatever_their_sign() {
        let mut scores = [2.0, -2.0, 0.0, 4.0];
        penalise(&mut scores, &[0, 1, 1, 2, NO_TOKEN], 2.0);
        assert_eq!(scores, [1.0, -4.0, 0.0, 4.0]);
    }
}

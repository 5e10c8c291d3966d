//! Choosing the next token from logits: the order and the defaults of Hugging Face `transformers`.

use crate::error::{Error, ErrorKind, Result};

/// How the next token is drawn. The default is greedy.
///
/// The order is that of `transformers`: repetition penalty, (a constraint's mask,) temperature, top-k, top-p, then a
/// draw from the softmax. The same seed, logits and settings give the same tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy: the highest logit after the repetition penalty, the lowest id among equals. Else > 0 and finite.
    pub temperature: f32,
    /// Keep the `top_k` highest logits (more on a tie at the edge); 0 keeps all. No effect when greedy.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach `top_p`, 0 < `top_p` ≤ 1. No effect when greedy.
    pub top_p: f32,
    /// > 0; above 1 makes every token of the prompt and of the text so far less likely. 1 is off.
    pub repetition_penalty: f32,
    /// Start of the random sequence. No effect when greedy.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Draws at temperature 1 with the defaults of `transformers`' `do_sample`.
    pub fn random(seed: u64) -> Self {
        Self {
            temperature: 1.0,
            seed,
            ..Self::default()
        }
    }

    /// # Errors
    /// [`ErrorKind::InvalidArgument`] naming the number out of its range.
    pub fn validate(&self) -> Result<()> {
        let bad = |name: &str, value: f32, range: &str| {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{name} = {value} is not {range}"),
            ))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "0 (greedy) or above");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition_penalty", self.repetition_penalty, "above 0");
        }
        Ok(())
    }
}

/// A token not known by its id, e.g. a row of embeddings; no penalty applies to it.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Draws tokens by a [`Sampling`].
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    candidates: Vec<(u32, f32)>,
    seen: Vec<u32>,
}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling) -> Result<Self> {
        sampling.validate()?;
        Ok(Self {
            sampling: sampling.clone(),
            random: SplitMix64(sampling.seed),
            candidates: Vec::new(),
            seen: Vec::new(),
        })
    }

    /// The next token. `logits` has one finite number per token of the vocabulary; `history` is every token before it; `allowed`,
    /// in ascending order, limits the choice.
    pub(crate) fn next(
        &mut self,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&[u32]>,
    ) -> Result<u32> {
        check_finite(logits)?;
        self.pick(logits, history, allowed)
    }

    /// As [`next`](Self::next), of logits that are negative infinity for tokens that may not come.
    pub(super) fn pick(
        &mut self,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&[u32]>,
    ) -> Result<u32> {
        if allowed.is_none()
            && self.sampling.temperature == 0.0
            && self.sampling.repetition_penalty == 1.0
        {
            return likeliest(logits);
        }
        self.candidates.clear();
        match allowed {
            Some(allowed) => self.candidates.extend(
                allowed
                    .iter()
                    .filter_map(|id| Some((*id, *logits.get(*id as usize)?))),
            ),
            None => self.candidates.extend((0u32..).zip(logits.iter().copied())),
        }
        self.candidates
            .retain(|(_, logit)| *logit > f32::NEG_INFINITY);
        self.penalise(history);
        if self.sampling.temperature == 0.0 || self.candidates.is_empty() {
            return highest(self.candidates.iter().copied());
        }
        self.draw()
    }

    fn penalise(&mut self, history: &[u32]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        self.seen.clear();
        self.seen
            .extend(history.iter().filter(|id| **id != NO_TOKEN));
        self.seen.sort_unstable();
        self.seen.dedup();
        // Both are in ascending order of ids.
        let mut seen = self.seen.iter().peekable();
        for (id, logit) in &mut self.candidates {
            while seen.next_if(|seen| *seen < id).is_some() {}
            if seen.peek() == Some(&&*id) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    fn draw(&mut self) -> Result<u32> {
        let candidates = &mut self.candidates;
        for (_, logit) in candidates.iter_mut() {
            *logit /= self.sampling.temperature;
        }
        // Stable, so that equal logits stay in order of ids.
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
        let k = self.sampling.top_k;
        if k > 0 && k < candidates.len() {
            let edge = candidates[k - 1].1;
            let keep = candidates.partition_point(|(_, logit)| *logit >= edge);
            candidates.truncate(keep);
        }
        let top = candidates[0].1;
        if !top.is_finite() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "temperature = {} is too small to divide by",
                    self.sampling.temperature
                ),
            )
            .remedy("0 is greedy"));
        }
        let weight = |logit: f32| f64::from(logit - top).exp();
        let mut total: f64 = candidates.iter().map(|(_, logit)| weight(*logit)).sum();
        if self.sampling.top_p < 1.0 {
            // A token stays while those before it have not reached top_p; the first always stays.
            let enough = f64::from(self.sampling.top_p) * total;
            let mut reached = 0.0;
            let mut keep = 0;
            for (_, logit) in candidates.iter() {
                if keep > 0 && reached >= enough {
                    break;
                }
                reached += weight(*logit);
                keep += 1;
            }
            candidates.truncate(keep);
            total = reached;
        }
        let mut left = self.random.unit() * total;
        for (id, logit) in candidates.iter() {
            left -= weight(*logit);
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // Rounding may leave a crumb: it belongs to the likeliest.
        Ok(candidates[0].0)
    }
}

/// The id of the highest logit; the lowest id among equals.
fn highest(candidates: impl Iterator<Item = (u32, f32)>) -> Result<u32> {
    let mut best = None;
    for (id, logit) in candidates {
        if best.is_none_or(|(_, top)| logit > top) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id).ok_or_else(|| {
        Error::new(
            ErrorKind::Inference,
            "no token of the decoder's vocabulary is allowed here",
        )
    })
}

/// [`highest`] of a whole vocabulary, in two passes that vectorise.
fn likeliest(logits: &[f32]) -> Result<u32> {
    const LANES: usize = 16;
    let mut top = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (top, logit) in top.iter_mut().zip(chunk) {
            *top = if *logit > *top { *logit } else { *top };
        }
    }
    let top = top
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    let at = logits.iter().position(|logit| *logit == top);
    let at = at.filter(|_| top > f32::NEG_INFINITY);
    highest(at.map(|at| (at as u32, top)).into_iter())
}

/// Refuses logits a model must not produce.
pub(crate) fn check_finite(logits: &[f32]) -> Result<()> {
    // Without an early exit this vectorises, and it nearly always reads to the end anyway.
    if logits
        .iter()
        .fold(true, |all, logit| all & logit.is_finite())
    {
        return Ok(());
    }
    let at = logits
        .iter()
        .position(|logit| !logit.is_finite())
        .unwrap_or(0);
    Err(Error::new(
        ErrorKind::Inference,
        format!("the decoder's logits hold {} at token {at}", logits[at]),
    )
    .remedy("`atom pack verify` checks the decoder against its golden output"))
}

/// ln p(token) of each of `tokens` under the softmax of `logits`.
pub(crate) fn log_probabilities(logits: &[f32], tokens: &[u32]) -> Result<Vec<f64>> {
    check_finite(logits)?;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits
        .iter()
        .map(|logit| f64::from((logit - top).exp()))
        .sum();
    let norm = f64::from(top) + total.ln();
    tokens
        .iter()
        .map(|token| {
            let logit = logits.get(*token as usize).ok_or_else(|| {
                Error::new(
                    ErrorKind::BadModel,
                    format!(
                        "token {token} is outside the decoder's {} logits",
                        logits.len()
                    ),
                )
            })?;
            Ok(f64::from(*logit) - norm)
        })
        .collect()
}

/// Steele, Lea and Flood's SplitMix64: one word of state, good enough to draw tokens.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(sampling: &Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling).expect("sampler");
        (0..n)
            .map(|_| sampler.next(logits, &[], None).expect("token"))
            .collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_on_ties() {
        assert_eq!(tokens(&Sampling::default(), &[1.0, 3.0, 3.0, -1.0], 1), [1]);
        // Anywhere in a vocabulary of any size, and with either zero first.
        for size in [1, 15, 16, 17, 100] {
            for at in 0..size {
                let mut logits = vec![-1.0; size];
                logits[at..].fill(0.0);
                logits[at] = -0.0;
                assert_eq!(tokens(&Sampling::default(), &logits, 1), [at as u32]);
            }
        }
    }

    #[test]
    fn not_a_number_is_an_error() {
        let mut sampler = Sampler::new(&Sampling::default()).expect("sampler");
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = sampler
                .next(&[0.0, wrong, 1.0], &[], Some(&[0]))
                .expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Inference);
            assert!(error.message().contains("token 1"), "{error}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let good = Sampling::random(1);
        for bad in [
            Sampling {
                temperature: -1.0,
                ..good.clone()
            },
            Sampling {
                temperature: f32::NAN,
                ..good.clone()
            },
            Sampling {
                temperature: f32::INFINITY,
                ..good.clone()
            },
            Sampling {
                top_p: 0.0,
                ..good.clone()
            },
            Sampling {
                top_p: 1.1,
                ..good.clone()
            },
            Sampling {
                repetition_penalty: 0.0,
                ..good.clone()
            },
            Sampling {
                repetition_penalty: f32::NAN,
                ..good.clone()
            },
        ] {
            let error = Sampler::new(&bad).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let tiny = Sampling {
            temperature: f32::MIN_POSITIVE,
            ..good
        };
        let error = Sampler::new(&tiny)
            .expect("sampler")
            .next(&[9.0, 1.0], &[], None)
            .expect_err("divides to infinity");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn penalty_divides_what_is_positive_and_multiplies_what_is_negative() {
        let mut sampler = Sampler::new(&Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        })
        .expect("sampler");
        // 4/2 = 2 < 3, and of (-2·2, -3) the second.
        assert_eq!(
            sampler
                .next(&[4.0, 3.0], &[0, 0, NO_TOKEN], None)
                .expect("token"),
            1
        );
        assert_eq!(sampler.next(&[-2.0, -3.0], &[0], None).expect("token"), 1);
        assert_eq!(
            sampler
                .next(&[-2.0, -3.0], &[1], Some(&[0, 1]))
                .expect("token"),
            0
        );
    }

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let logits: Vec<f32> = (0..64).map(|i| (i % 7) as f32 * 0.3).collect();
        let all = |seed| Sampling {
            top_k: 0,
            ..Sampling::random(seed)
        };
        let once = tokens(&all(7), &logits, 50);
        assert_eq!(once, tokens(&all(7), &logits, 50));
        assert_ne!(once, tokens(&all(8), &logits, 50));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // p = 0.1, 0.2, 0.7
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()];
        let drawn = tokens(&Sampling::random(3), &logits, 20_000);
        for (id, p) in [(0, 0.1), (1, 0.2), (2, 0.7)] {
            let share = drawn.iter().filter(|t| **t == id).count() as f64 / 20_000.0;
            assert!((share - p).abs() < 0.015, "token {id}: {share} for {p}");
        }
        // At temperature 1/2 the odds are squared: 0.01, 0.04, 0.49.
        let cold = Sampling {
            temperature: 0.5,
            ..Sampling::random(3)
        };
        let drawn = tokens(&cold, &logits, 20_000);
        let share = drawn.iter().filter(|t| **t == 2).count() as f64 / 20_000.0;
        assert!((share - 0.49 / 0.54).abs() < 0.015, "{share}");
    }

    #[test]
    fn top_k_and_top_p_cut_as_transformers_does() {
        let kinds = |sampling: &Sampling, logits: &[f32]| {
            let mut drawn = tokens(sampling, logits, 2000);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.4f32.ln(), 0.3f32.ln()];
        let k = |top_k| Sampling {
            top_k,
            ..Sampling::random(1)
        };
        let p = |top_p| Sampling {
            top_p,
            ..Sampling::random(1)
        };
        assert_eq!(kinds(&k(2), &logits), [2, 3]);
        // A tie at the edge stays.
        assert_eq!(kinds(&k(1), &[1.0, 0.0, 1.0]), [0, 2]);
        assert_eq!(kinds(&p(0.6), &logits), [2, 3]);
        assert_eq!(kinds(&p(0.75), &logits), [1, 2, 3]);
        assert_eq!(kinds(&p(0.01), &logits), [2]);
        // top-p sees only what top-k left: 0.4 and 0.3 become 0.571 and 0.429.
        let both = Sampling {
            top_k: 2,
            top_p: 0.57,
            ..Sampling::random(1)
        };
        assert_eq!(kinds(&both, &logits), [2]);
    }

    #[test]
    fn only_what_is_allowed() {
        let sampling = Sampling {
            top_k: 1,
            ..Sampling::random(1)
        };
        let mut sampler = Sampler::new(&sampling).expect("sampler");
        let logits = [9.0, 1.0, 2.0];
        assert_eq!(sampler.next(&logits, &[], Some(&[1, 2])).expect("token"), 2);
        let error = sampler.next(&logits, &[], Some(&[7])).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Inference);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0, 2.0, 300.0, -5.0];
        let all = log_probabilities(&logits, &[0, 1, 2, 3]).expect("numbers");
        let sum: f64 = all.iter().map(|p| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((all[1] - all[0] - 1.0).abs() < 1e-6);
        assert!(log_probabilities(&logits, &[4]).is_err());
    }
}

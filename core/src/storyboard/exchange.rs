//! The exchange: a choice of clips made better one change at a time, each time the best there is, until none gains.
//!
//! Single clips are replaced, pairs swapped and empty places filled at the cost of a neighbour. That is a local optimum.
//! The same input gives the same choice.

use std::cmp::Ordering;

use super::choose::Choice;
use crate::control::Control;
use crate::error::Result;

/// How good a choice is; the first that differs decides.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Worth {
    lines: usize,
    clips: usize,
    sum: f64,
}

impl Worth {
    fn beats(&self, other: &Self) -> bool {
        match (self.lines, self.clips).cmp(&(other.lines, other.clips)) {
            Ordering::Greater => true,
            Ordering::Less => false,
            // By more than rounding, or exchanges could go round in circles.
            Ordering::Equal => self.sum > other.sum + 1e-9,
        }
    }
}

/// Rounds of exchange. Few are needed; each gains, so this only bounds the time.
const ROUNDS: usize = 16;
/// How many of a line's moments are tried for an empty place at the cost of a neighbour.
const TRIED: usize = 16;

impl Choice<'_> {
    /// Makes changes as long as any gains.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::error::ErrorKind::Cancelled) and
    /// [`ErrorKind::DeadlineExceeded`](crate::error::ErrorKind::DeadlineExceeded).
    pub(super) fn exchange(&mut self, control: &Control) -> Result<()> {
        for _ in 0..ROUNDS {
            if !self.round(control)? {
                break;
            }
        }
        Ok(())
    }

    /// How much `a` repeats `b`, 0..=1: half for the stream, half for the picture.
    fn repeats(&self, a: usize, b: usize) -> f64 {
        let (a, b) = (&self.board.moments[a], &self.board.moments[b]);
        let stream = if a.stream == b.stream { 0.5 } else { 0.0 };
        stream + 0.5 * f64::from(cosine(&a.embedding, &b.embedding).max(0.0))
    }

    fn worth(&self) -> Worth {
        let chosen: Vec<(usize, f32)> = (0..self.picks.len()).filter_map(|p| self.at(p)).collect();
        let mut sum = 0.0;
        for (at, (moment, score)) in chosen.iter().enumerate() {
            sum += f64::from(*score);
            if self.board.variety > 0.0 {
                let others = chosen.iter().enumerate().filter(|(other, _)| *other != at);
                let most = others
                    .map(|(_, (other, _))| self.repeats(*moment, *other))
                    .fold(0.0, f64::max);
                sum -= f64::from(self.board.variety) * most;
            }
        }
        let per_line = self.board.per_line;
        let lines = self
            .picks
            .chunks(per_line)
            .filter(|line| line.iter().any(Option::is_some));
        Worth {
            lines: lines.count(),
            clips: chosen.len(),
            sum,
        }
    }

    /// Makes the best change at each place that gains; whether there was one.
    fn round(&mut self, control: &Control) -> Result<bool> {
        let mut gained = false;
        for place in 0..self.picks.len() {
            control.check()?;
            let better = match self.replacement(place) {
                None if self.picks[place].is_none() => self.squeeze(place),
                found => found,
            };
            if let Some(picks) = better {
                self.picks = picks;
                gained = true;
            }
        }
        Ok(gained)
    }

    /// The choice with the best other moment at `place`; who holds it now gets what was there, if that fits its line.
    fn replacement(&self, place: usize) -> Option<Vec<Option<usize>>> {
        let variety = f64::from(self.board.variety);
        let now = self.worth();
        let old = self.at(place);
        let others: Vec<(usize, f32)> = (0..self.picks.len())
            .filter(|other| *other != place)
            .filter_map(|other| self.at(other))
            .collect();
        // How much each of the others repeats another, whatever stands at `place`.
        let mut repeated = vec![0.0; others.len()];
        if variety > 0.0 {
            for (at, (moment, _)) in others.iter().enumerate() {
                for (before, (other, _)) in others[..at].iter().enumerate() {
                    let repeats = self.repeats(*moment, *other);
                    repeated[at] = f64::max(repeated[at], repeats);
                    repeated[before] = f64::max(repeated[before], repeats);
                }
            }
        }
        let scores: f64 = others.iter().map(|(_, score)| f64::from(*score)).sum();
        let rest = scores - variety * repeated.iter().sum::<f64>();
        let line = self.of_line(place);
        let filled = Worth {
            lines: now.lines + usize::from(line.iter().all(Option::is_none)),
            clips: now.clips + usize::from(old.is_none()),
            sum: 0.0,
        };
        let mut best: Option<(Worth, Vec<Option<usize>>)> = None;
        for (pick, (moment, score)) in self.line(place).iter().enumerate() {
            let score = f64::from(*score);
            let mut picks = self.picks.clone();
            let sum = match (self.holder(*moment), old) {
                (Some(holder), _) if holder == place => continue,
                (Some(holder), Some((old, old_score))) => {
                    let theirs = self.line(holder);
                    let Some(swapped) = theirs.iter().position(|(own, _)| *own == old) else {
                        continue;
                    };
                    let given = self.at(holder).map_or(0.0, |(_, score)| f64::from(score));
                    picks[holder] = Some(swapped);
                    // The same moments stay on the board, so they repeat each other as before.
                    now.sum + score + f64::from(theirs[swapped].1) - f64::from(old_score) - given
                }
                (Some(_), None) => continue,
                (None, _) if variety > 0.0 => {
                    let (mut most, mut more) = (0.0, 0.0);
                    for ((other, _), repeated) in others.iter().zip(&repeated) {
                        let repeats = self.repeats(*moment, *other);
                        most = f64::max(most, repeats);
                        more += f64::max(0.0, repeats - repeated);
                    }
                    rest + score - variety * (most + more)
                }
                (None, _) => rest + score,
            };
            let worth = Worth { sum, ..filled };
            if !worth.beats(best.as_ref().map_or(&now, |(best, _)| best)) {
                continue;
            }
            picks[place] = Some(pick);
            let changed = Choice {
                board: self.board,
                picks,
            };
            if changed.fits(self.board.moments[*moment].stream) {
                best = Some((worth, changed.picks));
            }
        }
        Some(best?.1)
    }

    /// What stands at the places of the line that `place` belongs to.
    fn of_line(&self, place: usize) -> &[Option<usize>] {
        let first = place - place % self.board.per_line;
        &self.picks[first..first + self.board.per_line]
    }

    /// Fills an empty place at the cost of a neighbour in time, or of who holds the moment, which gets the best that is
    /// left.
    fn squeeze(&self, place: usize) -> Option<Vec<Option<usize>>> {
        let mut worth = self.worth();
        let mut best = None;
        for pick in 0..self.line(place).len().min(TRIED) {
            let (moment, _) = self.line(place)[pick];
            let stream = self.board.moments[moment].stream;
            let victims = match self.holder(moment) {
                Some(holder) => vec![holder],
                None => self.neighbours(moment),
            };
            for victim in victims {
                let mut changed = Choice {
                    board: self.board,
                    picks: self.picks.clone(),
                };
                changed.picks[victim] = None;
                changed.picks[place] = Some(pick);
                if !changed.fits(stream) {
                    continue;
                }
                changed.refill(victim);
                let now = changed.worth();
                if now.beats(&worth) {
                    worth = now;
                    best = Some(changed.picks);
                }
            }
        }
        best
    }

    /// The places whose clips lie before and after `moment` in its stream.
    fn neighbours(&self, moment: usize) -> Vec<usize> {
        let wanted = &self.board.moments[moment];
        let places = self.of_stream(wanted.stream);
        let keyframe = |place: &usize| {
            self.at(*place)
                .map_or(i64::MIN, |(own, _)| self.board.moments[own].keyframe_ns)
        };
        let after = places.partition_point(|place| keyframe(place) < wanted.keyframe_ns);
        let before = after.checked_sub(1);
        [before, Some(after)]
            .into_iter()
            .filter_map(|at| places.get(at?).copied())
            .collect()
    }

    /// Gives an empty place the best free moment of its line that fits.
    fn refill(&mut self, place: usize) {
        for pick in 0..self.line(place).len() {
            let (moment, _) = self.line(place)[pick];
            if self.holder(moment).is_some() {
                continue;
            }
            self.picks[place] = Some(pick);
            if self.fits(self.board.moments[moment].stream) {
                return;
            }
            self.picks[place] = None;
        }
    }
}

/// Of vectors of unit length; 0 when there are none.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    // Several sums, so that the compiler keeps them in vector registers.
    const LANES: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

//! Which moment for which line, all lines together.
//!
//! The start is the optimal assignment (Kuhn and Munkres) of segments to places on the board: as many lines as possible
//! get a clip, then as many clips as possible are there, then the sum of the scores is largest. So no line takes the only
//! segment of another, and without variety and where all clips have room that is the result, and no better one exists.
//!
//! Variety and room depend on pairs of clips, which makes the problem quadratic (and hard), so they are met by exchange:
//! clips that have no room are taken off, worst first; then single clips are replaced, pairs swapped and empty places
//! filled at the cost of a neighbour, each time the one change that gains is made, until none gains. That is a local
//! optimum. The same input gives the same choice.

use std::cmp::Ordering;

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

use super::moment::Moment;
use super::place::place;
use crate::control::Control;
use crate::error::Result;

/// What there is to choose from.
pub(crate) struct Board<'a> {
    pub(crate) moments: &'a [Moment],
    /// For each line the moments that fit it, with their scores, best first.
    pub(crate) lines: &'a [Vec<(usize, f32)>],
    pub(crate) per_line: usize,
    pub(crate) least_ns: i64,
    pub(crate) most_ns: i64,
    /// 0..=1, as [`StoryboardOptions::variety`](super::StoryboardOptions::variety).
    pub(crate) variety: f32,
}

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

/// For each line the moments chosen, as indices into `board.moments` with their scores, best first.
///
/// # Errors
/// [`ErrorKind::Cancelled`], [`ErrorKind::DeadlineExceeded`].
pub(crate) fn choose(board: &Board<'_>, control: &Control) -> Result<Vec<Vec<(usize, f32)>>> {
    let mut choice = Choice::assigned(board)?;
    choice.make_room();
    let fits = choice.picks.iter().flatten().count();
    let full: usize = board
        .lines
        .iter()
        .map(|line| line.len().min(board.per_line))
        .sum();
    // Without variety the assignment is the best there is, unless room took clips off it.
    if board.variety > 0.0 || fits < full {
        for _ in 0..ROUNDS {
            if !choice.round(control)? {
                break;
            }
        }
    }
    Ok(choice.by_line())
}

/// What stands at each place; place `p` belongs to line `p / per_line`.
struct Choice<'a> {
    board: &'a Board<'a>,
    /// Index into the line's moments.
    picks: Vec<Option<usize>>,
}

impl<'a> Choice<'a> {
    fn assigned(board: &'a Board<'a>) -> Result<Self> {
        const SCORE: f64 = 1e6;
        // A clip is worth more than all scores, a line more than all clips.
        const CLIP: i64 = 1_000_000_000;
        const LINE: i64 = 1_000_000_000_000;
        let places = board.lines.len() * board.per_line;
        let mut columns: Vec<usize> = Vec::new();
        for line in board.lines {
            // Of more moments than places the others' clips cannot take all.
            columns.extend(line.iter().take(places).map(|(moment, _)| *moment));
        }
        columns.sort_unstable();
        columns.dedup();
        let mut picks = vec![None; places];
        if columns.is_empty() {
            return Ok(Self { board, picks });
        }
        // One more column for each place: it stays empty.
        let mut weights = Matrix::new(places, columns.len() + places, 0i64);
        for (place, (line, rank)) in Self::places(board).enumerate() {
            for (moment, score) in board.lines[line].iter().take(places) {
                if let Ok(column) = columns.binary_search(moment) {
                    let bonus = CLIP + if rank == 0 { LINE } else { 0 };
                    weights[(place, column)] = bonus + (f64::from(*score) * SCORE).round() as i64;
                }
            }
        }
        let (_, assigned) = kuhn_munkres(&weights);
        for (place, (line, _)) in Self::places(board).enumerate() {
            let Some(moment) = assigned.get(place).and_then(|at| columns.get(*at)) else {
                continue;
            };
            picks[place] = board.lines[line].iter().position(|(own, _)| own == moment);
        }
        Ok(Self { board, picks })
    }

    /// Line and rank within it, for each place.
    fn places(board: &Board<'_>) -> impl Iterator<Item = (usize, usize)> {
        let per_line = board.per_line;
        (0..board.lines.len()).flat_map(move |line| (0..per_line).map(move |rank| (line, rank)))
    }

    fn line(&self, place: usize) -> &'a [(usize, f32)] {
        &self.board.lines[place / self.board.per_line]
    }

    /// What stands at `place`.
    fn at(&self, place: usize) -> Option<(usize, f32)> {
        self.picks[place].map(|pick| self.line(place)[pick])
    }

    /// The place that holds `moment`.
    fn holder(&self, moment: usize) -> Option<usize> {
        (0..self.picks.len()).find(|place| self.at(*place).is_some_and(|(own, _)| own == moment))
    }

    /// The places whose moments are of `stream`, by keyframe.
    fn of_stream(&self, stream: usize) -> Vec<usize> {
        let moments = self.board.moments;
        let mut places: Vec<(i64, usize)> = (0..self.picks.len())
            .filter_map(|place| {
                let (moment, _) = self.at(place)?;
                let moment = &moments[moment];
                (moment.stream == stream).then_some((moment.keyframe_ns, place))
            })
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, place)| place).collect()
    }

    /// Whether the clips of `stream` fit beside each other.
    fn fits(&self, stream: usize) -> bool {
        let moments: Vec<&Moment> = self
            .of_stream(stream)
            .into_iter()
            .filter_map(|place| Some(&self.board.moments[self.at(place)?.0]))
            .collect();
        place(&moments, self.board.least_ns, self.board.most_ns).is_some()
    }

    /// Takes clips off until all fit: the most expendable of a stream first.
    fn make_room(&mut self) {
        let streams = self.board.moments.iter().map(|moment| moment.stream + 1);
        for stream in 0..streams.max().unwrap_or(0) {
            while !self.fits(stream) {
                let expendable = self.of_stream(stream).into_iter().min_by(|a, b| {
                    let key = |place: usize| {
                        let score = self.at(place).map_or(0.0, |(_, score)| score);
                        (place.is_multiple_of(self.board.per_line), score)
                    };
                    let ((a_first, a), (b_first, b)) = (key(*a), key(*b));
                    a_first.cmp(&b_first).then(a.total_cmp(&b))
                });
                match expendable {
                    Some(place) => self.picks[place] = None,
                    None => break,
                }
            }
        }
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

    fn by_line(&self) -> Vec<Vec<(usize, f32)>> {
        let line = |line: usize| {
            let places = line * self.board.per_line..(line + 1) * self.board.per_line;
            let mut picks: Vec<usize> = places.filter_map(|place| self.picks[place]).collect();
            // The line's moments are best first.
            picks.sort_unstable();
            picks
                .into_iter()
                .map(|pick| self.board.lines[line][pick])
                .collect()
        };
        (0..self.board.lines.len()).map(line).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::SegmentId;

    /// Moments of ten seconds each, one after the other in each of `streams`, no two alike.
    fn moments(streams: usize, each: usize) -> Vec<Moment> {
        let end = each as i64 * 10;
        let count = streams * each;
        (0..count)
            .map(|at| {
                let start = (at % each) as i64 * 10;
                let mut embedding = vec![0.0; count];
                embedding[at] = 1.0;
                Moment {
                    segment: SegmentId(at as u64),
                    stream: at / each,
                    keyframe_ns: start + 5,
                    wanted: (start, start + 10),
                    room: (0, end),
                    embedding,
                }
            })
            .collect()
    }

    fn board<'a>(moments: &'a [Moment], lines: &'a [Vec<(usize, f32)>]) -> Board<'a> {
        Board {
            moments,
            lines,
            per_line: 1,
            least_ns: 1,
            most_ns: 100,
            variety: 0.0,
        }
    }

    fn chosen(board: &Board<'_>) -> Vec<Vec<usize>> {
        let lines = choose(board, &Control::default()).unwrap();
        let bare = |line: Vec<(usize, f32)>| line.into_iter().map(|(moment, _)| moment).collect();
        lines.into_iter().map(bare).collect()
    }

    /// The candidates of each line from a table of scores; 0 is no match.
    fn lines(table: &[&[f32]]) -> Vec<Vec<(usize, f32)>> {
        let line = |scores: &&[f32]| {
            let mut line: Vec<_> = scores.iter().copied().enumerate().collect();
            line.retain(|(_, score)| *score > 0.0);
            line.sort_by(|a, b| b.1.total_cmp(&a.1));
            line
        };
        table.iter().map(line).collect()
    }

    #[test]
    fn an_early_line_does_not_take_the_only_segment_of_a_later_one() {
        let moments = moments(1, 3);
        let lines = lines(&[&[0.9, 0.4, 0.0], &[0.8, 0.0, 0.0]]);
        assert_eq!(chosen(&board(&moments, &lines)), [[1], [0]]);
        // Nor does a line's second clip.
        let both = Board {
            per_line: 2,
            ..board(&moments, &lines)
        };
        assert_eq!(chosen(&both), [[1], [0]]);
    }

    #[test]
    fn a_line_without_candidates_stays_empty() {
        let moments = moments(1, 2);
        let lines = lines(&[&[0.0, 0.0], &[0.4, 0.5]]);
        let none: Vec<usize> = Vec::new();
        assert_eq!(chosen(&board(&moments, &lines)), [none.clone(), vec![1]]);
        assert_eq!(
            chosen(&board(&moments, &vec![Vec::new(); 2])),
            [none.clone(), none]
        );
    }

    #[test]
    fn without_variety_and_with_room_nothing_better_exists() {
        // Every way of giving 4 lines 5 moments, on tables of scores from a fixed sequence.
        let moments = moments(1, 5);
        let mut seed = 7u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as f32 / 256.0
        };
        for _ in 0..60 {
            let table: Vec<Vec<f32>> = (0..4)
                .map(|_| (0..5).map(|_| (next() - 0.4).max(0.0)).collect())
                .collect();
            let rows: Vec<&[f32]> = table.iter().map(Vec::as_slice).collect();
            let lines = lines(&rows);
            let found = choose(&board(&moments, &lines), &Control::default()).unwrap();
            let count = found.iter().filter(|line| !line.is_empty()).count();
            let sum: f32 = found.iter().flatten().map(|(_, score)| score).sum();
            let (best_count, best_sum) = best(&table, 0, 0);
            assert_eq!(count, best_count, "{table:?}");
            assert!((sum - best_sum).abs() < 1e-4, "{sum} {best_sum} {table:?}");
        }
    }

    /// Lines filled and sum of scores, by trying everything.
    fn best(table: &[Vec<f32>], line: usize, used: u32) -> (usize, f32) {
        let Some(scores) = table.get(line) else {
            return (0, 0.0);
        };
        let mut found = best(table, line + 1, used);
        for (moment, score) in scores.iter().enumerate() {
            if *score > 0.0 && used >> moment & 1 == 0 {
                let (count, sum) = best(table, line + 1, used | 1 << moment);
                if (count + 1, sum + score) > found {
                    found = (count + 1, sum + score);
                }
            }
        }
        found
    }

    #[test]
    fn variety_prefers_another_stream_and_another_picture() {
        let mut moments = moments(2, 2);
        // In the first stream both moments look alike.
        moments[1].embedding = moments[0].embedding.clone();
        let lines = lines(&[&[0.9, 0.0, 0.0, 0.0], &[0.0, 0.7, 0.6, 0.0]]);
        assert_eq!(chosen(&board(&moments, &lines)), [[0], [1]]);
        let varied = Board {
            variety: 0.2,
            ..board(&moments, &lines)
        };
        assert_eq!(chosen(&varied), [[0], [2]]);
        // However great, it leaves no line empty.
        let narrow = self::lines(&[&[0.9, 0.0, 0.0, 0.0], &[0.0, 0.1, 0.0, 0.0]]);
        let varied = Board {
            variety: 1.0,
            ..board(&moments, &narrow)
        };
        assert_eq!(chosen(&varied), [[0], [1]]);
    }

    #[test]
    fn a_clip_without_room_makes_way_and_moves_elsewhere() {
        // Twenty long at least: of the three moments of the first stream only one fits, and of the second another.
        let moments = moments(2, 3);
        let table: [&[f32]; 3] = [
            &[0.9, 0.0, 0.0, 0.0, 0.0, 0.0],
            &[0.0, 0.8, 0.0, 0.0, 0.0, 0.0],
            &[0.0, 0.0, 0.7, 0.0, 0.5, 0.0],
        ];
        let lines = lines(&table);
        let long = Board {
            least_ns: 20,
            ..board(&moments, &lines)
        };
        assert_eq!(chosen(&long), [vec![0], vec![], vec![4]]);
        // The line whose only moment is in the way of a better one gets it, if that can go elsewhere.
        let table: [&[f32]; 2] = [
            &[0.9, 0.0, 0.0, 0.0, 0.3, 0.0],
            &[0.0, 0.2, 0.0, 0.0, 0.0, 0.0],
        ];
        let lines = self::lines(&table);
        let long = Board {
            least_ns: 20,
            ..board(&moments, &lines)
        };
        assert_eq!(chosen(&long), [[4], [1]]);
    }

    #[test]
    fn the_largest_board_is_done_in_a_moment_and_always_alike() {
        // A hundred lines that all want the same two hundred moments.
        let moments = moments(4, 50);
        let line: Vec<(usize, f32)> = (0..200).map(|at| (at, 0.9 - at as f32 / 1000.0)).collect();
        let lines = vec![line; 100];
        let full = Board {
            variety: 0.3,
            least_ns: 15,
            ..board(&moments, &lines)
        };
        let found = chosen(&full);
        assert_eq!(found, chosen(&full));
        let mut all: Vec<usize> = found.into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        // Each stream has room for 33 clips of 15.
        assert_eq!(all.len(), 100);
        let cancelled = Control::default();
        cancelled.cancel.cancel();
        assert!(choose(&full, &cancelled).is_err());
    }
}

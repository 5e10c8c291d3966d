//! Which moment for which line, all lines together.
//!
//! The start is the optimal assignment (Kuhn and Munkres) of segments to places on the board: as many lines as possible
//! get a clip, then as many clips as possible are there, then the sum of the scores is largest. So no line takes the only
//! segment of another, and without variety and where all clips have room that is the result, and no better one exists.
//!
//! Variety and room depend on pairs of clips, which makes the problem quadratic (and hard): clips that have no room are
//! taken off, worst first; then the choice is improved by [`exchange`](super::exchange).

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
        choice.exchange(control)?;
    }
    Ok(choice.by_line())
}

/// What stands at each place; place `p` belongs to line `p / per_line`.
pub(super) struct Choice<'a> {
    pub(super) board: &'a Board<'a>,
    /// Index into the line's moments.
    pub(super) picks: Vec<Option<usize>>,
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

    pub(super) fn line(&self, place: usize) -> &'a [(usize, f32)] {
        &self.board.lines[place / self.board.per_line]
    }

    /// What stands at `place`.
    pub(super) fn at(&self, place: usize) -> Option<(usize, f32)> {
        self.picks[place].map(|pick| self.line(place)[pick])
    }

    /// The place that holds `moment`.
    pub(super) fn holder(&self, moment: usize) -> Option<usize> {
        (0..self.picks.len()).find(|place| self.at(*place).is_some_and(|(own, _)| own == moment))
    }

    /// The places whose moments are of `stream`, by keyframe.
    pub(super) fn of_stream(&self, stream: usize) -> Vec<usize> {
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
    pub(super) fn fits(&self, stream: usize) -> bool {
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

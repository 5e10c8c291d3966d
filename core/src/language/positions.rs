//! The positions of a text's rows, as a decoder is told them.

/// The positions of all rows that went through the decoder. They count up, unless the decoder takes three numbers for each
/// (M-RoPE: time, height, width) and a picture's rows came with their own: text goes on behind the largest of them.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    first: i64,
    /// Where text goes on behind each row; empty as long as positions count up.
    next: Vec<i64>,
}

impl Positions {
    /// No rows; the first will stand at `first`.
    pub(super) fn new(first: u32) -> Self {
        Self {
            first: first.into(),
            next: Vec::new(),
        }
    }

    /// Where the `rows` rows behind `past` stand when nothing else is said.
    pub(super) fn following(&self, past: usize, rows: usize) -> Vec<[i64; 3]> {
        let next = match past.checked_sub(1).and_then(|last| self.next.get(last)) {
            Some(next) => *next,
            None => self.first + past as i64,
        };
        (0..rows as i64).map(|row| [next + row; 3]).collect()
    }

    /// Notes where the rows behind `past` stand.
    pub(super) fn commit(&mut self, past: usize, positions: &[[i64; 3]]) {
        self.next.truncate(past);
        if self.next.is_empty() {
            if positions == self.following(past, positions.len()) {
                return;
            }
            for row in 0..past as i64 {
                self.push([self.first + row; 3]);
            }
        }
        for at in positions {
            self.push(*at);
        }
    }

    fn push(&mut self, at: [i64; 3]) {
        let before = self.next.last().copied().unwrap_or(self.first);
        let largest = at.into_iter().fold(i64::MIN, i64::max);
        self.next.push(before.max(largest.saturating_add(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_behind_the_largest_position_of_a_picture() {
        let mut positions = Positions::new(1);
        assert_eq!(positions.following(0, 2), [[1; 3], [2; 3]]);
        positions.commit(0, &[[1; 3], [2; 3]]);
        assert_eq!(positions.following(2, 1), [[3; 3]]);
        // A picture of two rows and three columns.
        let picture: Vec<_> = (0..6).map(|i| [3, 3 + i / 3, 3 + i % 3]).collect();
        positions.commit(2, &picture);
        assert_eq!(positions.following(8, 2), [[6; 3], [7; 3]]);
        positions.commit(8, &[[6; 3], [7; 3]]);
        assert_eq!(positions.following(10, 1), [[8; 3]]);
        // Cut back into the picture: behind what is left of it.
        assert_eq!(positions.following(4, 1), [[5; 3]]);
        positions.commit(4, &[[5; 3]]);
        assert_eq!(positions.following(5, 1), [[6; 3]]);
        // Cut back to before it: they count up again.
        positions.commit(1, &[[2; 3]]);
        assert_eq!(positions.following(2, 1), [[3; 3]]);
    }
}

//! The positions of a text's rows, as `position_ids` reads them.

/// Where the next row of a text stands. Positions count up. A decoder with M-RoPE may be given the coordinates of a picture's rows
/// (time, height, width); text after them continues at their largest coordinate plus one.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    first: i64,
    /// Where text continues after each row; empty while positions count up.
    next: Vec<i64>,
}

impl Positions {
    /// No rows yet; the first one stands at `first`.
    pub(super) fn new(first: u32) -> Self {
        Self {
            first: first.into(),
            next: Vec::new(),
        }
    }

    /// The positions of `rows` rows of text after the first `past` rows.
    pub(super) fn following(&self, past: usize, rows: usize) -> Vec<[i64; 3]> {
        let next = match past.checked_sub(1).and_then(|last| self.next.get(last)) {
            Some(next) => *next,
            None => self.first + past as i64,
        };
        (0..rows as i64).map(|row| [next + row; 3]).collect()
    }

    /// Records the positions of the rows after the first `past`, and forgets later ones.
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

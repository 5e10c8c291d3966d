//! Who goes next: the highest priority, within one the first come, and nobody is passed over for ever.

use crate::control::Priority;

/// An entry that later ones overtook this often counts as one priority higher.
pub const OVERTAKEN_PER_LEVEL: u32 = 8;

/// Entries that wait, with their priorities.
///
/// [`take`](Self::take) gives the entry of the highest level, the oldest of them first. An entry's level is its
/// priority, plus one for every [`OVERTAKEN_PER_LEVEL`] later entries that were taken before it. So a background entry is
/// overtaken by 16 interactive ones at most.
#[derive(Debug)]
pub struct WaitList<T> {
    /// In order of arrival.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    priority: Priority,
    overtaken: u32,
}

impl<T> Entry<T> {
    fn level(&self) -> u32 {
        let priority = match self.priority {
            Priority::Background => 0,
            Priority::Normal => 1,
            Priority::Interactive => 2,
        };
        priority + self.overtaken / OVERTAKEN_PER_LEVEL
    }
}

impl<T> Default for WaitList<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<T> WaitList<T> {
    /// Adds an entry behind those of its priority.
    pub fn push(&mut self, item: T, priority: Priority) {
        self.entries.push(Entry {
            item,
            priority,
            overtaken: 0,
        });
    }

    /// Removes the entry that goes next.
    pub fn take(&mut self) -> Option<T> {
        let mut best: Option<usize> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            // In order of arrival, so the first of the highest level wins.
            if best.is_none_or(|best| entry.level() > self.entries[best].level()) {
                best = Some(index);
            }
        }
        let best = best?;
        for entry in &mut self.entries[..best] {
            entry.overtaken += 1;
        }
        Some(self.entries.remove(best).item)
    }

    /// Removes the first entry that `wanted` holds for, out of turn.
    pub fn remove(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let index = self.entries.iter().position(|entry| wanted(&entry.item))?;
        Some(self.entries.remove(index).item)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Background, Interactive, Normal};

    #[test]
    fn priority_first_then_arrival() {
        let mut list = WaitList::default();
        for (item, priority) in [
            ("b1", Background),
            ("n1", Normal),
            ("i1", Interactive),
            ("b2", Background),
            ("i2", Interactive),
            ("n2", Normal),
        ] {
            list.push(item, priority);
        }
        assert_eq!(list.remove(|item| *item == "b1"), Some("b1"));
        assert_eq!(list.remove(|item| *item == "b1"), None);
        let order: Vec<_> = std::iter::from_fn(|| list.take()).collect();
        assert_eq!(order, ["i1", "i2", "n1", "n2", "b2"]);
        assert!(list.is_empty());
    }

    #[test]
    fn an_endless_stream_of_higher_priority_starves_nobody() {
        for (priority, overtaken) in [(Background, 16), (Normal, 8), (Interactive, 0)] {
            let mut list = WaitList::default();
            list.push("waits", priority);
            let mut before = 0;
            loop {
                list.push("new", Interactive);
                match list.take() {
                    Some("new") => before += 1,
                    _ => break,
                }
                assert!(before <= 1000, "starved");
            }
            assert_eq!(before, overtaken, "{priority:?}");
        }
    }
}

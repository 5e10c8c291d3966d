//! An answer as a word or a number, to choose among the choices of a caller.

/// What the grounding says to a question that a word or a number can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Yes,
    /// Nothing of the kind is seen.
    No,
    /// From `least` to `most` are seen.
    Between {
        /// Fewest.
        least: u32,
        /// Most.
        most: u32,
    },
}

impl Verdict {
    /// Whether `choice` says the same: "yes", "No.", "3", "three cars".
    pub fn agrees(self, choice: &str) -> bool {
        const NUMBERS: [&str; 13] = [
            "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve",
        ];
        let lower = choice.to_lowercase();
        let mut words = lower.split(|c: char| !c.is_alphanumeric());
        let Some(first) = words.find(|word| !word.is_empty()) else {
            return false;
        };
        match self {
            Self::Yes => first == "yes",
            Self::No => matches!(first, "no" | "none"),
            Self::Between { least, most } => {
                let spelt = NUMBERS.iter().position(|word| *word == first);
                let number = spelt.map(|at| at as u32).or_else(|| first.parse().ok());
                number.is_some_and(|number| (least..=most).contains(&number))
            }
        }
    }
}

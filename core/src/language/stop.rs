//! Stop strings that may span tokens and never leak into the text shown.

use crate::error::{Error, ErrorKind, Result};

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug)]
pub(super) struct StopStrings {
    strings: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// Longest list, and longest stop string in bytes.
const MAX: usize = 1024;

impl StopStrings {
    pub(super) fn new(strings: &[String]) -> Result<Self> {
        if strings.len() > MAX || strings.iter().any(|s| s.is_empty() || s.len() > MAX) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("stop strings are 1 to {MAX} bytes long, and at most {MAX}"),
            ));
        }
        Ok(Self {
            strings: strings.to_vec(),
            held: String::new(),
        })
    }

    /// Takes the next piece; returns what may be shown, and whether a stop string was met right after that.
    pub(super) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let met = self
            .strings
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = met {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let hold = self
            .held
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| {
                let tail = &self.held[*at..];
                self.strings.iter().any(|stop| stop.starts_with(tail))
            })
            .unwrap_or(self.held.len());
        let kept = self.held.split_off(hold);
        (std::mem::replace(&mut self.held, kept), false)
    }

    /// What was held back and turned out not to be a stop string.
    pub(super) fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stop = StopStrings::new(&stops).expect("stop strings");
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, met) = stop.push(piece);
            shown.push(text);
            if met {
                return (shown, true, stop.rest());
            }
        }
        (shown, false, stop.rest())
    }

    #[test]
    fn a_stop_string_over_three_pieces_never_shows() {
        let (shown, met, rest) = run(&["\n\nUser:"], &["Hello\n", "\nUs", "er: more"]);
        assert_eq!(shown, ["Hello", "", ""]);
        assert!(met && rest.is_empty());
    }

    #[test]
    fn what_only_looked_like_one_is_shown() {
        let (shown, met, rest) = run(&["END"], &["E", "N", "C", "EN"]);
        assert_eq!(shown, ["", "", "ENC", ""]);
        assert!(!met);
        assert_eq!(rest, "EN");
        // The hold must fall back to the longest beginning, not give up.
        let (shown, met, _) = run(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!((shown.concat().as_str(), met), ("a", true));
    }

    #[test]
    fn the_first_of_several_wins() {
        let (shown, met, _) = run(&["later", "is"], &["this is later"]);
        assert_eq!((shown.concat().as_str(), met), ("th", true));
        let (shown, met, _) = run(&["日本"], &["今日", "本"]);
        assert_eq!((shown.concat().as_str(), met), ("今", true));
    }

    #[test]
    fn empty_stop_strings_are_refused() {
        assert!(StopStrings::new(&[String::new()]).is_err());
        assert!(StopStrings::new(&[]).is_ok());
    }
}

//! A small grammar of texts, and the machine that spells it word by word.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};

/// A finite set of texts, written down without multiplying it out.
///
/// ```
/// use atom_core::language::Grammar;
/// // 2 · 3 · 2 sentences
/// let sentence = Grammar::sequence([
///     Grammar::one_of(["A photo of", "A frame with"]),
///     Grammar::one_of([" a dog", " a cat", " two bicycles"]),
///     Grammar::optional(" in the street"),
///     ".".into(),
/// ]);
/// # drop(sentence);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// This text.
    Text(String),
    /// One after the other, with nothing in between: write the spaces.
    Sequence(Vec<Grammar>),
    /// One of these.
    OneOf(Vec<Grammar>),
    /// This or nothing.
    Optional(Box<Grammar>),
}

impl Grammar {
    /// One part after the other.
    pub fn sequence<P: Into<Grammar>>(parts: impl IntoIterator<Item = P>) -> Self {
        Self::Sequence(parts.into_iter().map(Into::into).collect())
    }

    /// One of the alternatives.
    pub fn one_of<P: Into<Grammar>>(alternatives: impl IntoIterator<Item = P>) -> Self {
        Self::OneOf(alternatives.into_iter().map(Into::into).collect())
    }

    /// The part or nothing.
    pub fn optional(part: impl Into<Grammar>) -> Self {
        Self::Optional(Box::new(part.into()))
    }
}

impl From<&str> for Grammar {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Grammar {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Deepest nesting: compiling recurses.
const MAX_DEPTH: usize = 64;
/// Most different words at one place.
const MAX_WORDS: usize = 100_000;
/// Most bytes all words at one place may have together.
const MAX_WORD_BYTES: usize = 8 << 20;

/// A place in the machine: a text and a byte offset into it.
pub(crate) type Place = (u32, u32);

/// The end of every text.
const ACCEPT: u32 = 0;

enum State {
    Text { text: String, next: u32 },
    Split(Vec<u32>),
}

/// A grammar as a non-deterministic machine over characters; acyclic, since a grammar cannot repeat.
pub(crate) struct Machine {
    states: Vec<State>,
    start: u32,
    longest: usize,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("states", &self.states.len())
            .finish_non_exhaustive()
    }
}

/// A word and every place the machine may be in after it.
pub(crate) type Word = (String, Vec<Place>);

impl Machine {
    pub(crate) fn new(grammar: &Grammar) -> Result<Self> {
        let mut machine = Self {
            states: vec![State::Split(Vec::new())],
            start: ACCEPT,
            longest: 0,
        };
        let (start, longest) = machine.compile(grammar, ACCEPT, 0)?;
        machine.start = start;
        machine.longest = longest;
        Ok(machine)
    }

    /// Bytes of the longest text.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Adds `grammar` before state `next`; returns its first state and its longest text.
    fn compile(&mut self, grammar: &Grammar, next: u32, depth: usize) -> Result<(u32, usize)> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the grammar is nested more than {MAX_DEPTH} deep"),
            ));
        }
        match grammar {
            Grammar::Text(text) if text.is_empty() => Ok((next, 0)),
            Grammar::Text(text) => Ok((
                self.add(State::Text {
                    text: text.clone(),
                    next,
                })?,
                text.len(),
            )),
            Grammar::Sequence(parts) => {
                let mut first = next;
                let mut longest = 0usize;
                for part in parts.iter().rev() {
                    let (start, length) = self.compile(part, first, depth + 1)?;
                    first = start;
                    longest = longest.saturating_add(length);
                }
                Ok((first, longest))
            }
            Grammar::OneOf(alternatives) => {
                if alternatives.is_empty() {
                    return Err(Error::new(
                        ErrorKind::InvalidArgument,
                        "a OneOf of the grammar has no alternatives",
                    ));
                }
                let mut starts = Vec::with_capacity(alternatives.len());
                let mut longest = 0;
                for alternative in alternatives {
                    let (start, length) = self.compile(alternative, next, depth + 1)?;
                    starts.push(start);
                    longest = longest.max(length);
                }
                Ok((self.add(State::Split(starts))?, longest))
            }
            Grammar::Optional(part) => {
                let (start, longest) = self.compile(part, next, depth + 1)?;
                Ok((self.add(State::Split(vec![start, next]))?, longest))
            }
        }
    }

    fn add(&mut self, state: State) -> Result<u32> {
        let id = u32::try_from(self.states.len())
            .map_err(|_| Error::new(ErrorKind::InvalidArgument, "the grammar is too large"))?;
        if let State::Text { text, .. } = &state
            && text.len() > super::tokenizer::MAX_TEXT_BYTES
        {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a text of the grammar has {} bytes", text.len()),
            ));
        }
        self.states.push(state);
        Ok(id)
    }

    /// Where every text begins.
    pub(crate) fn start(&self) -> Vec<Place> {
        let mut places = Vec::new();
        self.enter(self.start, &mut places);
        normal(places)
    }

    /// Whether a text may end at `places`.
    pub(crate) fn accepts(places: &[Place]) -> bool {
        places.contains(&(ACCEPT, 0))
    }

    /// Adds the places where state `id` reads its first character.
    fn enter(&self, id: u32, places: &mut Vec<Place>) {
        let mut open = vec![id];
        let mut seen = std::collections::HashSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            match &self.states[id as usize] {
                State::Split(targets) if id != ACCEPT => open.extend(targets),
                _ => places.push((id, 0)),
            }
        }
    }

    /// Splits `places` by the character each reads next; whether one of them is the end.
    fn read(&self, places: &[Place]) -> (BTreeMap<char, Vec<Place>>, bool) {
        let mut by_char: BTreeMap<char, Vec<Place>> = BTreeMap::new();
        let mut end = false;
        for (id, offset) in places {
            let State::Text { text, next } = &self.states[*id as usize] else {
                end = true;
                continue;
            };
            let Some(c) = text[*offset as usize..].chars().next() else {
                continue;
            };
            let after = by_char.entry(c).or_default();
            let offset = *offset as usize + c.len_utf8();
            if offset == text.len() {
                self.enter(*next, after);
            } else {
                after.push((*id, offset as u32));
            }
        }
        for places in by_char.values_mut() {
            *places = normal(std::mem::take(places));
        }
        (by_char, end)
    }

    /// Every word that may follow at `places`, each with where it leads. A word ends before a space that follows
    /// something else than white space, and at the end of the text: where every common pre-tokenizer cuts.
    pub(crate) fn words(&self, places: &[Place]) -> Result<Vec<Word>> {
        let mut words: Vec<Word> = Vec::new();
        let mut bytes = 0;
        let mut open: Vec<Word> = vec![(String::new(), places.to_vec())];
        while let Some((word, places)) = open.pop() {
            let (by_char, end) = self.read(&places);
            let solid = word.chars().next_back().is_some_and(|c| !c.is_whitespace());
            let mut after = Vec::new();
            if end && !word.is_empty() {
                after.push((ACCEPT, 0));
            }
            for (c, places_after) in by_char {
                if c == ' ' && solid {
                    // The places before the space: the next word begins with it.
                    after.extend(places.iter().filter(|place| self.reads_space(**place)));
                } else {
                    let mut longer = word.clone();
                    longer.push(c);
                    open.push((longer, places_after));
                }
            }
            if !after.is_empty() {
                bytes += word.len();
                words.push((word, normal(after)));
            }
            if words.len() + open.len() > MAX_WORDS || bytes > MAX_WORD_BYTES {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("the grammar allows more than {MAX_WORDS} words at one place"),
                )
                .remedy("put the alternatives into separate words, or give fewer"));
            }
        }
        Ok(words)
    }

    fn reads_space(&self, (id, offset): Place) -> bool {
        match &self.states[id as usize] {
            State::Text { text, .. } => text[offset as usize..].starts_with(' '),
            State::Split(_) => false,
        }
    }
}

fn normal(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of the machine, by its words.
    fn texts(grammar: &Grammar) -> Vec<String> {
        let machine = Machine::new(grammar).expect("machine");
        let mut texts = Vec::new();
        let mut open = vec![(String::new(), machine.start())];
        while let Some((text, places)) = open.pop() {
            if Machine::accepts(&places) {
                texts.push(text.clone());
            }
            for (word, after) in machine.words(&places).expect("words") {
                open.push((format!("{text}{word}"), after));
            }
        }
        texts.sort();
        texts
    }

    #[test]
    fn words_multiply_out_to_the_texts() {
        let grammar = Grammar::sequence([
            Grammar::one_of(["a", "two "]),
            Grammar::one_of([" dog", "dogs", " big dog"]),
            Grammar::optional("s"),
            Grammar::optional(Grammar::sequence([" in", " it"])),
            ".".into(),
        ]);
        let mut expected = Vec::new();
        for a in ["a", "two "] {
            for b in [" dog", "dogs", " big dog"] {
                for c in ["", "s"] {
                    for d in ["", " in it"] {
                        expected.push(format!("{a}{b}{c}{d}."));
                    }
                }
            }
        }
        expected.sort();
        expected.dedup();
        assert_eq!(texts(&grammar), expected);
    }

    #[test]
    fn the_same_word_by_two_ways_keeps_both_ways() {
        let grammar = Grammar::one_of([
            Grammar::sequence(["a", " dog"]),
            Grammar::sequence(["a d", "og runs"]),
        ]);
        assert_eq!(texts(&grammar), ["a dog", "a dog runs"]);
        let machine = Machine::new(&grammar).expect("machine");
        assert_eq!(machine.words(&machine.start()).expect("words").len(), 1);
    }

    #[test]
    fn the_empty_text_may_be_allowed() {
        assert_eq!(texts(&Grammar::optional("x")), ["", "x"]);
        assert_eq!(texts(&"".into()), [""]);
        assert_eq!(texts(&Grammar::Sequence(Vec::new())), [""]);
        assert_eq!(texts(&" ".into()), [" "]);
    }

    #[test]
    fn a_huge_product_costs_little() {
        let part = || Grammar::one_of((0..50).map(|i| format!(" w{i}")));
        let grammar = Grammar::sequence((0..20).map(|_| part()));
        let machine = Machine::new(&grammar).expect("machine");
        let words = machine.words(&machine.start()).expect("words");
        assert_eq!(words.len(), 50);
        assert_eq!(machine.longest(), 20 * 4);
    }

    #[test]
    fn what_cannot_be_spelt_out_is_refused() {
        let error = Machine::new(&Grammar::OneOf(Vec::new())).expect_err("nothing");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let mut deep = Grammar::from("x");
        for _ in 0..80 {
            deep = Grammar::optional(deep);
        }
        assert!(Machine::new(&deep).is_err());
        let digit = || Grammar::one_of((0..10).map(|i| i.to_string()));
        let machine = Machine::new(&Grammar::sequence((0..9).map(|_| digit()))).expect("machine");
        let error = machine.words(&machine.start()).expect_err("10^9 words");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

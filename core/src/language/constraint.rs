//! Holding a decoder to given texts: a set of choices, or a small grammar.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::grammar::{Grammar, Machine, Place};
use super::tokenizer::Tokenizer;
use super::trie::Trie;
use crate::error::{Error, ErrorKind, Result};

/// The texts a generation may produce. Cheap to clone, made once and used by any number of generations and threads.
///
/// **Tokens.** A text can be cut into tokens in many ways; the decoder has learnt one, the *canonical* one the
/// tokenizer gives, and only that one is allowed. A choice is tokenized as a whole. A grammar is tokenized word by
/// word (a word takes the space before it along), which gives the same tokens for every tokenizer that cuts words
/// apart at spaces before anything else: byte-level BPE, Metaspace and WordPiece all do. The text starts right after
/// the prompt: when the prompt ends in a word, begin the choices with a space.
///
/// **The end** is reached when no token may follow (the last tokens of a text are often *forced*, and cost no step of
/// the decoder), or by the decoder's end-of-text token where a complete text is also the beginning of a longer one. A
/// decoder without an end-of-text token always takes the longer one.
#[derive(Debug, Clone)]
pub struct Constraint(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tokenizer: Tokenizer,
    machine: Option<Machine>,
    longest: usize,
    table: Mutex<Table>,
}

/// The places between words met so far; each is worked out when a generation first gets there.
#[derive(Debug, Default)]
struct Table {
    ids: HashMap<Vec<Place>, u32>,
    /// For each id its places; taken when worked out.
    places: Vec<Vec<Place>>,
    ready: Vec<Option<Arc<Between>>>,
}

/// A place between words: whether a text may end there, and the tokens of the words that may follow.
#[derive(Debug)]
struct Between {
    accept: bool,
    words: Trie,
}

impl Constraint {
    /// One of `choices`, as written. Equal choices count once; one may be the beginning of another.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there are none, one is empty, or the tokenizer cannot spell one (a special
    /// token, a character its vocabulary lacks).
    pub fn choices<S: AsRef<str>>(tokenizer: &Tokenizer, choices: &[S]) -> Result<Self> {
        let words = choice_trie(tokenizer, choices, |_| 1)?;
        let longest = words.node(0).height as usize;
        let table = Table {
            ids: HashMap::new(),
            places: vec![Vec::new(); 2],
            ready: vec![
                Some(Arc::new(Between {
                    accept: false,
                    words,
                })),
                Some(Arc::new(Between {
                    accept: true,
                    words: Trie::new(Vec::new()),
                })),
            ],
        };
        Ok(Self(Arc::new(Shared {
            tokenizer: tokenizer.clone(),
            machine: None,
            longest,
            table: Mutex::new(table),
        })))
    }

    /// One of the texts of `grammar`. Only what a generation comes by is worked out, never the product of all
    /// alternatives, so that a sequence of many parts costs no more than its parts.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when a `OneOf` is empty or the nesting deeper than 64. A word the tokenizer
    /// cannot spell, or more than 100,000 words at one place, is the same error from the generation that meets it.
    pub fn grammar(tokenizer: &Tokenizer, grammar: &Grammar) -> Result<Self> {
        let machine = Machine::new(grammar)?;
        let mut table = Table::default();
        table.id(machine.start());
        Ok(Self(Arc::new(Shared {
            tokenizer: tokenizer.clone(),
            longest: machine.longest(),
            machine: Some(machine),
            table: Mutex::new(table),
        })))
    }

    /// No text has more tokens than this.
    pub(crate) fn longest(&self) -> usize {
        self.0.longest
    }

    /// A walk from the beginning of the texts.
    pub(crate) fn walk(&self) -> Result<Walk> {
        let start = self.0.between(0)?;
        let mut walk = Walk {
            shared: Arc::clone(&self.0),
            at: Vec::new(),
            allowed: Vec::new(),
            may_end: false,
        };
        walk.settle(vec![(start, 0)])?;
        Ok(walk)
    }
}

/// The canonical tokens of every choice; a choice's entry is `entry(index)`.
pub(crate) fn choice_trie<S: AsRef<str>>(
    tokenizer: &Tokenizer,
    choices: &[S],
    entry: impl Fn(u32) -> u32,
) -> Result<Trie> {
    if choices.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "there are no choices to choose from",
        ));
    }
    let mut sequences = Vec::with_capacity(choices.len());
    for (index, choice) in (0u32..).zip(choices) {
        if choice.as_ref().is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("choice {index} is empty"),
            ));
        }
        sequences.push((spell(tokenizer, choice.as_ref())?, entry(index)));
    }
    Ok(Trie::new(sequences))
}

/// The tokens of `text`, which must give `text` back.
fn spell(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(text, false)?;
    // Some decoders drop the space before the first word.
    if tokens.is_empty() || tokenizer.decode(&tokens)?.trim() != text.trim() {
        let shown: String = text.chars().take(80).collect();
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the decoder's tokenizer cannot spell {shown:?}"),
        )
        .remedy("leave out special tokens and characters outside its vocabulary"));
    }
    Ok(tokens)
}

impl Table {
    /// The id of a set of places.
    fn id(&mut self, places: Vec<Place>) -> u32 {
        let next = self.places.len() as u32;
        *self.ids.entry(places).or_insert_with_key(|places| {
            self.places.push(places.clone());
            self.ready.push(None);
            next
        })
    }
}

impl Shared {
    /// The place between words numbered `id`, worked out now if nobody has been there.
    fn between(&self, id: u32) -> Result<Arc<Between>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(ready)) = table.ready.get(id as usize) {
            return Ok(Arc::clone(ready));
        }
        let (Some(machine), Some(places)) = (&self.machine, table.places.get(id as usize)) else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a constraint lost its place",
            ));
        };
        let accept = Machine::accepts(places);
        let mut sequences = Vec::new();
        for (word, after) in machine.words(places)? {
            let tokens = spell(&self.tokenizer, &word)?;
            sequences.push((tokens, table.id(after)));
        }
        let ready = Arc::new(Between {
            accept,
            words: Trie::new(sequences),
        });
        table.ready[id as usize] = Some(Arc::clone(&ready));
        Ok(ready)
    }
}

/// What may come next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The text is complete and nothing may follow.
    End,
    /// Only this token.
    Forced(u32),
    /// One of [`Walk::allowed`], or the end if [`Walk::may_end`].
    Open,
}

/// Where a generation is in its constraint.
#[derive(Debug)]
pub(crate) struct Walk {
    shared: Arc<Shared>,
    /// Every place the tokens so far lead to: a word may end where another goes on.
    at: Vec<(Arc<Between>, u32)>,
    allowed: Vec<u32>,
    may_end: bool,
}

impl Walk {
    /// Takes the places reached, adds those past a word's end, and notes what may follow.
    fn settle(&mut self, mut at: Vec<(Arc<Between>, u32)>) -> Result<()> {
        self.allowed.clear();
        self.may_end = false;
        let mut done = 0;
        while let Some((between, node)) = at.get(done).cloned() {
            done += 1;
            self.may_end |= between.accept && node == 0;
            let node = between.words.node(node);
            self.allowed
                .extend(node.children.iter().map(|(token, _)| *token));
            for end in &node.ends {
                let after = self.shared.between(*end)?;
                if !at
                    .iter()
                    .any(|(have, node)| *node == 0 && Arc::ptr_eq(have, &after))
                {
                    at.push((after, 0));
                }
            }
        }
        self.allowed.sort_unstable();
        self.allowed.dedup();
        self.at = at;
        Ok(())
    }

    pub(crate) fn next(&self) -> Next {
        match self.allowed.as_slice() {
            [] => Next::End,
            [only] if !self.may_end => Next::Forced(*only),
            _ => Next::Open,
        }
    }

    /// The tokens that may follow, ascending.
    pub(crate) fn allowed(&self) -> &[u32] {
        &self.allowed
    }

    /// Whether the text may end here.
    pub(crate) fn may_end(&self) -> bool {
        self.may_end
    }

    /// Takes a token of [`allowed`](Self::allowed).
    pub(crate) fn advance(&mut self, token: u32) -> Result<()> {
        let at: Vec<_> = self
            .at
            .iter()
            .filter_map(|(between, node)| {
                Some((Arc::clone(between), between.words.child(*node, token)?))
            })
            .collect();
        if at.is_empty() {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("token {token} leaves the constraint"),
            ));
        }
        self.settle(at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{byte_level, words};
    use super::*;

    /// Whether the tokens of `text` are a walk to an end.
    fn allows(constraint: &Constraint, tokenizer: &Tokenizer, text: &str) -> bool {
        let mut walk = constraint.walk().expect("walk");
        for token in tokenizer.encode(text, false).expect("tokens") {
            if walk.allowed().binary_search(&token).is_err() {
                return false;
            }
            walk.advance(token).expect("advance");
        }
        walk.may_end()
    }

    /// Every text that walks can produce.
    fn all(constraint: &Constraint, tokenizer: &Tokenizer) -> Vec<String> {
        let mut texts = Vec::new();
        let mut open = vec![Vec::new()];
        while let Some(tokens) = open.pop() {
            let mut walk = constraint.walk().expect("walk");
            for token in &tokens {
                walk.advance(*token).expect("advance");
            }
            if walk.may_end() {
                texts.push(tokenizer.decode(&tokens).expect("text"));
            }
            for token in walk.allowed() {
                let mut longer = tokens.clone();
                longer.push(*token);
                open.push(longer);
            }
        }
        texts.sort();
        texts
    }

    #[test]
    fn choices_and_nothing_else() {
        let tokenizer = words();
        let choices = [" a dog", " a cat", " cats", " a dog", " a dog on a cat"];
        let constraint = Constraint::choices(&tokenizer, &choices).expect("constraint");
        assert_eq!(
            all(&constraint, &tokenizer),
            [" a cat", " a dog", " a dog on a cat", " cats"]
        );
        assert!(!allows(&constraint, &tokenizer, " a"));
        assert!(!allows(&constraint, &tokenizer, " a catx"));
    }

    #[test]
    fn a_choice_that_begins_another_may_end_or_go_on() {
        let tokenizer = words();
        let constraint = Constraint::choices(&tokenizer, &[" a", " a dog"]).expect("constraint");
        let mut walk = constraint.walk().expect("walk");
        let Next::Forced(first) = walk.next() else {
            panic!("{walk:?}");
        };
        walk.advance(first).expect("advance");
        assert_eq!(walk.next(), Next::Open);
        assert!(walk.may_end());
        let dog = walk.allowed()[0];
        walk.advance(dog).expect("advance");
        assert_eq!(walk.next(), Next::End);
        assert!(walk.advance(dog).is_err());
    }

    #[test]
    fn none_empty_and_unspeakable_choices_are_refused() {
        let tokenizer = words();
        let none: [&str; 0] = [];
        for choices in [&none[..], &[""], &["a", ""], &["x<|end|>"]] {
            let error = Constraint::choices(&tokenizer, choices).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let grammar = Grammar::sequence(["a", " x<|end|>"]);
        let mut walk = Constraint::grammar(&tokenizer, &grammar)
            .and_then(|constraint| constraint.walk())
            .expect("walk");
        let first = walk.allowed()[0];
        let error = walk.advance(first).expect_err("unspeakable");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn ten_thousand_choices() {
        let tokenizer = words();
        let choices: Vec<String> = (0..10_000).map(|i| format!(" a dog number {i}")).collect();
        let constraint = Constraint::choices(&tokenizer, &choices).expect("constraint");
        for choice in &choices {
            assert!(allows(&constraint, &tokenizer, choice), "{choice}");
        }
        assert!(!allows(&constraint, &tokenizer, " a dog number 10000"));
        let grammar = Grammar::one_of(choices.iter().map(String::as_str));
        let constraint = Constraint::grammar(&tokenizer, &grammar).expect("constraint");
        for choice in choices.iter().step_by(97) {
            assert!(allows(&constraint, &tokenizer, choice), "{choice}");
        }
        assert!(!allows(&constraint, &tokenizer, " a dog number 10000"));
    }

    #[test]
    fn a_grammar_allows_the_canonical_tokens_of_every_text() {
        // "cats" is one token, " cat" another: where "s" is optional, both ways are canonical only as a whole.
        for tokenizer in [
            words(),
            byte_level(&[]),
            byte_level(&[("t", "s"), ("Ġ", "a")]),
        ] {
            let grammar = Grammar::sequence([
                Grammar::one_of([" a", " one ", ""]),
                Grammar::one_of([" cat", "dog", " cat on"]),
                Grammar::optional("s"),
                Grammar::optional(" on a cat"),
                ".".into(),
            ]);
            let mut expected = Vec::new();
            for a in [" a", " one ", ""] {
                for b in [" cat", "dog", " cat on"] {
                    for c in ["", "s"] {
                        for d in ["", " on a cat"] {
                            expected.push(format!("{a}{b}{c}{d}."));
                        }
                    }
                }
            }
            expected.sort();
            expected.dedup();
            let constraint = Constraint::grammar(&tokenizer, &grammar).expect("constraint");
            assert_eq!(all(&constraint, &tokenizer), expected);
            for text in &expected {
                assert!(allows(&constraint, &tokenizer, text), "{text}");
            }
        }
    }

    #[test]
    fn a_grammar_of_the_empty_text_ends_at_once() {
        let tokenizer = words();
        let constraint = Constraint::grammar(&tokenizer, &"".into()).expect("constraint");
        let walk = constraint.walk().expect("walk");
        assert!(walk.may_end());
        assert_eq!(walk.next(), Next::End);
    }
}

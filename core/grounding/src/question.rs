//! What a question asks, as far as its words show it without understanding them.

use super::taxonomy::{NodeId, Taxonomy};

/// A noun of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// As it stands in the question, in lower case.
    pub words: String,
    /// What it may mean; empty if the taxonomy does not know it.
    pub nodes: Vec<NodeId>,
    /// The word means less than its nodes do, and nothing can tell ("woman").
    pub finer: bool,
}

/// What sort of answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whether something is there.
    Existence,
    /// How many.
    Count,
    /// What kind of a thing, or simply what.
    What,
    /// What nothing in the features can tell: colour, action, place, time, reason.
    Beyond,
    /// None of these could be made out.
    Unclear,
}

/// A question, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub kind: Kind,
    pub asked: Vec<Asked>,
    /// Words besides the nouns that narrow them down ("red", "riding"): what is said of them cannot be told.
    pub narrowed: bool,
    /// The nouns are alternatives.
    pub either: bool,
}

/// Words that carry nothing here.
const SMALL: &[&str] = &[
    "a",
    "an",
    "the",
    "any",
    "some",
    "this",
    "that",
    "these",
    "those",
    "it",
    "its",
    "there",
    "here",
    "in",
    "on",
    "at",
    "of",
    "to",
    "is",
    "are",
    "was",
    "were",
    "be",
    "do",
    "does",
    "did",
    "you",
    "i",
    "we",
    "me",
    "see",
    "seen",
    "seeing",
    "can",
    "could",
    "would",
    "please",
    "tell",
    "and",
    "or",
    "picture",
    "image",
    "photo",
    "photograph",
    "frame",
    "video",
    "scene",
    "clip",
    "shot",
    "segment",
    "footage",
    "view",
    "visible",
    "present",
    "show",
    "shows",
    "shown",
    "showing",
    "contain",
    "contains",
    "have",
    "has",
    "anywhere",
    "somewhere",
    "what",
    "which",
    "how",
    "many",
    "much",
    "number",
    "count",
    "kind",
    "kinds",
    "type",
    "types",
    "sort",
    "sorts",
    "breed",
    "species",
    "whether",
    "if",
    "not",
    "no",
    "they",
    "them",
    "at",
    "all",
    "appear",
    "appears",
    "include",
    "includes",
    "depict",
    "depicts",
    "depicted",
    "one",
    "ones",
    "more",
    "than",
    "either",
    "also",
    "camera's",
    "currently",
    "now",
    "right",
    "yes",
    "so",
    "for",
    "with",
    "by",
    "from",
    "thing",
    "things",
    "object",
    "objects",
    "something",
    "anything",
    "s",
    "exactly",
    "really",
    "main",
    "subject",
    "in",
    "look",
    "looks",
    "like",
    "am",
    "looking",
    "else",
    "just",
    "your",
    "my",
    "could",
    "identify",
    "name",
    "find",
];

/// Words after which no number helps.
const BEYOND: &[&str] = &[
    "color",
    "colour",
    "colors",
    "colours",
    "where",
    "when",
    "why",
    "who",
    "whom",
    "whose",
    "doing",
    "happening",
    "happens",
    "happen",
    "happened",
    "wearing",
    "wears",
    "feel",
    "feeling",
    "mood",
    "weather",
    "time",
    "day",
    "night",
    "year",
    "season",
    "old",
    "age",
    "size",
    "big",
    "large",
    "tall",
    "long",
    "far",
    "brand",
    "made",
    "material",
    "holding",
    "indoors",
    "outdoors",
    "inside",
    "outside",
    "left",
    "saying",
    "written",
    "emotion",
    "fast",
    "heavy",
    "gender",
    "going",
    "next",
    "behind",
    "city",
    "country",
    "purpose",
    "background",
    "foreground",
];

/// Lower-case words of the text, with the usual contractions taken apart.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace('\u{2019}', "'");
    let mut found = Vec::new();
    for piece in text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-')) {
        let piece = piece.trim_matches(['\'', '-']);
        match piece
            .strip_suffix("n't")
            .or_else(|| piece.strip_suffix("'s"))
        {
            Some(stem) if piece.ends_with("n't") => found.extend([stem.to_owned(), "not".into()]),
            Some(stem) => found.extend([stem.to_owned(), "is".into()]),
            None if !piece.is_empty() => found.push(piece.to_owned()),
            None => {}
        }
    }
    found
}

impl Question {
    /// Reads a question.
    pub fn read(taxonomy: &Taxonomy, text: &str) -> Self {
        let words = words(text);
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        let has = |wanted: &str| words.iter().any(|word| word == wanted);
        let (asked, others) = nouns(taxonomy, &words);
        let verb = |at: usize| matches!(word(at), "is" | "are" | "was" | "were");
        let counts = (has("how") && (has("many") || has("much")))
            || (has("number") && has("of"))
            || word(0) == "count";
        let kind = if counts {
            Kind::Count
        } else if BEYOND.iter().any(|beyond| has(beyond)) || has("how") {
            Kind::Beyond
        } else if has("what")
            || has("which")
            || matches!(word(0), "describe" | "name" | "identify" | "list")
        {
            Kind::What
        } else if existence(&words) {
            Kind::Existence
        } else if verb(0) {
            // "Is the dog asleep?" takes the dog for granted.
            if others.is_empty() {
                Kind::Existence
            } else {
                Kind::Beyond
            }
        } else if asked.is_empty() {
            Kind::Unclear
        } else if others.is_empty() {
            // "Any dogs?", "a cat?"
            Kind::Existence
        } else {
            Kind::Unclear
        };
        Self {
            kind,
            narrowed: !others.is_empty(),
            either: has("or"),
            asked: if asked.is_empty() {
                unknown(&others)
            } else {
                asked
            },
        }
    }
}

/// "Is there a …", "Do you see …", "Does the picture show …", "Is this a …".
fn existence(words: &[String]) -> bool {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let there = matches!(
        word(1),
        "there"
            | "it"
            | "this"
            | "that"
            | "these"
            | "those"
            | "they"
            | "any"
            | "anyone"
            | "anybody"
            | "someone"
            | "somebody"
    );
    let not_there = word(1) == "not" && word(2) == "there";
    let seen = words.iter().any(|w| {
        matches!(
            w.as_str(),
            "see"
                | "show"
                | "contain"
                | "have"
                | "include"
                | "depict"
                | "visible"
                | "present"
                | "spot"
                | "find"
        )
    });
    match word(0) {
        "is" | "are" | "was" | "were" => there || not_there || seen,
        "do" | "does" | "did" | "can" | "could" => seen || there,
        "any" | "there" => true,
        _ => false,
    }
}

/// The nouns the taxonomy knows, longest first at each place, and the words left over that carry meaning.
fn nouns(taxonomy: &Taxonomy, words: &[String]) -> (Vec<Asked>, Vec<String>) {
    const LONGEST: usize = 4;
    let mut asked: Vec<Asked> = Vec::new();
    let mut others = Vec::new();
    let mut at = 0;
    'words: while at < words.len() {
        if SMALL.contains(&words[at].as_str()) || BEYOND.contains(&words[at].as_str()) {
            at += 1;
            continue;
        }
        for length in (1..=LONGEST.min(words.len() - at)).rev() {
            let phrase = words[at..at + length].join(" ");
            let finer = if length == 1 {
                taxonomy.finer(&phrase)
            } else {
                None
            };
            let nodes = match finer {
                Some(node) => vec![node],
                None => taxonomy.find(&phrase).to_vec(),
            };
            if !nodes.is_empty() {
                asked.push(Asked {
                    words: phrase,
                    nodes,
                    finer: finer.is_some(),
                });
                at += length;
                continue 'words;
            }
        }
        others.push(words[at].clone());
        at += 1;
    }
    (asked, others)
}

/// A question about words the taxonomy does not know is about their last one, as English nouns stand last.
fn unknown(others: &[String]) -> Vec<Asked> {
    let words = others.last().cloned();
    let asked = |words| Asked {
        words,
        nodes: Vec::new(),
        finer: false,
    };
    words.map(asked).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taxonomy::tests::small;

    fn read(text: &str) -> (Kind, Vec<String>, bool) {
        let question = Question::read(&small(), text);
        let asked = question
            .asked
            .into_iter()
            .map(|asked| asked.words)
            .collect();
        (question.kind, asked, question.narrowed)
    }

    #[test]
    fn the_sort_of_question_is_read_off_its_words() {
        let one = |word: &str| vec![word.to_owned()];
        assert_eq!(
            read("Is there a dog?"),
            (Kind::Existence, one("dog"), false)
        );
        assert_eq!(
            read("Are there any dogs in the picture?"),
            (Kind::Existence, one("dogs"), false)
        );
        assert_eq!(
            read("isn't there a dog"),
            (Kind::Existence, one("dog"), false)
        );
        assert_eq!(
            read("Is this a traffic light?"),
            (Kind::Existence, one("traffic light"), false)
        );
        assert_eq!(
            read("Do you see people?"),
            (Kind::Existence, one("people"), false)
        );
        assert_eq!(
            read("Does the video show a red car?"),
            (Kind::Existence, one("car"), true)
        );
        assert_eq!(
            read("Is there a unicorn?"),
            (Kind::Existence, one("unicorn"), true)
        );
        assert_eq!(
            read("How many people are there?"),
            (Kind::Count, one("people"), false)
        );
        assert_eq!(
            read("how many people are riding?"),
            (Kind::Count, one("people"), true)
        );
        assert_eq!(
            read("What kind of dog is it?"),
            (Kind::What, one("dog"), false)
        );
        assert_eq!(read("What's in this picture?"), (Kind::What, vec![], false));
        assert_eq!(
            read("What colour is the car?"),
            (Kind::Beyond, one("car"), false)
        );
        assert_eq!(read("Is the dog asleep?"), (Kind::Beyond, one("dog"), true));
        assert_eq!(read("Where is it?").0, Kind::Beyond);
        assert_eq!(read("any dogs"), (Kind::Existence, one("dogs"), false));
        assert_eq!(read("Erzähl mir etwas").0, Kind::Unclear);
        assert_eq!(read("").0, Kind::Unclear);
    }

    #[test]
    fn alternatives_are_noticed() {
        let question = Question::read(&small(), "Is it a dog or a cat?");
        assert!(question.either);
        assert_eq!(question.asked.len(), 2);
    }

    #[test]
    fn words_below_a_thing_are_marked() {
        let question = Question::read(&small(), "is there a woman");
        assert!(question.asked[0].finer);
    }
}

//! Answers that rest on the observation and on nothing else.

use super::evidence::Evidence;
use super::observation::Observation;
use super::question::{Asked, Kind, Question};
use super::sentences::{capital, join};
use super::thing::{Certainty, Count, Ground, Thing};
use super::verdict::Verdict;

/// What an answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// Read off the grounding.
    Known,
    /// The question was not understood; every candidate is true, the model finds the one that fits.
    Open,
    /// The grounding cannot tell.
    Unknown,
}

/// An answer: equally true candidates, of which a model may choose the best-reading one.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it rests on.
    pub kind: AnswerKind,
    /// Never empty; the first reads well without a model to choose.
    pub candidates: Vec<String>,
    /// The things it speaks of.
    pub grounds: Vec<Ground>,
    /// The same as a word or a number, where one says it all.
    pub verdict: Option<Verdict>,
}

impl Answer {
    fn with(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }
}

/// Answers `question` from what was observed.
pub fn answer(observation: &Observation<'_>, question: &str) -> Answer {
    let read = Question::read(observation.taxonomy, question);
    match read.kind {
        Kind::Existence => existence(observation, &read),
        Kind::Count => count(observation, &read),
        Kind::What => what(observation, &read),
        Kind::Beyond => beyond(observation, &read),
        Kind::Unclear => open(observation),
    }
}

fn known(candidates: Vec<String>, grounds: Vec<Ground>) -> Answer {
    Answer {
        kind: AnswerKind::Known,
        candidates,
        grounds,
        verdict: None,
    }
}

fn cannot_tell(observation: &Observation<'_>, why: &str, things: &[&Thing]) -> Answer {
    let seen = match things {
        [] => observation.summary(),
        things => Some(join(&observation.phrases(things.iter().copied()))),
    };
    let text = match seen {
        Some(seen) => format!("I cannot tell{why}; I see {seen}."),
        None => format!("I cannot tell{why}."),
    };
    let grounds = match things {
        [] => observation.grounds(),
        things => things
            .iter()
            .map(|thing| observation.ground(thing))
            .collect(),
    };
    Answer {
        kind: AnswerKind::Unknown,
        candidates: vec![text],
        grounds,
        verdict: None,
    }
}

/// The article fits because the noun's own is used; a plural needs none.
fn named(observation: &Observation<'_>, asked: &Asked) -> String {
    let nouns = asked
        .nodes
        .iter()
        .filter_map(|node| observation.taxonomy.noun(*node));
    for noun in nouns {
        if noun.one.to_lowercase() == asked.words {
            return format!("{} {}", noun.article, noun.one);
        }
        if noun.many.to_lowercase() == asked.words {
            return noun.many.clone();
        }
    }
    if asked.words.ends_with('s') && !asked.words.ends_with("ss") || asked.words == "people" {
        asked.words.clone()
    } else if asked.words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        format!("an {}", asked.words)
    } else {
        format!("a {}", asked.words)
    }
}

/// "no dog", "no people".
fn none_of(asked: &Asked) -> String {
    match asked.words.as_str() {
        "anyone" | "anybody" | "someone" | "somebody" => "no person".into(),
        words => format!("no {words}"),
    }
}

/// "I see no dog in it", and what is seen instead.
fn absent(observation: &Observation<'_>, what: &str) -> Answer {
    let text = match observation.summary() {
        Some(seen) => format!("I see no {what} in it; I see {seen}."),
        None => format!("I see no {what} in it, nor anything else I can name with confidence."),
    };
    known(vec![text], observation.grounds()).with(Verdict::No)
}

fn yes(observation: &Observation<'_>, phrase: &str, things: &[&Thing]) -> Answer {
    let candidates = vec![
        format!("Yes, I see {phrase}."),
        format!("Yes, {phrase}."),
        format!("Yes, the picture shows {phrase}."),
    ];
    known(candidates, observation.grounds_of(things)).with(Verdict::Yes)
}

fn existence(observation: &Observation<'_>, question: &Question) -> Answer {
    if question.asked.is_empty() {
        return what(observation, question);
    }
    let mut found: Vec<&Thing> = Vec::new();
    let mut phrases: Vec<String> = Vec::new();
    let mut missing: Vec<&Asked> = Vec::new();
    let mut unsure: Option<Answer> = None;
    for asked in &question.asked {
        let name = named(observation, asked);
        if asked.nodes.is_empty() {
            let why = format!(
                ": \"{}\" is not among the things I can recognise",
                asked.words
            );
            unsure.get_or_insert_with(|| cannot_tell(observation, &why, &[]));
            continue;
        }
        match observation.evidence(asked) {
            Evidence::Yes(things) => {
                phrases.extend(observation.phrases(things.iter().copied()));
                found.extend(things);
            }
            Evidence::YesUnnamed => phrases.push(name),
            Evidence::Maybe(thing) => {
                let text = format!(
                    "Possibly: it may be {}, but I am not certain.",
                    observation.phrase(thing)
                );
                let answer = known(vec![text], observation.grounds_of(&[thing]));
                unsure.get_or_insert(answer);
            }
            Evidence::Broader(thing) => {
                let why = format!(" whether it is {name}");
                unsure.get_or_insert_with(|| cannot_tell(observation, &why, &[thing]));
            }
            Evidence::Unsure => {
                let why = format!(" whether there is {name}");
                unsure.get_or_insert_with(|| cannot_tell(observation, &why, &[]));
            }
            Evidence::No => missing.push(asked),
        }
    }
    phrases.dedup();
    let all = question.either || (missing.is_empty() && unsure.is_none());
    if !phrases.is_empty() && all {
        let list = join(&phrases);
        if question.narrowed && !question.either {
            let text = format!("I see {list}, but cannot tell more than that.");
            return known(vec![text], observation.grounds_of(&found));
        }
        if question.either && question.asked.len() > 1 {
            let text = vec![format!("I see {list}."), format!("{}.", capital(&list))];
            return known(text, observation.grounds_of(&found));
        }
        return yes(observation, &list, &found);
    }
    // Without one of the things asked for together, the rest does not help.
    let names: Vec<String> = missing.iter().map(|asked| none_of(asked)).collect();
    match (names.as_slice(), unsure) {
        ([], Some(unsure)) => unsure,
        (_, Some(unsure)) if question.either => unsure,
        (names, _) => {
            let list = names.join(" and ");
            absent(observation, list.strip_prefix("no ").unwrap_or(&list))
        }
    }
}

fn count(observation: &Observation<'_>, question: &Question) -> Answer {
    let Some(asked) = question.asked.first() else {
        return cannot_tell(observation, " how many", &[]);
    };
    if asked.nodes.is_empty() {
        let why = format!(
            " how many: \"{}\" is not among the things I can recognise",
            asked.words
        );
        return cannot_tell(observation, &why, &[]);
    }
    let things = match observation.evidence(asked) {
        Evidence::Yes(things) => things,
        Evidence::YesUnnamed => {
            let text = format!("At least one {}; I cannot count them.", asked.words);
            return known(vec![text], Vec::new());
        }
        Evidence::Maybe(thing) => {
            let text = format!(
                "I am not certain of any; it may be {}.",
                observation.phrase(thing)
            );
            return known(vec![text], observation.grounds_of(&[thing]));
        }
        Evidence::Broader(thing) => {
            let why = format!(" how many {}", asked.words);
            return cannot_tell(observation, &why, &[thing]);
        }
        Evidence::Unsure => {
            let why = format!(" how many {}", asked.words);
            return cannot_tell(observation, &why, &[]);
        }
        Evidence::No => {
            let none = Verdict::Between { least: 0, most: 0 };
            return absent(observation, &asked.words).with(none);
        }
    };
    let grounds = observation.grounds_of(&things);
    let phrase = join(&observation.phrases(things.iter().copied()));
    if question.narrowed {
        let text = format!("I see {phrase}, but cannot tell more than that.");
        return known(vec![text], grounds);
    }
    let counted = things.iter().map(|thing| match thing.count {
        Count::Counted { least, most } => Some((least, most)),
        Count::Unknown => None,
    });
    let sum: Option<(u32, u32)> = counted
        .into_iter()
        .reduce(|a, b| Some((a?.0.saturating_add(b?.0), a?.1.saturating_add(b?.1))))
        .flatten();
    let candidates = match sum {
        None => vec![format!("At least one: I see {phrase}, but cannot count.")],
        Some((least, most)) if least != most => {
            vec![format!("I count {least} to {most}; there may be more.")]
        }
        Some((count, _)) if things.len() == 1 => {
            let noun = observation.noun(things[0]);
            let said = if count == 1 { &noun.one } else { &noun.many };
            vec![
                // The detector misses what is small or half hidden.
                format!("I count {count} {said}; there may be more."),
                format!("I see at least {count} {said}."),
            ]
        }
        Some((count, _)) => vec![format!("I count {count}: {phrase}; there may be more.")],
    };
    let answer = known(candidates, grounds);
    match sum {
        Some((least, most)) => answer.with(Verdict::Between { least, most }),
        None => answer,
    }
}

fn what(observation: &Observation<'_>, question: &Question) -> Answer {
    let Some(asked) = question.asked.first() else {
        if question.narrowed {
            return cannot_tell(observation, "", &[]);
        }
        let seen: Vec<&Thing> = observation.things().iter().collect();
        return known(described(observation), observation.grounds_of(&seen));
    };
    if asked.nodes.is_empty() {
        return cannot_tell(observation, "", &[]);
    }
    match observation.evidence(asked) {
        Evidence::Yes(things) => {
            let narrower = |thing: &&Thing| !asked.nodes.contains(&thing.node);
            let told: Vec<&Thing> = things.iter().copied().filter(narrower).collect();
            if told.is_empty() {
                return cannot_tell(observation, " what kind", &things);
            }
            let phrase = join(&observation.phrases(told.iter().copied()));
            let grounds = observation.grounds_of(&told);
            if question.narrowed {
                let text = format!("I see {phrase}, but cannot tell more than that.");
                return known(vec![text], grounds);
            }
            let candidates = vec![
                format!("{}.", capital(&phrase)),
                format!("It is {phrase}."),
                format!("I see {phrase}."),
            ];
            let several =
                told.len() > 1 || matches!(told[0].count, Count::Counted { most: 2.., .. });
            let fit = |text: &String| !(several && text.starts_with("It is"));
            known(candidates.into_iter().filter(fit).collect(), grounds)
        }
        Evidence::YesUnnamed => {
            let why = format!(" what kind, but I see {}", named(observation, asked));
            cannot_tell_only(&why)
        }
        Evidence::Maybe(thing) => {
            let text = format!("Possibly {}.", observation.phrase(thing));
            known(vec![text], observation.grounds_of(&[thing]))
        }
        Evidence::Broader(thing) => cannot_tell(observation, " what kind", &[thing]),
        Evidence::Unsure => cannot_tell(observation, "", &[]),
        Evidence::No => absent(observation, &asked.words),
    }
}

fn cannot_tell_only(why: &str) -> Answer {
    Answer {
        kind: AnswerKind::Unknown,
        candidates: vec![format!("I cannot tell{why}.")],
        grounds: Vec::new(),
        verdict: None,
    }
}

fn described(observation: &Observation<'_>) -> Vec<String> {
    let certain = observation.certain().next().is_some();
    match observation.summary() {
        Some(seen) if certain => vec![
            format!("I see {seen}."),
            format!("{}.", capital(&seen)),
            format!("The picture shows {seen}."),
        ],
        Some(seen) => vec![format!("{}.", capital(&seen))],
        None => vec!["Nothing I can name with confidence.".into()],
    }
}

fn beyond(observation: &Observation<'_>, question: &Question) -> Answer {
    let mut things: Vec<&Thing> = Vec::new();
    for asked in &question.asked {
        match observation.evidence(asked) {
            Evidence::Yes(found) => things.extend(found),
            Evidence::Broader(thing) | Evidence::Maybe(thing) => things.push(thing),
            // Of what a detector looks for; the classifier is silent on all but the most striking thing.
            Evidence::No if question.asked.len() == 1 && observation.detects(asked) => {
                return absent(observation, &asked.words);
            }
            _ => {}
        }
    }
    things.retain(|thing| thing.certainty == Certainty::Certain);
    cannot_tell(observation, "", &things)
}

/// Everything that may truly be said, for the model to choose from.
fn open(observation: &Observation<'_>) -> Answer {
    if observation.things().is_empty() {
        return cannot_tell(observation, "", &[]);
    }
    // By itself the first must fit any question, which "I see a dog." does not.
    let mut candidates = cannot_tell(observation, "", &[]).candidates;
    candidates.extend(described(observation));
    for thing in observation.certain() {
        let one = format!("{}.", capital(&observation.phrase(thing)));
        if !candidates.contains(&one) {
            candidates.push(one);
        }
    }
    candidates.push("I cannot tell.".into());
    Answer {
        kind: AnswerKind::Open,
        candidates,
        grounds: observation.grounds(),
        verdict: None,
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

//! The small grammar of what may be said of an observation. Every sentence it yields is as true as the grounding.

use super::observation::Observation;
use super::thing::{Count, Thing, When};

/// Most things one sentence names.
const MOST_THINGS: usize = 4;
/// Most things whose order is left to the model.
const MOST_REORDERED: usize = 3;

impl Observation<'_> {
    /// How a thing is said: "a dog", "two people", "several cars".
    pub fn phrase(&self, thing: &Thing) -> String {
        let noun = self.noun(thing);
        match thing.count {
            Count::Counted { least, most } if most > 1 => {
                let words = &self.taxonomy.rules().counts;
                let word = |count: u32| {
                    let index = (count.max(1) as usize - 1).min(words.len() - 1);
                    words[index].as_str()
                };
                match (word(least), word(most)) {
                    (few, many) if few == many => format!("{few} {}", noun.many),
                    _ if least > 1 => format!("at least {} {}", word(least), noun.many),
                    _ => format!("one or more {}", noun.many),
                }
            }
            _ => format!("{} {}", noun.article, noun.one),
        }
    }

    /// Candidate captions, all saying the same; never empty. The first one reads well without a model to choose.
    pub fn sentences(&self) -> Vec<String> {
        let certain = self.phrases(self.seen(When::Throughout));
        let doubt = self.phrases(self.possible()).into_iter().next();
        if let Some(story) = self.story() {
            return vec![
                format!("{}.", capital(&story)),
                format!("The video shows {story}."),
            ];
        }
        match (certain.is_empty(), doubt) {
            (true, None) => vec!["Nothing I can name with confidence.".into()],
            (true, Some(doubt)) => vec![
                format!("The picture possibly shows {doubt}."),
                format!("Possibly {doubt}."),
                format!("This is possibly {doubt}."),
            ],
            (false, doubt) => {
                let doubt = doubt.map_or(String::new(), |doubt| format!(", and possibly {doubt}"));
                let lists = orders(&certain).into_iter().map(|order| join(&order));
                lists
                    .flat_map(|list| statements(&format!("{list}{doubt}")))
                    .collect()
            }
        }
    }

    /// What is certain at some time.
    fn seen(&self, when: When) -> impl Iterator<Item = &Thing> {
        self.certain().filter(move |thing| thing.when == when)
    }

    /// What there is throughout, what came and what went, as one phrase; `None` when nothing did.
    fn story(&self) -> Option<String> {
        let list = |when| match self.phrases(self.seen(when)).as_slice() {
            [] => None,
            phrases => Some(join(phrases)),
        };
        let doubt = self.phrases(self.possible()).into_iter().next();
        let doubt = doubt.map_or(String::new(), |doubt| format!(", and possibly {doubt}"));
        let all = list(When::Throughout).map(|all| format!("{all}{doubt}"));
        let change = match (list(When::AtFirst), list(When::Later), &all) {
            (Some(first), Some(later), _) => format!("at first {first}, then {later}"),
            (Some(first), None, Some(_)) => format!("at first also {first}"),
            (Some(first), None, None) => format!("at first {first}"),
            (None, Some(later), Some(_)) => format!("later also {later}"),
            (None, Some(later), None) => format!("later {later}"),
            (None, None, _) => return None,
        };
        Some(match all {
            Some(all) => format!("{all}; {change}"),
            None => format!("{change}{doubt}"),
        })
    }

    /// What is grounded, for a model that is to choose among texts.
    pub fn context(&self) -> String {
        match self.summary() {
            Some(seen) => format!("The picture shows {seen}."),
            None => "Nothing in the picture is recognised.".into(),
        }
    }

    /// What is certain as one phrase, what is possible with its hedge; `None` when nothing is grounded.
    pub(super) fn summary(&self) -> Option<String> {
        if let Some(story) = self.story() {
            return Some(story);
        }
        let certain = self.phrases(self.certain());
        let doubt = self.phrases(self.possible()).into_iter().next();
        match (certain.is_empty(), doubt) {
            (false, None) => Some(join(&certain)),
            (false, Some(doubt)) => Some(format!("{}, and possibly {doubt}", join(&certain))),
            (true, Some(doubt)) => Some(format!("possibly {doubt}")),
            (true, None) => None,
        }
    }

    /// Distinct phrases of some things, at most as many as a sentence takes.
    pub(super) fn phrases<'a>(&self, things: impl Iterator<Item = &'a Thing>) -> Vec<String> {
        let mut phrases: Vec<String> = Vec::new();
        for phrase in things.map(|thing| self.phrase(thing)) {
            if phrases.len() < MOST_THINGS && !phrases.contains(&phrase) {
                phrases.push(phrase);
            }
        }
        phrases
    }
}

/// "a", "a and b", "a, b and c".
pub fn join(phrases: &[String]) -> String {
    match phrases {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// With its first letter in upper case.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn statements(list: &str) -> [String; 3] {
    [
        format!("The picture shows {list}."),
        format!("{}.", capital(list)),
        format!("A picture of {list}."),
    ]
}

/// The orders a list may be said in: all of a short one, only its own of a longer one.
fn orders(phrases: &[String]) -> Vec<Vec<String>> {
    if phrases.len() > MOST_REORDERED {
        return vec![phrases.to_vec()];
    }
    let mut orders = vec![Vec::new()];
    for phrase in phrases {
        let longer = orders.iter().flat_map(|order: &Vec<String>| {
            (0..=order.len()).rev().map(move |at| {
                let mut longer = order.clone();
                longer.insert(at, phrase.clone());
                longer
            })
        });
        orders = longer.collect();
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::tests::{labels, seen};
    use crate::taxonomy::tests::small;
    use atom_core::features::Features;

    fn sentences(frames: &[Features]) -> Vec<String> {
        let taxonomy = small();
        let labels = labels(&taxonomy);
        let frames: Vec<&Features> = frames.iter().collect();
        Observation::new(&taxonomy, &labels, &frames)
            .unwrap()
            .sentences()
    }

    const NOTHING: [f32; 6] = [0.1; 6];

    #[test]
    fn counts_are_words_and_lists_are_english() {
        let people = ("person", 0.9);
        let street = seen(NOTHING, &[people, people, ("car", 0.8), ("bicycle", 0.7)]);
        let said = sentences(&[street]);
        assert_eq!(
            said[0],
            "The picture shows two people, a car and a bicycle."
        );
        assert!(said.contains(&"The picture shows a bicycle, a car and two people.".into()));
        assert_eq!(said.len(), 18);
        assert_eq!(
            sentences(&[seen(NOTHING, &[people; 7])])[0],
            "The picture shows several people."
        );
    }

    #[test]
    fn what_is_only_possible_is_hedged_in_every_sentence() {
        let maybe = [0.35, 0.0, 0.1, 0.1, 0.1, 0.0];
        for said in sentences(&[seen(maybe, &[])]) {
            assert!(said.to_lowercase().contains("possibly"), "{said}");
        }
        // Beside what is certain only what some keyframes were certain of.
        let car = ("car", 0.9);
        assert_eq!(
            sentences(&[seen(maybe, &[car])])[0],
            "The picture shows a car."
        );
        let beagle = seen([0.7, 0.0, 0.0, 0.0, 0.0, 0.0], &[car]);
        for said in sentences(&[beagle, seen(NOTHING, &[car])]) {
            assert!(said.contains(", and possibly a beagle."), "{said}");
        }
    }

    #[test]
    fn a_change_is_told_if_it_was_seen() {
        let (car, person) = (("car", 0.9), ("person", 0.9));
        let both = || seen([0.0; 6], &[car, person]);
        let one = |thing| seen([0.0; 6], &[thing]);
        let said = |frames: &[Features]| sentences(frames)[0].clone();
        assert_eq!(
            said(&[one(person), one(person), one(car), one(car)]),
            "At first a person, then a car."
        );
        assert_eq!(
            said(&[one(car), one(car), both(), both(), both()]),
            "A car; later also a person."
        );
        assert_eq!(
            said(&[both(), both(), one(car), one(car)]),
            "A car; at first also a person."
        );
        // One keyframe without a person is a miss of the detector, not a change.
        assert_eq!(
            said(&[both(), both(), both(), one(car)]),
            "The picture shows a person and a car."
        );
        assert_eq!(
            said(&[both(), one(car)]),
            "The picture shows a car, and possibly a person."
        );
        // Nor is it one as long as the person may still be there, or comes back.
        let faint = || seen([0.0; 6], &[car, ("person", 0.35)]);
        assert_eq!(
            said(&[both(), both(), faint(), faint()]),
            "The picture shows a car, and possibly a person."
        );
        assert_eq!(
            said(&[both(), both(), one(car), one(car), both()]),
            "The picture shows a person and a car."
        );
    }

    #[test]
    fn nothing_grounded_names_nothing() {
        assert_eq!(
            sentences(&[seen(NOTHING, &[])]),
            ["Nothing I can name with confidence."]
        );
    }

    #[test]
    fn differing_counts_are_a_lower_bound() {
        let people = |count| seen(NOTHING, &vec![("person", 0.9); count]);
        assert_eq!(
            sentences(&[people(2), people(3)])[0],
            "The picture shows at least two people."
        );
        assert_eq!(
            sentences(&[people(1), people(3)])[0],
            "The picture shows one or more people."
        );
        assert_eq!(
            sentences(&[people(5), people(9)])[0],
            "The picture shows several people."
        );
    }
}

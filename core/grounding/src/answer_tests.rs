use super::*;
use crate::observation::tests::{labels, seen};
use crate::taxonomy::tests::small;
use atom_core::features::Features;

fn ask(features: &Features, question: &str) -> (AnswerKind, String) {
    let taxonomy = small();
    let labels = labels(&taxonomy);
    let observation = Observation::new(&taxonomy, &labels, &[features]).unwrap();
    let answer = answer(&observation, question);
    (answer.kind, answer.candidates[0].clone())
}

const NOTHING: [f32; 6] = [0.05; 6];
const BEAGLE: [f32; 6] = [0.9, 0.02, 0.0, 0.0, 0.0, 0.0];
const DOG: [f32; 6] = [0.35, 0.35, 0.0, 0.0, 0.0, 0.0];

#[test]
fn existence_follows_kinds_and_plurals() {
    let beagle = seen(BEAGLE, &[]);
    for question in [
        "Is there a beagle?",
        "is this a dog",
        "Any domestic dogs?",
        "Do you see an animal?",
    ] {
        assert_eq!(
            ask(&beagle, question),
            (AnswerKind::Known, "Yes, I see a beagle.".into()),
            "{question}"
        );
    }
    let street = seen(
        NOTHING,
        &[("person", 0.9), ("person", 0.8), ("bicycle", 0.9)],
    );
    assert_eq!(ask(&street, "Is there a bike?").1, "Yes, I see a bicycle.");
    assert_eq!(
        ask(&street, "Are there humans in it?").1,
        "Yes, I see two people."
    );
    assert_eq!(
        ask(&street, "Is there a person and a bicycle?").1,
        "Yes, I see two people and a bicycle."
    );
}

#[test]
fn no_is_only_hedged() {
    let beagle = seen(BEAGLE, &[]);
    assert_eq!(
        ask(&beagle, "Is there a cat?"),
        (
            AnswerKind::Known,
            "I see no cat in it; I see a beagle.".into()
        )
    );
    assert_eq!(
        ask(&seen(NOTHING, &[]), "Is there a car?").1,
        "I see no car in it, nor anything else I can name with confidence."
    );
    assert_eq!(
        ask(&beagle, "Is there a dog and a car?").1,
        "I see no car in it; I see a beagle."
    );
}

#[test]
fn what_the_numbers_cannot_carry_is_not_said() {
    let dog = seen(DOG, &[]);
    for question in [
        "Is there a unicorn?",
        "What colour is the dog?",
        "Is the dog asleep?",
        "Where is the dog?",
        "What is the dog doing?",
        "Is it a beagle?",
    ] {
        let (kind, text) = ask(&dog, question);
        assert_eq!(kind, AnswerKind::Unknown, "{question}: {text}");
        assert!(text.starts_with("I cannot tell"), "{question}: {text}");
    }
    let person = seen(NOTHING, &[("person", 0.9)]);
    assert_eq!(
        ask(&person, "Is there a woman?").1,
        "I cannot tell whether it is a woman; I see a person."
    );
    assert_eq!(
        ask(&person, "Is there a person riding?").1,
        "I see a person, but cannot tell more than that."
    );
}

#[test]
fn a_weak_detection_is_neither_asserted_nor_denied() {
    let street = seen(NOTHING, &[("person", 0.9), ("bicycle", 0.35)]);
    let (kind, text) = ask(&street, "Is there a bicycle?");
    assert_eq!(kind, AnswerKind::Unknown);
    assert_eq!(
        text,
        "I cannot tell whether there is a bicycle; I see a person."
    );
    assert!(
        ask(&street, "Is there a car?")
            .1
            .starts_with("I see no car")
    );
}

#[test]
fn counts_come_from_the_detector() {
    let street = seen(NOTHING, &[("person", 0.9), ("person", 0.8), ("car", 0.7)]);
    assert_eq!(
        ask(&street, "How many people are there?").1,
        "I count 2 people; there may be more."
    );
    assert_eq!(
        ask(&street, "How many cars?").1,
        "I count 1 car; there may be more."
    );
    assert_eq!(
        ask(&street, "How many bicycles?").1,
        "I see no bicycles in it; I see two people and a car."
    );
    assert_eq!(
        ask(&seen(BEAGLE, &[]), "How many dogs?").1,
        "At least one: I see a beagle, but cannot count."
    );
}

#[test]
fn kinds_are_told_only_when_narrower() {
    assert_eq!(
        ask(&seen(BEAGLE, &[]), "What kind of dog is it?").1,
        "A beagle."
    );
    assert_eq!(
        ask(&seen(BEAGLE, &[]), "What animal is this?").1,
        "A beagle."
    );
    let (kind, text) = ask(&seen(DOG, &[]), "What breed of dog is this?");
    assert_eq!(
        (kind, text.as_str()),
        (AnswerKind::Unknown, "I cannot tell what kind; I see a dog.")
    );
    assert_eq!(
        ask(&seen(DOG, &[]), "What is in the picture?").1,
        "I see a dog."
    );
    assert_eq!(
        ask(&seen(DOG, &[]), "Is it a dog or a cat?").1,
        "I see a dog."
    );
}

#[test]
fn what_is_only_possible_stays_hedged() {
    let maybe = seen([0.35, 0.0, 0.1, 0.1, 0.1, 0.0], &[]);
    assert_eq!(
        ask(&maybe, "Is there a beagle?").1,
        "Possibly: it may be a beagle, but I am not certain."
    );
    assert_eq!(ask(&maybe, "What is this?").1, "Possibly a beagle.");
    assert!(
        ask(&maybe, "How many beagles?")
            .1
            .starts_with("I am not certain of any")
    );
}

#[test]
fn an_unclear_question_leaves_only_true_candidates() {
    let taxonomy = small();
    let labels = labels(&taxonomy);
    let features = seen(NOTHING, &[("person", 0.9), ("car", 0.8)]);
    let observation = Observation::new(&taxonomy, &labels, &[&features]).unwrap();
    let answer = answer(&observation, "Erzähl mir etwas");
    assert_eq!(answer.kind, AnswerKind::Open);
    assert!(answer.candidates.contains(&"A car.".into()));
    assert!(answer.candidates.contains(&"I cannot tell.".into()));
    for text in &answer.candidates {
        let known = ["person", "car", "cannot tell"];
        assert!(known.iter().any(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn people_without_a_detector_are_not_denied() {
    let taxonomy = small();
    let none = taxonomy.labels(&[]);
    let features = seen(BEAGLE, &[]);
    let observation = Observation::new(&taxonomy, &none, &[&features]).unwrap();
    let answer = answer(&observation, "Is there a person?");
    assert_eq!(answer.kind, AnswerKind::Unknown);
}

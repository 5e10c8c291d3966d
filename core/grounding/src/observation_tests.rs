use super::*;
use crate::taxonomy::tests::{SMALL, small};
use atom_core::features::Detection;

pub(crate) const LABELS: [&str; 6] = ["person", "dog", "car", "bicycle", "bird", "zeppelin"];

pub(crate) fn labels(taxonomy: &Taxonomy) -> Labels {
    taxonomy.labels(&LABELS.map(str::to_owned))
}

pub(crate) fn seen(posteriors: [f32; 6], detections: &[(&str, f32)]) -> Features {
    let detection = |(index, (label, score)): (usize, &(&str, f32))| Detection {
        label: LABELS.iter().position(|l| l == label).unwrap() as u32,
        score: *score,
        bbox: [0.1 * index as f32, 0.0, 0.1 * (index + 1) as f32, 1.0],
    };
    Features {
        posteriors: posteriors.to_vec(),
        detections: detections.iter().enumerate().map(detection).collect(),
        ..Features::default()
    }
}

fn names(frames: &[Features]) -> Vec<(String, Certainty, Count)> {
    let taxonomy = small();
    let labels = labels(&taxonomy);
    let frames: Vec<&Features> = frames.iter().collect();
    let observation = Observation::new(&taxonomy, &labels, &frames).unwrap();
    let name = |thing: &Thing| {
        let noun = observation.noun(thing).one.clone();
        (noun, thing.certainty, thing.count)
    };
    observation.things().iter().map(name).collect()
}

fn counted(least: u32, most: u32) -> Count {
    Count::Counted { least, most }
}

const CERTAIN: Certainty = Certainty::Certain;
const POSSIBLE: Certainty = Certainty::Possible;
const NOTHING: [f32; 6] = [0.16; 6];

#[test]
fn the_most_specific_node_with_enough_mass_is_named() {
    let beagle = names(&[seen([0.6, 0.2, 0.0, 0.0, 0.0, 0.0], &[])]);
    assert_eq!(beagle, [("beagle".into(), CERTAIN, Count::Unknown)]);
    let dog = names(&[seen([0.3, 0.3, 0.0, 0.0, 0.0, 0.0], &[])]);
    assert_eq!(dog, [("dog".into(), CERTAIN, Count::Unknown)]);
    // Four classes need 0.8.
    assert!(
        names(&[seen([0.2, 0.2, 0.2, 0.0, 0.0, 0.15], &[])])
            .iter()
            .all(|n| n.0 != "animal")
    );
    assert_eq!(
        names(&[seen([0.22, 0.22, 0.22, 0.0, 0.0, 0.2], &[])])[0].0,
        "animal"
    );
}

#[test]
fn a_weak_class_is_possible_and_a_flat_one_is_nothing() {
    let weak = names(&[seen([0.35, 0.0, 0.1, 0.1, 0.1, 0.0], &[])]);
    assert_eq!(weak, [("beagle".into(), POSSIBLE, Count::Unknown)]);
    assert!(names(&[seen([0.1; 6], &[])]).is_empty());
}

#[test]
fn a_sink_class_needs_more() {
    assert!(names(&[seen([0.0, 0.0, 0.0, 0.0, 0.6, 0.0], &[])]).is_empty());
    let web = names(&[seen([0.0, 0.0, 0.0, 0.0, 0.8, 0.0], &[])]);
    assert_eq!(web[0].1, CERTAIN);
}

#[test]
fn detections_are_counted_and_weak_ones_left_out() {
    let seen = seen(
        NOTHING,
        &[
            ("person", 0.9),
            ("person", 0.5),
            ("person", 0.3),
            ("car", 0.46),
            ("zeppelin", 0.9),
        ],
    );
    let found = names(&[seen]);
    assert!(found.contains(&("person".into(), CERTAIN, counted(2, 2))));
    assert!(found.contains(&("car".into(), CERTAIN, counted(1, 1))));
    assert_eq!(found.iter().filter(|f| f.1 == CERTAIN).count(), 2);
}

#[test]
fn a_detected_animal_needs_the_classifier_unless_it_is_a_bird() {
    let none = [0.1, 0.1, 0.0, 0.3, 0.2, 0.0];
    assert!(
        names(&[seen(none, &[("dog", 0.9)])])
            .iter()
            .all(|f| f.0 != "dog")
    );
    assert_eq!(names(&[seen(none, &[("bird", 0.9)])])[0].0, "bird");
    // A certain cat is no dog, whatever the detector says.
    let cat = [0.0, 0.0, 0.9, 0.0, 0.0, 0.0];
    assert_eq!(
        names(&[seen(cat, &[("dog", 0.9)])]),
        [("tabby cat".into(), CERTAIN, Count::Unknown)]
    );
}

#[test]
fn one_thing_is_named_once() {
    let beagle = [0.7, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(
        names(&[seen(beagle, &[("dog", 0.9)])]),
        [("beagle".into(), CERTAIN, counted(1, 1))]
    );
    let two = names(&[seen(beagle, &[("dog", 0.9), ("dog", 0.8)])]);
    assert_eq!(two, [("dog".into(), CERTAIN, counted(2, 2))]);
}

#[test]
fn keyframes_agree_or_hedge() {
    let beagle = seen([0.7, 0.0, 0.0, 0.0, 0.0, 0.0], &[]);
    let dog = seen([0.3, 0.3, 0.0, 0.0, 0.0, 0.0], &[]);
    let none = seen([0.1; 6], &[]);
    assert_eq!(names(&[beagle.clone(), beagle.clone()])[0].0, "beagle");
    let mixed = names(&[dog.clone(), dog, beagle.clone()]);
    assert_eq!(mixed, [("dog".into(), CERTAIN, Count::Unknown)]);
    let hedged = names(&[beagle, none.clone(), none]);
    assert_eq!(hedged, [("beagle".into(), POSSIBLE, Count::Unknown)]);
}

#[test]
fn differing_counts_stay_a_range() {
    let one = seen(NOTHING, &[("person", 0.9)]);
    let three = seen(
        NOTHING,
        &[("person", 0.9), ("person", 0.9), ("person", 0.9)],
    );
    assert!(names(&[one, three]).contains(&("person".into(), CERTAIN, counted(1, 3))));
}

#[test]
fn bad_numbers_are_refused() {
    let taxonomy = small();
    let labels = labels(&taxonomy);
    let kind = |frames: &[&Features]| {
        Observation::new(&taxonomy, &labels, frames)
            .unwrap_err()
            .kind()
    };
    assert_eq!(kind(&[]), ErrorKind::InvalidArgument);
    let nan = seen([f32::NAN; 6], &[]);
    assert_eq!(kind(&[&nan]), ErrorKind::Inference);
    let short = Features {
        posteriors: vec![1.0],
        ..Features::default()
    };
    assert_eq!(kind(&[&short]), ErrorKind::BadPack);
    let score = seen(NOTHING, &[("dog", f32::INFINITY)]);
    assert_eq!(kind(&[&score]), ErrorKind::Inference);
}

#[test]
fn a_doubtful_animal_is_just_an_animal() {
    let text = SMALL
        .replace("\"animal_kind\":0.0", "\"animal_kind\":0.85")
        .replacen(
            "\"flags\":[\"animal\"]",
            "\"flags\":[\"animal\"],\"mass\":0.6",
            1,
        );
    let taxonomy = Taxonomy::from_bytes(text.as_bytes()).unwrap();
    let labels = labels(&taxonomy);
    let name = |posteriors| {
        let features = seen(posteriors, &[]);
        let observation = Observation::new(&taxonomy, &labels, &[&features]).unwrap();
        let things = observation.things();
        things
            .first()
            .map(|thing| observation.noun(thing).one.clone())
    };
    let of = |beagle, sparrow| name([beagle, 0.02, 0.02, 0.0, 0.0, sparrow]);
    assert_eq!(of(0.7, 0.02).as_deref(), Some("animal"));
    assert_eq!(of(0.7, 0.15).as_deref(), Some("beagle"));
    assert_eq!(of(0.3, 0.2), None);
    assert_eq!(name([0.1, 0.13, 0.13, 0.0, 0.0, 0.13]), None);
    assert_eq!(
        name([0.14, 0.16, 0.16, 0.0, 0.0, 0.16]).as_deref(),
        Some("animal")
    );
}

/// The first thing of one keyframe, with the taxonomy changed.
fn first(changes: &[(&str, &str)], frame: &Features) -> Option<(String, Certainty, Count)> {
    let text = changes.iter().fold(SMALL.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the test names what is there");
        text.replacen(from, to, 1)
    });
    let taxonomy = Taxonomy::from_bytes(text.as_bytes()).unwrap();
    let labels = labels(&taxonomy);
    let observation = Observation::new(&taxonomy, &labels, &[frame]).unwrap();
    let thing = observation.things().first()?;
    let name = observation.noun(thing).one.clone();
    Some((name, thing.certainty, thing.count))
}

const BACKED: (&str, &str) = (
    "\"detection\":0.45",
    "\"detection\":0.65,\"backed\":{\"score\":0.3,\"mass\":0.15},\"count\":0.45",
);

#[test]
fn a_weak_detection_needs_the_classifier() {
    let near = (
        "[\"a\",\"bicycle\",\"bicycles\"]",
        "[\"a\",\"bicycle\",\"bicycles\"],\"near\":[3]",
    );
    let bicycle = |score, car| {
        let posteriors = [0.0, 0.0, 0.0, car, 0.0, 0.0];
        let found = first(
            &[BACKED, near],
            &seen(posteriors, &[("bicycle", score), ("bicycle", 0.28)]),
        );
        found.filter(|(name, ..)| name == "bicycle")
    };
    // The second one is too weak to be counted.
    assert_eq!(
        bicycle(0.32, 0.2),
        Some(("bicycle".into(), CERTAIN, counted(1, 1)))
    );
    assert_eq!(bicycle(0.32, 0.1), None);
    assert_eq!(bicycle(0.6, 0.1), None);
    assert!(bicycle(0.7, 0.0).is_some());
    assert_eq!(bicycle(0.29, 0.2), None);
    let own = ("\"finer\"", "\"scores\":{\"bicycle\":[0.5,0.3]},\"finer\"");
    let close = ("\"score\":0.3", "\"score\":0.45");
    let far = seen([0.0, 0.0, 0.0, 0.2, 0.0, 0.0], &[("bicycle", 0.4)]);
    assert!(first(&[BACKED, near], &far).is_some_and(|found| found.0 == "bicycle"));
    assert!(first(&[BACKED, near, close], &far).is_none_or(|found| found.0 != "bicycle"));
    let trusted = first(&[BACKED, own], &seen(NOTHING, &[("bicycle", 0.5)]));
    assert_eq!(trusted.unwrap().0, "bicycle");
}

#[test]
fn a_detected_animal_of_unbacked_kind_is_just_an_animal() {
    let bird = [0.02, 0.02, 0.0, 0.0, 0.0, 0.6];
    let dog = |score| first(&[BACKED], &seen(bird, &[("dog", score)])).map(|found| found.0);
    let cats = [0.02, 0.02, 0.46, 0.0, 0.0, 0.0];
    let with_cats = first(&[BACKED], &seen(cats, &[("dog", 0.7)]));
    assert_eq!(with_cats.map(|found| found.0), Some("animal".into()));
    let sure = first(&[BACKED], &seen(cats, &[("dog", 0.8)]));
    assert_eq!(sure.map(|found| found.0), Some("dog".into()));
    // The classifier is certain of something else.
    assert_eq!(dog(0.7), Some("bird".into()));
}

#[test]
fn kinds_that_look_alike_are_named_broadly() {
    let alike = [
        ("\"animal\":0.5", "\"animal\":0.5,\"alike\":0.9"),
        (
            "[\"a\",\"car\",\"cars\"]",
            "[\"a\",\"car\",\"cars\"],\"flags\":[\"alike\"]",
        ),
        ("\"class\":4,\"floor\":0.75", "\"up\":[6],\"class\":4"),
    ];
    let car = |mass| {
        let found = first(&alike, &seen([0.0, 0.0, 0.0, mass, 0.0, 0.0], &[]));
        found.map(|found| found.0)
    };
    assert_eq!(car(0.6).as_deref(), Some("car"));
    assert_eq!(car(0.95).as_deref(), Some("sports car"));
}

#[test]
fn what_is_named_last_is_named_alone() {
    let last = (
        "[\"a\",\"sports car\",\"sports cars\"]",
        "[\"a\",\"sports car\",\"sports cars\"],\"flags\":[\"last\"]",
    );
    let posteriors = [0.0, 0.0, 0.0, 0.6, 0.0, 0.0];
    let name = |detections| {
        let found = first(&[last], &seen(posteriors, detections));
        found.map(|found| found.0)
    };
    // A car is the narrower-class group's own noun, so it goes first.
    assert_eq!(name(&[]).as_deref(), Some("car"));
    assert_eq!(name(&[("bicycle", 0.9)]).as_deref(), Some("bicycle"));
}

#[test]
fn a_face_and_its_person_are_one() {
    let mut frame = seen(
        NOTHING,
        &[("person", 0.8), ("person", 0.6), ("person", 0.5)],
    );
    frame.detections[0].bbox = [0.1, 0.1, 0.5, 1.0];
    frame.detections[1].bbox = [0.2, 0.1, 0.4, 0.4];
    frame.detections[2].bbox = [0.6, 0.2, 0.9, 1.0];
    assert!(names(&[frame]).contains(&("person".into(), CERTAIN, counted(2, 2))));
}

/// Things of one keyframe seen by two detectors, the second of which knows persons and hands.
fn by_two(found: &[(&str, f32, [f32; 4])]) -> Vec<(String, Count)> {
    let labels = ["person", "Person", "hand"].map(str::to_owned);
    let text = SMALL
        .replacen("\"person\":8", "\"person\":8,\"Person\":8,\"hand\":14", 1)
        .replacen("\"finer\"", "\"scores\":{\"Person\":[0.6,0.35]},\"finer\"", 1)
        .replacen(BACKED.0, BACKED.1, 1)
        .replacen(
            "traffic lights\"]}",
            "traffic lights\"]},{\"id\":\"hand\",\"noun\":[\"a\",\"hand\",\"hands\"],\"part_of\":8}",
            1,
        );
    let taxonomy = Taxonomy::from_bytes(text.as_bytes()).unwrap();
    let known = taxonomy.labels(&labels);
    let detection = |(label, score, bbox): &(&str, f32, [f32; 4])| Detection {
        label: labels.iter().position(|l| l == label).unwrap() as u32,
        score: *score,
        bbox: *bbox,
    };
    let frame = Features {
        detections: found.iter().map(detection).collect(),
        ..Features::default()
    };
    let observation = Observation::new(&taxonomy, &known, &[&frame]).unwrap();
    let name = |thing: &Thing| (observation.noun(thing).one.clone(), thing.count);
    observation.things().iter().map(name).collect()
}

const LEFT: [f32; 4] = [0.0, 0.0, 0.4, 1.0];
const RIGHT: [f32; 4] = [0.6, 0.0, 1.0, 1.0];

#[test]
fn two_detectors_count_one_person_once() {
    let near_left = [0.0, 0.1, 0.3, 1.0];
    let one = [("person", counted(1, 1))].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(
        by_two(&[("person", 0.9, LEFT), ("Person", 0.7, near_left)]),
        one
    );
    let two = by_two(&[
        ("person", 0.9, LEFT),
        ("Person", 0.7, near_left),
        ("Person", 0.65, RIGHT),
    ]);
    assert_eq!(two, [("person".to_owned(), counted(2, 2))]);
    // Each label has its own score; one too weak does not count the other's.
    assert_eq!(by_two(&[("person", 0.65, LEFT)]), one);
    assert_eq!(by_two(&[("Person", 0.65, LEFT)]), one);
    assert!(by_two(&[("person", 0.6, LEFT)]).is_empty());
    assert_eq!(by_two(&[("Person", 0.6, LEFT)]), one);
}

#[test]
fn a_weak_detection_counts_if_another_detector_has_it_too() {
    assert!(by_two(&[("person", 0.4, LEFT), ("Person", 0.4, RIGHT)]).is_empty());
    let both = by_two(&[("person", 0.4, LEFT), ("Person", 0.4, LEFT)]);
    assert_eq!(both, [("person".to_owned(), counted(1, 1))]);
}

#[test]
fn a_part_is_said_only_without_its_whole() {
    let hand = by_two(&[("hand", 0.9, RIGHT)]);
    assert_eq!(hand, [("hand".to_owned(), counted(1, 1))]);
    let both = by_two(&[("hand", 0.9, RIGHT), ("person", 0.8, LEFT)]);
    assert_eq!(both, [("person".to_owned(), counted(1, 1))]);
}

#[test]
fn any_animal_is_not_said_beside_one() {
    // A second node that means any animal, above the classes only.
    let any = (
        "\"up\":[0],\"flags\":[\"bird\"]}",
        "\"up\":[0],\"flags\":[\"bird\"]},{\"id\":\"any\",\"noun\":[\"an\",\"animal\",\"animals\"],\"up\":[0],\"flags\":[\"animal\"],\"mass\":0.4}",
    );
    let sparrow = ("\"up\":[11],\"class\":5", "\"up\":[11,12],\"class\":5");
    let light = ("\"traffic light\":13", "\"traffic light\":14");
    let text = [any, sparrow, light]
        .iter()
        .fold(SMALL.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "the test names what is there");
            text.replacen(from, to, 1)
        });
    let taxonomy = Taxonomy::from_bytes(text.as_bytes()).unwrap();
    let labels = labels(&taxonomy);
    let things = |detections: &[(&str, f32)]| {
        let frame = seen([0.15, 0.0, 0.0, 0.0, 0.0, 0.45], detections);
        let observation = Observation::new(&taxonomy, &labels, &[&frame]).unwrap();
        let name = |thing: &Thing| observation.noun(thing).one.clone();
        observation.things().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(things(&[]), ["animal"]);
    assert_eq!(things(&[("dog", 0.9)]), ["dog"]);
}

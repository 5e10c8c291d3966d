//! From the numbers of one keyframe to things.

use atom_core::features::{Detection, Features};

use super::rules::Rules;
use super::taxonomy::{Labels, NodeId, Taxonomy};
use super::thing::{Certainty, Count, Thing, When};

/// A classifier that is certain of an animal this narrow overrules a detector's other animal.
const NARROW: usize = 60;
/// Share of the smaller of two boxes inside the other from which both are one thing: a face and its person.
const NESTED: f32 = 0.8;
/// Intersection over union from which two detectors mean one thing.
const SAME: f32 = 0.5;
/// A detector this sure of an animal's kind needs nobody's support.
const SURE: f32 = 0.75;

/// The things of one keyframe.
pub(super) fn things(taxonomy: &Taxonomy, labels: &Labels, frame: &Features) -> Vec<Thing> {
    let classified = (!frame.posteriors.is_empty()).then(|| Classified::new(taxonomy, frame));
    let mut things = Vec::new();
    let mut seen: Vec<NodeId> = Vec::new();
    for found in &frame.detections {
        let Some(node) = labels.node(found.label) else {
            continue;
        };
        if !seen.contains(&node) {
            seen.push(node);
            things.extend(detected(taxonomy, labels, frame, node, classified.as_ref()));
        }
    }
    things = distinct(things);
    let found: Vec<NodeId> = things.iter().map(|thing| thing.node).collect();
    let said = |whole: NodeId| found.iter().any(|other| taxonomy.is_a(*other, whole));
    things.retain(|thing| !taxonomy.whole(thing.node).is_some_and(said));
    if let Some(best) = classified.and_then(|classified| classified.best) {
        merge(taxonomy, &mut things, best);
    }
    things
}

/// The detectors' hints of things that do not count.
pub(super) fn hints<'a>(
    taxonomy: &'a Taxonomy,
    labels: &'a Labels,
    frame: &'a Features,
) -> impl Iterator<Item = NodeId> + 'a {
    let weak = frame.detections.iter().filter_map(|found| {
        let node = labels.node(found.label)?;
        // A hand that is not said for the person it belongs to is there all the same.
        let unsaid = found.score < labels.score(found.label) || taxonomy.whole(node).is_some();
        unsaid.then_some(node)
    });
    weak.into_iter()
}

/// All detections of `node` as one thing, if the best of them counts.
fn detected(
    taxonomy: &Taxonomy,
    labels: &Labels,
    frame: &Features,
    node: NodeId,
    classified: Option<&Classified<'_>>,
) -> Option<Thing> {
    let rules = taxonomy.rules();
    let such = |found: &&Detection| labels.node(found.label) == Some(node);
    let mut boxes: Vec<&Detection> = frame.detections.iter().filter(such).collect();
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    let backing = taxonomy.backing(node, &frame.posteriors);
    let is_backed = rules.backed.as_ref().is_some_and(|b| backing >= b.mass);
    let weakly = |found: &Detection| found.score >= labels.backed(found.label);
    let seconded = |found: &Detection| {
        let same = |other: &&Detection| {
            let elsewhere = other.label == found.label || !weakly(other);
            !elsewhere && found.iou(other) >= SAME
        };
        rules.backed.is_some() && boxes.iter().any(same)
    };
    let counts = |found: &Detection| {
        let alone = found.score >= labels.score(found.label);
        alone || weakly(found) && (is_backed || seconded(found))
    };
    let best = boxes.iter().find(|found| counts(found))?;
    // Two detectors know better, if one of them is sure.
    let agreed = best.score >= labels.score(best.label) && seconded(best);
    if !agreed && classified.is_some_and(|c| c.contradicts(node)) {
        return None;
    }
    // Two detectors see one thing twice, in boxes that differ: each counts by itself.
    let mut count = 0;
    for (at, first) in boxes.iter().enumerate() {
        if counts(first) {
            count = count.max(counted(first, &boxes[at + 1..], rules));
        }
    }
    // That it is an animal both agree on; of its kind only the detector knows, and it confuses them.
    let doubtful = rules.backed.is_some()
        && classified.is_some()
        && !is_backed
        && !agreed
        && best.score < SURE
        && taxonomy.is_animal(node)
        && !taxonomy.is_bird(node);
    let any = taxonomy
        .any_animal(node)
        .filter(|any| taxonomy.noun(*any).is_some());
    Some(Thing {
        node: any.filter(|_| doubtful).unwrap_or(node),
        count: Count::Counted {
            least: count,
            most: count,
        },
        certainty: Certainty::Certain,
        confidence: best.score.min(1.0),
        when: When::Throughout,
    })
}

/// How many things `first` and those of its label among the weaker `others` are.
fn counted(first: &Detection, others: &[&Detection], rules: &Rules) -> u32 {
    let least = rules.count.unwrap_or(rules.detection);
    let mut counted: Vec<&Detection> = vec![first];
    for found in others {
        let apart = |other: &&Detection| nested(found, other) < NESTED;
        if found.label == first.label && found.score >= least && counted.iter().all(apart) {
            counted.push(found);
        }
    }
    u32::try_from(counted.len()).unwrap_or(u32::MAX)
}

/// Two labels may have become one animal in doubt: which of them is counted twice cannot be told.
fn distinct(things: Vec<Thing>) -> Vec<Thing> {
    let mut kept: Vec<Thing> = Vec::new();
    for thing in things {
        match kept.iter_mut().find(|old| old.node == thing.node) {
            Some(old) => {
                if let (Count::Counted { most: a, .. }, Count::Counted { most: b, .. }) =
                    (old.count, thing.count)
                {
                    let count = a.max(b);
                    old.count = Count::Counted {
                        least: count,
                        most: count,
                    };
                }
            }
            None => kept.push(thing),
        }
    }
    kept
}

/// Share of the smaller box that lies inside the other.
fn nested(a: &Detection, b: &Detection) -> f32 {
    let smaller = a.area().min(b.area());
    if smaller > 0.0 {
        a.shared_area(b) / smaller
    } else {
        1.0
    }
}

/// Adds what the classifier sees to what the detector found: one thing is named once, by the narrower noun. Beside what is
/// there for certain, a possibility adds more errors than sense.
fn merge(taxonomy: &Taxonomy, things: &mut Vec<Thing>, best: Thing) {
    let single = Count::Counted { least: 1, most: 1 };
    let same =
        |a: NodeId, b: NodeId| taxonomy.noun(a).map(|n| &n.one) == taxonomy.noun(b).map(|n| &n.one);
    let last = best.certainty == Certainty::Possible || taxonomy.is_last(best.node);
    if last && !things.is_empty() {
        return;
    }
    // "An animal" adds nothing to a dog.
    let any_animal = taxonomy.is_animal(best.node) && !taxonomy.is_animal_kind(best.node);
    if any_animal && things.iter().any(|thing| taxonomy.is_animal(thing.node)) {
        return;
    }
    for thing in things.iter_mut() {
        if taxonomy.is_a(best.node, thing.node) {
            // A breed for the only dog there is; of several, which one it is remains unknown.
            if thing.count == single && best.certainty == Certainty::Certain {
                thing.node = best.node;
            }
            return;
        }
        if taxonomy.is_a(thing.node, best.node) || same(thing.node, best.node) {
            return;
        }
    }
    things.push(best);
}

/// What the classifier says of one keyframe.
struct Classified<'a> {
    taxonomy: &'a Taxonomy,
    animal: f32,
    best: Option<Thing>,
}

impl<'a> Classified<'a> {
    fn new(taxonomy: &'a Taxonomy, frame: &Features) -> Self {
        let posteriors = &frame.posteriors;
        let rules = taxonomy.rules();
        let masses = taxonomy.masses(posteriors);
        let top = posteriors.iter().copied().fold(0.0, f32::max);
        let animal = taxonomy.animal_mass(&masses);
        let mut certain: Option<Thing> = None;
        let mut last: Option<Thing> = None;
        let mut possible: Option<Thing> = None;
        for (node, mass) in masses.iter().enumerate() {
            let node = node as NodeId;
            let breadth = taxonomy.breadth(node);
            if taxonomy.noun(node).is_none()
                || breadth == 0
                || (breadth > rules.broad.classes
                    && top < rules.broad.top
                    && !taxonomy.has_own_mass(node))
                || (animal < rules.animal_kind && taxonomy.is_animal_kind(node))
            {
                continue;
            }
            let need = taxonomy.threshold(node);
            let (best, certainty) = if *mass >= need {
                let best = if taxonomy.is_last(node) {
                    &mut last
                } else {
                    &mut certain
                };
                (best, Certainty::Certain)
            } else if breadth <= rules.possible.classes
                && !taxonomy.is_last(node)
                && *mass >= need * rules.possible.share
                && !taxonomy.has_floor(node)
            {
                (&mut possible, Certainty::Possible)
            } else {
                continue;
            };
            let better = best.as_ref().is_none_or(|old| {
                let narrower = breadth.cmp(&taxonomy.breadth(old.node));
                narrower.then(old.confidence.total_cmp(mass)).is_lt()
            });
            if better {
                *best = Some(Thing {
                    node,
                    count: Count::Unknown,
                    certainty,
                    confidence: mass.min(1.0),
                    when: When::Throughout,
                });
            }
        }
        Self {
            taxonomy,
            animal,
            best: certain.or(last).or(possible),
        }
    }

    /// Whether the classifier makes a detected animal or part incredible.
    fn contradicts(&self, detected: NodeId) -> bool {
        let taxonomy = self.taxonomy;
        // An animal's paw or leg passes for a hand.
        if taxonomy.whole(detected).is_some() {
            return self.animal >= taxonomy.rules().animal;
        }
        if !taxonomy.is_animal(detected) {
            return false;
        }
        // Birds are often too small in the picture for the classifier to notice.
        if !taxonomy.is_bird(detected) && self.animal < taxonomy.rules().animal {
            return true;
        }
        self.best.as_ref().is_some_and(|best| {
            best.certainty == Certainty::Certain
                && taxonomy.is_animal_kind(best.node)
                && taxonomy.breadth(best.node) <= NARROW.max(taxonomy.breadth(detected))
                && !taxonomy.is_a(best.node, detected)
                && !taxonomy.is_a(detected, best.node)
        })
    }
}

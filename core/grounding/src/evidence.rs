//! What the observation says for and against a thing that was asked for.

use super::observation::Observation;
use super::question::Asked;
use super::taxonomy::NodeId;
use super::thing::{Count, Ground, Thing};

/// Mass from which something not asserted is not denied either.
const DOUBT: f32 = 0.1;

/// How well what was asked for is borne out.
pub(super) enum Evidence<'o> {
    Yes(Vec<&'o Thing>),
    /// The asked noun itself has the mass, though no thing is named by it.
    YesUnnamed,
    Maybe(&'o Thing),
    /// A broader thing is there; whether it is what was asked cannot be told.
    Broader(&'o Thing),
    /// Neither asserted nor denied.
    Unsure,
    No,
}

impl Observation<'_> {
    /// How well `asked` is borne out.
    pub(super) fn evidence(&self, asked: &Asked) -> Evidence<'_> {
        let taxonomy = self.taxonomy;
        let is_such = |thing: &&Thing| {
            asked
                .nodes
                .iter()
                .any(|node| taxonomy.is_a(thing.node, *node))
        };
        let such: Vec<&Thing> = self.certain().filter(is_such).collect();
        if let Some(first) = such.first() {
            return if asked.finer {
                Evidence::Broader(first)
            } else {
                Evidence::Yes(such)
            };
        }
        let mass = |node: &NodeId| self.masses.get(*node as usize).copied().unwrap_or(0.0);
        let certain = |node: &NodeId| mass(node) > 0.0 && mass(node) >= taxonomy.threshold(*node);
        let top = self.posteriors.iter().copied().fold(0.0, f32::max) >= taxonomy.rules().broad.top;
        if !asked.finer && top && asked.nodes.iter().any(certain) {
            return Evidence::YesUnnamed;
        }
        if let Some(thing) = self.possible().find(is_such) {
            return Evidence::Maybe(thing);
        }
        let best = asked.nodes.iter().map(mass).fold(0.0, f32::max);
        let broader = |thing: &&Thing| {
            asked
                .nodes
                .iter()
                .any(|node| taxonomy.is_a(*node, thing.node))
        };
        if let Some(thing) = self.certain().find(broader) {
            // An animal whose kind is in doubt may be any.
            if taxonomy.is_animal(thing.node) && self.animal_in_doubt() {
                return Evidence::Broader(thing);
            }
            // A broader thing says nothing against the narrower one unless the classifier does.
            if self.masses.is_empty()
                || best >= DOUBT / 5.0
                || matches!(thing.count, Count::Counted { .. }) && !self.classifies(asked)
            {
                return Evidence::Broader(thing);
            }
        }
        let silent =
            |node: &NodeId| taxonomy.is_partial(*node) && !self.labels.covers(taxonomy, *node);
        let hinted = |node: &NodeId| {
            let hints = |hint: &NodeId| taxonomy.is_a(*hint, *node);
            self.hints.iter().any(hints)
        };
        // Of a person, hands are seen though none were found; with a hand there is somebody.
        let belongs = |node: &NodeId| {
            self.certain().any(|thing| {
                let within = |part, whole| {
                    let whole_of = taxonomy.whole(part);
                    whole_of.is_some_and(|of| taxonomy.is_a(whole, of))
                };
                within(*node, thing.node) || within(thing.node, *node)
            })
        };
        if best >= DOUBT
            || asked.nodes.iter().any(hinted)
            || asked.nodes.iter().any(belongs)
            || asked.nodes.iter().any(silent)
            || !self.covers(asked)
        {
            return Evidence::Unsure;
        }
        Evidence::No
    }

    /// Whether the classifier has classes for what was asked.
    fn classifies(&self, asked: &Asked) -> bool {
        !self.masses.is_empty()
            && asked
                .nodes
                .iter()
                .any(|node| self.taxonomy.breadth(*node) > 0)
    }

    /// Whether the detector looks for what was asked.
    pub(super) fn detects(&self, asked: &Asked) -> bool {
        let detected = |node: &NodeId| self.labels.covers(self.taxonomy, *node);
        asked.nodes.iter().any(detected)
    }

    /// Whether anything could have shown what was asked.
    fn covers(&self, asked: &Asked) -> bool {
        self.classifies(asked) || self.detects(asked)
    }

    /// Whether the classifier would not say what kind of animal it sees.
    fn animal_in_doubt(&self) -> bool {
        let rules = self.taxonomy.rules();
        !self.masses.is_empty() && self.taxonomy.animal_mass(&self.masses) < rules.animal_kind
    }

    /// The things for programs.
    pub(super) fn grounds_of(&self, things: &[&Thing]) -> Vec<Ground> {
        things.iter().map(|thing| self.ground(thing)).collect()
    }
}

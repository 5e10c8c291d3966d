//! The nouns a pack may say, as a graph from classes to broader things. The file format is described in
//! `models/reference/taxonomy.py`.

use std::collections::HashMap;

use serde::Deserialize;

use atom_core::Result;

use super::rules::{Rules, bad};

/// Index of a node of a [`Taxonomy`].
pub type NodeId = u32;

const FORMAT: u32 = 1;
/// Far above any real taxonomy; bounds the closure computed at load.
const MAX_NODES: usize = 20_000;
const MAX_CLASSES: usize = 100_000;

/// How a thing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noun {
    /// What stands before one: "a", "an", "some", "a piece of".
    pub article: String,
    /// The singular.
    pub one: String,
    /// The plural.
    pub many: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: String,
    noun: Option<(String, String, String)>,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    up: Vec<NodeId>,
    class: Option<u32>,
    mass: Option<f32>,
    #[serde(default)]
    flags: Vec<Flag>,
    floor: Option<f32>,
    part_of: Option<NodeId>,
    #[serde(default)]
    near: Vec<u32>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Flag {
    Animal,
    Bird,
    Partial,
    Alike,
    Last,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: u32,
    #[serde(rename = "sources")]
    _sources: String,
    rules: Rules,
    classes: usize,
    labels: HashMap<String, NodeId>,
    #[serde(default)]
    scores: HashMap<String, (f32, f32)>,
    finer: HashMap<String, NodeId>,
    nodes: Vec<RawNode>,
}

struct Node {
    id: String,
    noun: Option<Noun>,
    /// Distinct classes at or below it, ascending.
    members: Vec<u32>,
    /// The node and everything above it, ascending.
    above: Vec<NodeId>,
    partial: bool,
    /// Its own mass of certainty, in place of the rules'.
    mass: Option<f32>,
    /// What it is a part of: said only if that is not.
    part_of: Option<NodeId>,
    /// Classes whose posteriors back a detection of it, ascending: its own and those seen along with it.
    backing: Vec<u32>,
    alike: bool,
    last: bool,
}

/// The detectors' labels as nodes; a label the taxonomy does not know is `None` and never said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels(Vec<Option<Label>>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Label {
    node: NodeId,
    score: f32,
    backed: f32,
}

impl Labels {
    fn at(&self, index: u32) -> Option<&Label> {
        self.0.get(index as usize)?.as_ref()
    }

    /// The node of the label at `index`.
    pub fn node(&self, index: u32) -> Option<NodeId> {
        Some(self.at(index)?.node)
    }

    /// The score from which a detection with the label at `index` counts by itself; 1 for a label without a node.
    pub fn score(&self, index: u32) -> f32 {
        self.at(index).map_or(1.0, |label| label.score)
    }

    /// The score from which it counts if the posteriors or another detector back it.
    pub fn backed(&self, index: u32) -> f32 {
        self.at(index).map_or(1.0, |label| label.backed)
    }

    /// Whether a detector could have found a `node`.
    pub fn covers(&self, taxonomy: &Taxonomy, node: NodeId) -> bool {
        let found = |label: &Label| taxonomy.is_a(label.node, node);
        self.0.iter().flatten().any(found)
    }
}

/// A loaded taxonomy. Immutable; may be shared between threads.
pub struct Taxonomy {
    nodes: Vec<Node>,
    classes: usize,
    /// Mass a class needs at least to be certain; 0 for most.
    floors: Vec<f32>,
    labels: HashMap<String, NodeId>,
    /// Scores of certainty of single labels, alone and backed, in place of the rules'.
    scores: HashMap<String, (f32, f32)>,
    words: HashMap<String, Vec<NodeId>>,
    finer: HashMap<String, NodeId>,
    rules: Rules,
    animal: Vec<NodeId>,
    bird: Vec<NodeId>,
}

impl std::fmt::Debug for Taxonomy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Taxonomy({} nodes, {} classes)",
            self.nodes.len(),
            self.classes
        )
    }
}

impl Taxonomy {
    /// Reads and checks a taxonomy file.
    ///
    /// # Errors
    /// [`ErrorKind::BadPack`] if it is not JSON of format 1, or an index, number or noun in it makes no sense.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(bad)?;
        if raw.format != FORMAT {
            return Err(bad(format!("format {}, this is {FORMAT}", raw.format)));
        }
        if raw.nodes.len() > MAX_NODES || raw.classes > MAX_CLASSES {
            return Err(bad("too many nodes or classes"));
        }
        raw.rules.check()?;
        let mut taxonomy = Self {
            nodes: Vec::with_capacity(raw.nodes.len()),
            classes: raw.classes,
            floors: vec![0.0; raw.classes],
            labels: raw.labels,
            scores: raw.scores,
            words: HashMap::new(),
            finer: raw.finer,
            rules: raw.rules,
            animal: Vec::new(),
            bird: Vec::new(),
        };
        for node in raw.nodes {
            taxonomy.add(node)?;
        }
        let count = taxonomy.nodes.len();
        let mut targets = taxonomy.labels.values().chain(taxonomy.finer.values());
        if targets.any(|node| *node as usize >= count) {
            return Err(bad(
                "a label or a finer word names a node that is not there",
            ));
        }
        for (label, score) in &taxonomy.scores {
            let (alone, backed) = *score;
            if !(0.0..=1.0).contains(&alone) || !(0.0..=alone).contains(&backed) {
                return Err(bad(format!("the scores of {label:?} are {score:?}")));
            }
            if !taxonomy.labels.contains_key(label) {
                return Err(bad(format!("a score of {label:?}, which is no label")));
            }
        }
        let unsaid = |node: &&NodeId| taxonomy.nodes[**node as usize].noun.is_none();
        if taxonomy.labels.values().find(unsaid).is_some() {
            return Err(bad("a label's node has no noun"));
        }
        for node in &mut taxonomy.nodes {
            node.members.sort_unstable();
            node.members.dedup();
            node.backing.extend(&node.members);
            node.backing.sort_unstable();
            node.backing.dedup();
        }
        Ok(taxonomy)
    }

    fn add(&mut self, raw: RawNode) -> Result<()> {
        let index = self.nodes.len();
        let own = index as NodeId;
        if let Some(up) = raw
            .up
            .iter()
            .chain(&raw.part_of)
            .find(|up| **up as usize >= index)
        {
            return Err(bad(format!("{}: its parent {up} is not before it", raw.id)));
        }
        let noun = match raw.noun {
            None => None,
            Some((article, one, many)) if [&article, &one, &many].iter().all(|w| !w.is_empty()) => {
                Some(Noun { article, one, many })
            }
            Some(_) => return Err(bad(format!("{}: an empty word in its noun", raw.id))),
        };
        let mut above: Vec<NodeId> = vec![own];
        for up in &raw.up {
            above.extend(&self.nodes[*up as usize].above);
        }
        above.sort_unstable();
        above.dedup();
        if raw.mass.is_some_and(|mass| !(0.0..=1.0).contains(&mass)) {
            return Err(bad(format!("{}: mass {:?}", raw.id, raw.mass)));
        }
        if let Some(class) = raw.near.iter().find(|near| **near as usize >= self.classes) {
            return Err(bad(format!("{}: class {class} in near", raw.id)));
        }
        if let Some(class) = raw.class {
            let floor = raw.floor.unwrap_or(0.0);
            if !(0.0..=1.0).contains(&floor) {
                return Err(bad(format!("{}: floor {floor}", raw.id)));
            }
            let slot = self.floors.get_mut(class as usize);
            *slot.ok_or_else(|| bad(format!("{}: class {class}", raw.id)))? = floor;
            // `above` holds earlier nodes only, besides this one.
            for up in above.iter().filter(|up| **up != own) {
                self.nodes[*up as usize].members.push(class);
            }
        }
        for flag in &raw.flags {
            match flag {
                Flag::Animal => self.animal.push(own),
                Flag::Bird => self.bird.push(own),
                Flag::Partial | Flag::Alike | Flag::Last => {}
            }
        }
        let spoken = noun.iter().flat_map(|noun| [&noun.one, &noun.many]);
        for word in raw.words.iter().chain(spoken) {
            let word = word.to_lowercase();
            for form in [plural(&word), word] {
                let nodes = self.words.entry(form).or_default();
                if nodes.last() != Some(&own) {
                    nodes.push(own);
                }
            }
        }
        self.nodes.push(Node {
            id: raw.id,
            noun,
            members: raw.class.into_iter().collect(),
            above,
            partial: raw.flags.contains(&Flag::Partial),
            mass: raw.mass,
            part_of: raw.part_of,
            backing: raw.near,
            alike: raw.flags.contains(&Flag::Alike),
            last: raw.flags.contains(&Flag::Last),
        });
        Ok(())
    }

    /// How many posteriors it reads.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many nodes it has.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has no node at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The recipe's numbers.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The nodes of the detectors' labels, in their order.
    pub fn labels(&self, labels: &[String]) -> Labels {
        let alone = self.rules.detection;
        let backed = self.rules.backed.as_ref().map_or(alone, |b| b.score);
        let label = |label: &String| {
            let (score, backed) = *self.scores.get(label).unwrap_or(&(alone, backed));
            let node = *self.labels.get(label)?;
            Some(Label {
                node,
                score,
                backed,
            })
        };
        Labels(labels.iter().map(label).collect())
    }

    /// The node with this identifier.
    pub fn by_id(&self, id: &str) -> Option<NodeId> {
        let at = self.nodes.iter().position(|node| node.id == id)?;
        Some(at as NodeId)
    }

    /// Nodes a word or phrase may mean, singular or plural, in lower case; empty if it means none.
    pub fn find(&self, words: &str) -> &[NodeId] {
        self.words.get(words).map_or(&[], Vec::as_slice)
    }

    /// The node under which `word` is, when nothing can tell it from its neighbours ("woman" under person).
    pub fn finer(&self, word: &str) -> Option<NodeId> {
        self.finer.get(word).copied()
    }

    /// Whether everything that is a `node` is a `kind`; true for a node and itself.
    pub fn is_a(&self, node: NodeId, kind: NodeId) -> bool {
        let found = self.nodes.get(node as usize);
        found.is_some_and(|node| node.above.binary_search(&kind).is_ok())
    }

    /// How the node is said, if it is.
    pub fn noun(&self, node: NodeId) -> Option<&Noun> {
        self.nodes.get(node as usize)?.noun.as_ref()
    }

    /// Whether the classes know only some of what the node means, so that their silence says nothing.
    pub fn is_partial(&self, node: NodeId) -> bool {
        self.nodes.get(node as usize).is_some_and(|n| n.partial)
    }

    /// Whether the node is an animal.
    pub fn is_animal(&self, node: NodeId) -> bool {
        self.animal.iter().any(|kind| self.is_a(node, *kind))
    }

    /// Whether the node is a bird.
    pub fn is_bird(&self, node: NodeId) -> bool {
        self.bird.iter().any(|kind| self.is_a(node, *kind))
    }

    /// Whether a mass of its own makes the node certain, however broad it is.
    pub(super) fn has_own_mass(&self, node: NodeId) -> bool {
        self.nodes[node as usize].mass.is_some()
    }

    /// Whether the node is a kind of animal, not just any.
    pub(super) fn is_animal_kind(&self, node: NodeId) -> bool {
        self.is_animal(node) && !self.animal.contains(&node)
    }

    /// Whether the node is a class into which pictures fall that are like nothing the classifier knows.
    pub(super) fn has_floor(&self, node: NodeId) -> bool {
        let members = self.nodes[node as usize].members.as_slice();
        matches!(members, [class] if self.floors[*class as usize] > 0.0)
    }

    /// Whether the node is named only when nothing else is.
    pub(super) fn is_last(&self, node: NodeId) -> bool {
        self.nodes[node as usize].last
    }

    /// The widest animal above an animal: what it is called when its kind is in doubt.
    pub(super) fn any_animal(&self, node: NodeId) -> Option<NodeId> {
        let above = self.animal.iter().copied();
        above.into_iter().find(|kind| self.is_a(node, *kind))
    }

    /// What the node is a part of.
    pub(super) fn whole(&self, node: NodeId) -> Option<NodeId> {
        self.nodes.get(node as usize)?.part_of
    }

    /// What the posteriors say for a detection of the node.
    pub(super) fn backing(&self, node: NodeId, posteriors: &[f32]) -> f32 {
        let classes = self.nodes[node as usize].backing.iter();
        classes
            .filter_map(|class| posteriors.get(*class as usize))
            .sum()
    }

    /// Number of classes at or below the node.
    pub(super) fn breadth(&self, node: NodeId) -> usize {
        self.nodes[node as usize].members.len()
    }

    /// Posterior mass of every node. `posteriors` has [`classes`](Self::classes) values. A class with a floor, into
    /// which pictures fall that are like nothing the classifier knows, speaks for itself alone, not for broader nodes.
    pub(super) fn masses(&self, posteriors: &[f32]) -> Vec<f32> {
        let of = |class: &u32| posteriors.get(*class as usize).copied().unwrap_or(0.0);
        let mass = |node: &Node| match node.members.as_slice() {
            [class] => of(class),
            members => {
                let plain = members
                    .iter()
                    .filter(|class| self.floors[**class as usize] == 0.0);
                plain.map(of).sum()
            }
        };
        self.nodes.iter().map(mass).collect()
    }

    /// Mass of all animals.
    pub(super) fn animal_mass(&self, masses: &[f32]) -> f32 {
        let masses = self.animal.iter().map(|node| masses[*node as usize]);
        // One animal node may lie within another.
        masses.fold(0.0, f32::max)
    }

    /// The mass that makes a node certain.
    pub(super) fn threshold(&self, node: NodeId) -> f32 {
        let Node { members, mass, .. } = &self.nodes[node as usize];
        let mut rules = self.rules.mass.iter();
        let rule = rules.find(|(most, _)| members.len() <= *most);
        let mass = mass.unwrap_or(rule.map_or(1.0, |(_, mass)| *mass));
        match members.as_slice() {
            [class] => {
                let alike = if self.is_alike(node) {
                    self.rules.alike
                } else {
                    0.0
                };
                mass.max(self.floors[*class as usize]).max(alike)
            }
            _ => mass,
        }
    }

    /// Whether something broader that looks the same can be said instead.
    fn is_alike(&self, node: NodeId) -> bool {
        let mut above = self.nodes[node as usize].above.iter();
        above.any(|up| {
            let up_node = &self.nodes[*up as usize];
            *up != node && up_node.alike && up_node.noun.is_some() && up_node.members.len() > 1
        })
    }
}

/// The regular English plural; what is irregular is in the nouns.
pub(super) fn plural(word: &str) -> String {
    let ends = |ends: &[&str]| ends.iter().any(|end| word.ends_with(end));
    let stem = || {
        let mut chars = word.chars();
        chars.next_back();
        chars.as_str()
    };
    if ends(&["s", "x", "z", "ch", "sh"]) {
        format!("{word}es")
    } else if word.ends_with('y') && !ends(&["ay", "ey", "oy", "uy"]) {
        format!("{}ies", stem())
    } else {
        format!("{word}s")
    }
}

#[cfg(test)]
#[path = "taxonomy_tests.rs"]
pub(super) mod tests;

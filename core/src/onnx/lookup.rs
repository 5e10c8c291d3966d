//! Where a graph turns token ids into rows.

use std::collections::{HashMap, HashSet};

use super::Model;
use super::external::text;

/// Operators that look rows up in a table, and which of their inputs are the table and the ids.
const LOOKUPS: [&str; 2] = ["Gather", "GatherBlockQuantized"];

/// Operators that keep ids ids.
const SAME_IDS: [&str; 6] = ["Cast", "Identity", "Clip", "Where", "Max", "Reshape"];

impl Model {
    /// The tensor of rows that the graph looks up in a table of weights by the ids in its input `ids`, before it does anything
    /// else with them; `None` if it does not.
    pub fn lookup_of(&self, ids: &str) -> Option<String> {
        let graph = self.graph();
        let tables = graph.initializer.iter();
        let tables: HashSet<&str> = tables.map(|tensor| text(&tensor.name)).collect();
        // A table may pass through nodes that only read it.
        let mut made: HashMap<&str, &str> = HashMap::new();
        let mut same: HashSet<&str> = HashSet::from([ids]);
        for node in &graph.node {
            let operator = text(&node.op_type);
            let first = node.input.first().map_or("", String::as_str);
            let output = node.output.first().map_or("", String::as_str);
            if LOOKUPS.contains(&operator) {
                let table = made.get(first).copied().unwrap_or(first);
                let by_ids = node
                    .input
                    .get(1)
                    .is_some_and(|input| same.contains(input.as_str()));
                if by_ids && tables.contains(table) {
                    return Some(output.to_owned());
                }
            } else if SAME_IDS.contains(&operator) {
                if node.input.iter().any(|input| same.contains(input.as_str())) {
                    same.insert(output);
                } else if tables.contains(first) {
                    made.insert(output, first);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::{GraphProto, TensorProto};
    use super::super::test_models::{model, node, value};

    #[test]
    fn the_rows_of_ids_are_found_and_no_other_lookup() {
        let table = |name: &str| TensorProto {
            name: Some(name.to_owned()),
            dims: vec![3, 2],
            ..Default::default()
        };
        let merged = |lookup| {
            model(GraphProto {
                node: vec![
                    node("place", "Gather", &["table", "picture"], &["p"]),
                    node("cast", "Cast", &["ids"], &["i"]),
                    lookup,
                    node("merge", "Where", &["mask", "rows", "p"], &["out"]),
                ],
                initializer: vec![table("table")],
                input: ["ids", "picture", "mask"]
                    .map(|name| value(name, &[0, 2]))
                    .to_vec(),
                output: vec![value("out", &[0, 2])],
                ..Default::default()
            })
        };
        let found = merged(node("rows", "Gather", &["table", "i"], &["rows"]));
        assert_eq!(found.lookup_of("ids").as_deref(), Some("rows"));
        assert_eq!(found.lookup_of("picture").as_deref(), Some("p"));
        assert_eq!(found.lookup_of("mask"), None);
        let other = merged(node("rows", "Gather", &["i", "table"], &["rows"]));
        assert_eq!(other.lookup_of("ids"), None);
    }
}

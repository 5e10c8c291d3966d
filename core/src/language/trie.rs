//! A trie of token sequences.

/// One node: the tokens that may follow and the entries that end here.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Token and node, ascending by token.
    pub(crate) children: Vec<(u32, u32)>,
    /// What the caller gave with each sequence that ends here.
    pub(crate) ends: Vec<u32>,
    /// Longest path below, in tokens.
    pub(crate) height: u32,
}

/// Token sequences with common beginnings merged. Node 0 is the root.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    /// A trie of `(tokens, entry)`; equal sequences end at one node with all their entries.
    pub(crate) fn new(mut sequences: Vec<(Vec<u32>, u32)>) -> Self {
        // In order, every new child is its parent's last.
        sequences.sort_unstable();
        let mut nodes = vec![Node::default()];
        for (tokens, entry) in sequences {
            let mut at = 0;
            for token in tokens {
                at = match nodes[at].children.last() {
                    Some((last, child)) if *last == token => *child as usize,
                    _ => {
                        let child = nodes.len();
                        nodes[at].children.push((token, child as u32));
                        nodes.push(Node::default());
                        child
                    }
                };
            }
            nodes[at].ends.push(entry);
        }
        // Children come after their parents.
        for at in (0..nodes.len()).rev() {
            let height = nodes[at]
                .children
                .iter()
                .map(|(_, child)| nodes[*child as usize].height + 1)
                .max();
            nodes[at].height = height.unwrap_or(0);
        }
        Self { nodes }
    }

    pub(crate) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    /// The node reached from `at` by `token`.
    pub(crate) fn child(&self, at: u32, token: u32) -> Option<u32> {
        let children = &self.node(at).children;
        let found = children
            .binary_search_by_key(&token, |(token, _)| *token)
            .ok()?;
        Some(children[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_merge_and_entries_stay() {
        let trie = Trie::new(vec![
            (vec![5, 1], 0),
            (vec![5, 1, 2], 1),
            (vec![3], 2),
            (vec![5, 1], 3),
        ]);
        assert_eq!(
            trie.node(0)
                .children
                .iter()
                .map(|c| c.0)
                .collect::<Vec<_>>(),
            [3, 5]
        );
        assert_eq!(trie.node(0).height, 3);
        let five = trie.child(0, 5).expect("5");
        let one = trie.child(five, 1).expect("1");
        assert_eq!(trie.node(one).ends, [0, 3]);
        assert_eq!(trie.node(one).height, 1);
        assert!(trie.child(one, 2).is_some() && trie.child(one, 1).is_none());
        assert!(Trie::new(Vec::new()).node(0).children.is_empty());
    }
}

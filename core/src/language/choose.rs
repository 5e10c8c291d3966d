//! Which of several texts the decoder finds likeliest.

use super::constraint::choice_trie;
use super::generation::{CHUNK, Generation};
use super::sampling::log_probabilities;
use super::step::row;
use super::trie::Trie;
use crate::control::Control;
use crate::error::Result;

/// The outcome of [`Generation::choose`].
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The likeliest choice; the first of equals.
    pub index: usize,
    /// For every choice the mean over its tokens of ln p(token | what is before it), at most 0.
    pub log_probs: Vec<f64>,
}

/// A node of the trie yet to be run, and what led to it.
struct Open {
    node: u32,
    token: u32,
    /// Tokens up to and including `token`.
    depth: usize,
    /// Sum of the log-probabilities of those tokens.
    sum: f64,
}

impl Generation {
    /// Scores every choice as the continuation of the text so far, by its canonical tokens. Common beginnings are run
    /// once. The text itself stays as it was, whatever the outcome. The same past and choices give the same numbers.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are no choices, one is empty or
    /// cannot be spelt, the longest does not fit into the context, or nothing was fed; otherwise as
    /// [`feed`](Self::feed).
    pub fn choose<S: AsRef<str>>(&mut self, choices: &[S], control: &Control) -> Result<Choice> {
        let trie = choice_trie(self.model.tokenizer(), choices, |index| index)?;
        self.check_room(trie.node(0).height.saturating_sub(1) as usize)?;
        self.refresh(control)?;
        let base = self.committed();
        let logits = self.logits.clone();
        let scored = self.score(&trie, base, choices.len(), control);
        let back = self.truncate(base);
        self.logits = logits;
        let log_probs = scored?;
        back?;
        let mut index = 0;
        for (at, score) in log_probs.iter().enumerate() {
            if *score > log_probs[index] {
                index = at;
            }
        }
        Ok(Choice { index, log_probs })
    }

    /// Walks the trie depth first; one step for each node that has children.
    fn score(
        &mut self,
        trie: &Trie,
        base: usize,
        choices: usize,
        control: &Control,
    ) -> Result<Vec<f64>> {
        let mut scores = vec![f64::NEG_INFINITY; choices];
        let mut open = Vec::new();
        // How many forced tokens are run together; 1 once the graph has returned the logits of the last alone.
        let mut most = self.map.most_rows(base).unwrap_or(CHUNK);
        let logits = self.logits.clone();
        expand(trie, 0, 0, 0.0, &logits, &mut scores, &mut open)?;
        while let Some(Open {
            node,
            token,
            depth,
            sum,
        }) = open.pop()
        {
            self.truncate(base + depth - 1)?;
            let (mut run, mut nodes) = (vec![token], vec![node]);
            forced(trie, most, &mut run, &mut nodes);
            let mut rows = self.step_ids(&run, control)?;
            if rows.shape().get(1) != Some(&run.len()) {
                most = 1;
                self.truncate(base + depth - 1)?;
                run.truncate(1);
                nodes.truncate(1);
                rows = self.step_ids(&run, control)?;
            }
            let vocab = self.model.0.spec.vocab;
            let mut sum = sum;
            for (at, node) in nodes.iter().enumerate() {
                let logits = row(&rows, at, vocab)?;
                let depth = depth + at;
                if at + 1 < nodes.len() {
                    // The one child is already part of the run: score it, do not open it.
                    sum += log_probabilities(&logits, &run[at + 1..at + 2])?[0];
                    settle(trie, nodes[at + 1], depth + 1, sum, &mut scores);
                } else {
                    expand(trie, *node, depth, sum, &logits, &mut scores, &mut open)?;
                }
            }
        }
        Ok(scores)
    }
}

/// Extends a run, to at most `most` tokens, by the nodes that have one child, which has children itself.
fn forced(trie: &Trie, most: usize, run: &mut Vec<u32>, nodes: &mut Vec<u32>) {
    let Some(mut node) = nodes.last().copied() else {
        return;
    };
    while let [(token, child)] = trie.node(node).children[..] {
        if trie.node(child).children.is_empty() || run.len() >= most {
            return;
        }
        run.push(token);
        nodes.push(child);
        node = child;
    }
}

/// Scores the children of `node`, `depth` tokens deep, by the logits after it, and opens those that have children.
fn expand(
    trie: &Trie,
    node: u32,
    depth: usize,
    sum: f64,
    logits: &[f32],
    scores: &mut [f64],
    open: &mut Vec<Open>,
) -> Result<()> {
    let children = &trie.node(node).children;
    let tokens: Vec<u32> = children.iter().map(|(token, _)| *token).collect();
    let each = log_probabilities(logits, &tokens)?;
    for ((token, child), log_prob) in children.iter().zip(each).rev() {
        let sum = sum + log_prob;
        settle(trie, *child, depth + 1, sum, scores);
        if !trie.node(*child).children.is_empty() {
            open.push(Open {
                node: *child,
                token: *token,
                depth: depth + 1,
                sum,
            });
        }
    }
    Ok(())
}

/// Notes the scores of the choices that end at `node`.
fn settle(trie: &Trie, node: u32, depth: usize, sum: f64, scores: &mut [f64]) {
    for choice in &trie.node(node).ends {
        if let Some(score) = scores.get_mut(*choice as usize) {
            *score = sum / depth as f64;
        }
    }
}

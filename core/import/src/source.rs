//! An export: its folder, its graphs and its configurations.

use atom_core::Result;

use crate::configs::Configs;
use crate::folder::Folder;
use crate::graph::Graph;
use crate::graphs::{Graphs, Wanted};

/// An export, as an import reads it.
pub(crate) struct Export<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) graphs: Graphs,
    pub(crate) configs: Configs,
    pub(crate) wanted: &'a Wanted,
}

impl Export<'_> {
    /// Reads the graph `name`, which `what` needs.
    ///
    /// # Errors
    /// As [`Graphs::need`] and [`Graph::read`].
    pub(crate) fn graph(&self, name: &str, what: &str) -> Result<Graph> {
        let shown = self.folder.shown().display().to_string();
        let chosen = self.graphs.need(name, self.wanted, &shown, what)?;
        Graph::read(self.folder, chosen)
    }

    /// As [`graph`](Self::graph), for a tower, whose vectors suffer from integers: the best form there is is read, too.
    ///
    /// # Errors
    /// As [`graph`](Self::graph).
    pub(crate) fn tower(&self, name: &str, what: &str) -> Result<Graph> {
        let shown = self.folder.shown().display().to_string();
        let chosen = self.graphs.need(name, self.wanted, &shown, what)?;
        Graph::read_tower(self.folder, chosen)
    }
}

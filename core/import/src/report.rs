//! What an import did, for people and programs.

use serde::Serialize;

/// Something that was found out, and where from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inferred {
    /// What it is about.
    pub what: String,
    /// What was found out.
    pub value: String,
    /// The file and key, or the port, that say so.
    pub from: String,
}

/// What is told about an import besides the pack itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) inferred: Vec<Inferred>,
    pub(crate) warnings: Vec<String>,
}

impl Notes {
    pub(crate) fn infer(&mut self, what: &str, value: &str, from: &str) {
        self.inferred.push(Inferred {
            what: what.to_owned(),
            value: value.to_owned(),
            from: from.to_owned(),
        });
    }

    pub(crate) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// A port of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedPort {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: String,
    /// Its dimensions: sizes, and names of those that each run decides.
    pub shape: Vec<String>,
    /// What it means, if the pack says so.
    pub role: Option<&'static str>,
}

/// A module of the pack that was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportedModule {
    /// Its name in the pack.
    pub id: String,
    /// What it does.
    pub kind: &'static str,
    /// The file its graph is from.
    pub from: String,
    /// Precision of the file that was chosen.
    pub precision: &'static str,
    /// Size of graph and weights.
    pub bytes: u64,
    /// What it reads.
    pub inputs: Vec<ReportedPort>,
    /// What it writes.
    pub outputs: Vec<ReportedPort>,
    /// How near its outputs come to those of the best precision there is, where another was chosen.
    pub cosine_to_best: Option<f64>,
}

/// What an import made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The pack's folder.
    pub pack: String,
    /// The pack's name.
    pub id: String,
    /// The tasks it serves.
    pub tasks: Vec<&'static str>,
    /// Its modules.
    pub modules: Vec<ReportedModule>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What was found out, and where from.
    pub inferred: Vec<Inferred>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

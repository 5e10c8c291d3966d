//! What `atom-bench export` reports.

use atom_core::Result;
use serde::Serialize;

use crate::stats::Spread;
use atom_cli::output::{print_line, table};

/// The whole of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub precision: String,
    pub tokens: usize,
    pub picture_rows: usize,
    pub prompt_tokens: usize,
    pub import_s: f64,
    pub question_about_stored_segment: bool,
    pub rows: Vec<Row>,
    pub caption_ids_equal: Option<bool>,
    pub question_ids_equal: Option<bool>,
    /// The time of a further question over that of the first caption, in the same process.
    pub question_over_caption: Spread,
}

/// One quantity.
#[derive(Debug, Serialize)]
pub struct Row {
    pub what: &'static str,
    pub unit: &'static str,
    pub atom: Spread,
    pub peer: Option<Spread>,
    /// Atom's over the peer's of the same round.
    pub over_peer: Option<Spread>,
}

/// Prints it for people.
///
/// # Errors
/// What printing gives.
pub fn show(report: &Report) -> Result<()> {
    let rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            let shown = |spread: &Spread| spread.show(if row.unit == "MB" { 0 } else { 1 });
            vec![
                row.what.to_owned(),
                row.unit.to_owned(),
                shown(&row.atom),
                row.peer.as_ref().map_or(String::new(), shown),
                row.over_peer.map_or(String::new(), |ratio| ratio.show(2)),
            ]
        })
        .collect();
    print_line(&table(
        &["", "", "atom", "peer", "over peer"],
        &rows,
        &[2, 3, 4],
    ))?;
    print_line(&format!(
        "  {}, {} tokens after a prompt of {}, {} of them the picture; imported in {:.1} s",
        report.precision, report.tokens, report.prompt_tokens, report.picture_rows, report.import_s
    ))?;
    let about = match report.question_about_stored_segment {
        true => "of a stored segment that was captioned before",
        false => "of a picture that is not stored: give --search to store it",
    };
    print_line(&format!(
        "  a further question takes {} of the first caption's time; it is {about}",
        report.question_over_caption.show(2)
    ))?;
    let equal = |equal: Option<bool>| match equal {
        None => "not compared",
        Some(true) => "equal",
        Some(false) => "NOT EQUAL",
    };
    print_line(&format!(
        "  token ids of caption and answer: {}, {}",
        equal(report.caption_ids_equal),
        equal(report.question_ids_equal)
    ))
}

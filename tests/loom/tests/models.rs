//! The models hold for the sources as they are, and fail for every mutation of them.

use std::process::{Command, Output};

use atom_loom::{MUTATIONS, ROOMS};

/// A model in a process of its own: what fails leaves threads in the middle of their work.
fn run(name: &str, model: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atom-loom"));
    command.args([name, model]).output().expect("it was built")
}

fn text(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn holds(room: &str) {
    let (_, models) = ROOMS
        .iter()
        .find(|(name, _)| *name == room)
        .expect("a room");
    assert!(!models.is_empty());
    for (model, _) in *models {
        let output = run(room, model);
        let said = text(&output);
        print!("{room} {said}");
        assert!(output.status.success(), "{room} {model}:\n{said}");
        assert!(said.contains(&format!("{model}: holds")), "{said}");
    }
}

#[test]
fn slot_keeps_its_promises() {
    holds("slot");
}

#[test]
fn ring_keeps_its_promises() {
    holds("ring");
}

#[test]
fn every_mutation_is_found() {
    assert!(MUTATIONS.len() > 9, "{} mutations", MUTATIONS.len());
    let mut survived = Vec::new();
    for mutation in MUTATIONS {
        let (room, model) = mutation.model.split_once("::").expect("room::model");
        let (_, models) = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .expect("a room");
        assert!(
            models.iter().any(|(name, _)| *name == model),
            "{} is no model",
            mutation.model
        );
        let output = run(mutation.name, model);
        let said = text(&output);
        if output.status.success() || !said.contains(mutation.says) {
            survived.push(format!(
                "{} under {}: {:?} expected, but:\n{said}",
                mutation.name, mutation.model, mutation.says
            ));
        }
    }
    assert!(survived.is_empty(), "{}", survived.join("\n"));
}

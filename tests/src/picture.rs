//! Crates and rooms with their imports, as a picture in Mermaid.
//!
//! An arrow is an import. One that can be left out is left out: where arrows lead from a room to another by way of a third,
//! the direct import is not drawn. So every arrow is an import of the code, and every import is an arrow or follows from them.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{Import, crates, imports, reachable};

/// The crate that is drawn room by room.
const IN_ROOMS: &str = "atom-core";
/// Not part of the product.
const LEFT_OUT: &str = "atom-tests";

/// What is drawn: each crate and room, and all it imports.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// Crates and rooms of the code.
///
/// # Panics
/// When cargo does not say which crates there are, or a source cannot be read.
pub fn graph() -> Graph {
    let crates = crates();
    let mut folders: Vec<(String, String)> = crates
        .iter()
        .map(|own| {
            let folder = own.root.parent().unwrap_or(&own.root);
            (
                own.package.clone(),
                format!("{}/", crate::source::relative(folder)),
            )
        })
        .collect();
    // The innermost folder decides.
    folders.sort_by_key(|(_, folder)| std::cmp::Reverse(folder.len()));
    let node = |file: &str| {
        let (package, folder) = folders
            .iter()
            .find(|(_, folder)| file.starts_with(folder.as_str()))?;
        if package == IN_ROOMS {
            let room = file[folder.len()..].split('/').next()?;
            // lib.rs only says which rooms there are.
            return Some(room.trim_end_matches(".rs").to_owned()).filter(|room| room != "lib");
        }
        (package != LEFT_OUT).then(|| package.clone())
    };
    of(&imports(&crates), node)
}

fn of(imports: &[Import], node: impl Fn(&str) -> Option<String>) -> Graph {
    let mut graph = Graph::new();
    for import in imports {
        let (from, to) = (node(&import.from), node(&import.to));
        if let Some(to) = &to {
            graph.entry(to.clone()).or_default();
        }
        if let Some(from) = from {
            let imported = graph.entry(from.clone()).or_default();
            imported.extend(to.filter(|to| *to != from));
        }
    }
    graph
}

fn borrowed(graph: &Graph) -> BTreeMap<&str, BTreeSet<&str>> {
    graph
        .iter()
        .map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect()))
        .collect()
}

/// The picture. A line is a room and what it imports directly; a room is drawn above everything it imports.
///
/// # Panics
/// When rooms import each other in a circle, of which there is no such picture.
pub fn draw(graph: &Graph) -> String {
    let all = borrowed(graph);
    let below: BTreeMap<&str, BTreeSet<&str>> = all
        .keys()
        .map(|room| (*room, reachable(&all, room)))
        .collect();
    let circle: Vec<&&str> = below
        .iter()
        .filter(|(room, below)| below.contains(*room))
        .map(|(room, _)| room)
        .collect();
    assert!(circle.is_empty(), "in a circle: {circle:?}");
    let mut rooms: Vec<&str> = all.keys().copied().collect();
    // What imports more is higher up, and comes before all it imports.
    rooms.sort_by_key(|room| (std::cmp::Reverse(height(&all, room)), *room));
    let line = |room: &&str| {
        let direct: Vec<&str> = all[room]
            .iter()
            .copied()
            .filter(|to| !all[room].iter().any(|by| below[by].contains(to)))
            .collect();
        if direct.is_empty() {
            (*room).to_owned()
        } else {
            format!("{room} --> {}", direct.join(" & "))
        }
    };
    let (crates, inside): (Vec<&str>, Vec<&str>) =
        rooms.iter().partition(|room| room.starts_with("atom-"));
    let mut picture = "flowchart TD\n".to_owned();
    for line in crates.iter().map(line) {
        picture += &format!("  {line}\n");
    }
    picture += &format!("  subgraph {IN_ROOMS}\n");
    for line in inside.iter().map(line) {
        picture += &format!("    {line}\n");
    }
    picture + "  end\n"
}

/// Imports from `room` down to what imports nothing, at most.
fn height(graph: &BTreeMap<&str, BTreeSet<&str>>, room: &str) -> usize {
    let below = graph[room].iter().map(|to| height(graph, to) + 1);
    below.max().unwrap_or(0)
}

/// The crates and rooms of a picture and all that follows from its arrows, read from its text; of lines that are none, an
/// error each.
pub fn read(picture: &str) -> Result<Graph, Vec<String>> {
    let mut graph = Graph::new();
    let mut wrong = Vec::new();
    for line in picture.lines().map(str::trim) {
        if line == "flowchart TD" || line == "end" || line.starts_with("subgraph ") {
            continue;
        }
        let (from, to) = line.split_once(" --> ").unwrap_or((line, ""));
        let to: Vec<&str> = to.split(" & ").filter(|to| !to.is_empty()).collect();
        let named = |room: &&str| {
            !room.is_empty()
                && room
                    .chars()
                    .all(|c| c.is_alphanumeric() || "-_".contains(c))
        };
        if !named(&from) || !to.iter().all(named) {
            wrong.push(format!("no line of a picture: {line:?}"));
            continue;
        }
        graph
            .entry(from.to_owned())
            .or_default()
            .extend(to.iter().map(|to| (*to).to_owned()));
        for to in to {
            graph.entry(to.to_owned()).or_default();
        }
    }
    if wrong.is_empty() {
        Ok(graph)
    } else {
        Err(wrong)
    }
}

/// Where a picture and the code differ; empty when it shows the code and nothing else.
pub fn differences(picture: &Graph, code: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    let drawn = borrowed(picture);
    for room in code.keys().filter(|room| !picture.contains_key(*room)) {
        found.push(format!("{room} is not in the picture"));
    }
    for room in picture.keys().filter(|room| !code.contains_key(*room)) {
        found.push(format!("{room} is in the picture and not in the code"));
    }
    let nothing = BTreeSet::new();
    for (from, to) in code {
        let follows = reachable(&drawn, from);
        for to in to.iter().filter(|to| !follows.contains(to.as_str())) {
            found.push(format!(
                "{from} imports {to}, which does not follow from the picture"
            ));
        }
    }
    for (from, to) in picture {
        for to in to.difference(code.get(from).unwrap_or(&nothing)) {
            found.push(format!(
                "the picture has {from} --> {to}, and the code does not"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
            graph.entry((*to).to_owned()).or_default();
        }
        graph
    }

    #[test]
    fn what_is_drawn_is_read_back_and_every_difference_is_seen() {
        let code = graph(&[
            ("top", "middle"),
            ("top", "ground"),
            ("middle", "ground"),
            ("atom-cli", "top"),
        ]);
        let picture = draw(&code);
        assert_eq!(
            picture,
            "flowchart TD\n  atom-cli --> top\n  subgraph atom-core\n    top --> middle\n    middle --> ground\n    \
             ground\n  end\n"
        );
        let read = read(&picture).unwrap();
        assert_eq!(differences(&read, &code), Vec::<String>::new());

        let mut more = code.clone();
        more.get_mut("ground").unwrap().insert("cellar".to_owned());
        more.insert("cellar".to_owned(), BTreeSet::new());
        assert_eq!(
            differences(&read, &more),
            [
                "cellar is not in the picture",
                "ground imports cellar, which does not follow from the picture"
            ]
        );
        // An arrow that only follows from others may not be drawn where the code has no such import.
        let mut less = code.clone();
        less.get_mut("middle").unwrap().clear();
        assert_eq!(
            differences(&read, &less),
            ["the picture has middle --> ground, and the code does not"]
        );
        assert!(super::read("flowchart TD\n  a --> b --> c\n").is_err());
    }
}

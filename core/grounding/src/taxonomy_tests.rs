use atom_core::ErrorKind;

use super::*;

/// Six classes: 0 beagle, 1 pug, 2 tabby, 3 sports car, 4 web page (a sink), 5 sparrow.
pub(crate) const SMALL: &str = r#"{
  "format":1, "sources":"by hand",
  "rules":{"mass":[[2,0.5],[3,0.65],[1000,0.8]],"broad":{"classes":2,"top":0.15},
           "possible":{"classes":2,"share":0.6},"detection":0.45,"animal":0.5,"animal_kind":0.0,
           "counts":["one","two","three","several"]},
  "classes":6,
  "labels":{"person":8,"dog":1,"car":6,"bicycle":9,"bird":11,"traffic light":13},
  "finer":{"woman":8,"women":8},
  "nodes":[
    {"id":"animal","noun":["an","animal","animals"],"flags":["animal"]},
    {"id":"dog","noun":["a","dog","dogs"],"words":["domestic dog"],"up":[0]},
    {"id":"beagle","noun":["a","beagle","beagles"],"up":[1],"class":0},
    {"id":"pug","noun":["a","pug","pugs"],"up":[1],"class":1},
    {"id":"cat","noun":["a","tabby cat","tabby cats"],"words":["cat"],"up":[0],"class":2},
    {"id":"artifact"},
    {"id":"car","noun":["a","car","cars"],"words":["automobile"],"up":[5]},
    {"id":"sports","noun":["a","sports car","sports cars"],"up":[6],"class":3},
    {"id":"person","noun":["a","person","people"],"words":["human"],"flags":["partial"]},
    {"id":"bicycle","noun":["a","bicycle","bicycles"],"words":["bike"],"up":[5]},
    {"id":"web","noun":["a","web page","web pages"],"class":4,"floor":0.75},
    {"id":"bird","noun":["a","bird","birds"],"up":[0],"flags":["bird"]},
    {"id":"sparrow","noun":["a","sparrow","sparrows"],"up":[11],"class":5},
    {"id":"light","noun":["a","traffic light","traffic lights"]}
  ]}"#;

pub(crate) fn small() -> Taxonomy {
    Taxonomy::from_bytes(SMALL.as_bytes()).unwrap()
}

fn refused(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "the test names what is there");
    let error = Taxonomy::from_bytes(SMALL.replacen(from, to, 1).as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadPack);
    error.message().to_owned()
}

#[test]
fn mass_adds_up_over_distinct_classes() {
    let taxonomy = small();
    let masses = taxonomy.masses(&[0.2, 0.3, 0.1, 0.0, 0.4, 0.0]);
    let of = |id| masses[taxonomy.by_id(id).unwrap() as usize];
    assert!((of("dog") - 0.5).abs() < 1e-6);
    assert!((of("animal") - 0.6).abs() < 1e-6);
    assert!((of("beagle") - 0.2).abs() < 1e-6);
}

#[test]
fn a_class_with_a_floor_speaks_for_itself_alone() {
    let text = SMALL.replace("\"class\":2", "\"class\":2,\"floor\":0.75");
    let taxonomy = Taxonomy::from_bytes(text.as_bytes()).unwrap();
    let masses = taxonomy.masses(&[0.1, 0.0, 0.9, 0.0, 0.0, 0.0]);
    let of = |id| masses[taxonomy.by_id(id).unwrap() as usize];
    assert!((of("cat") - 0.9).abs() < 1e-6);
    assert!((of("animal") - 0.1).abs() < 1e-6);
}

#[test]
fn words_are_found_in_singular_and_plural() {
    let taxonomy = small();
    let dog = taxonomy.by_id("dog").unwrap();
    assert_eq!(taxonomy.find("dogs"), [dog]);
    assert_eq!(taxonomy.find("domestic dogs"), [dog]);
    assert_eq!(taxonomy.find("cats"), [taxonomy.by_id("cat").unwrap()]);
    assert_eq!(taxonomy.find("people"), [taxonomy.by_id("person").unwrap()]);
    assert!(taxonomy.find("unicorn").is_empty());
}

#[test]
fn kinds_follow_the_graph() {
    let taxonomy = small();
    let id = |id| taxonomy.by_id(id).unwrap();
    assert!(taxonomy.is_a(id("beagle"), id("animal")));
    assert!(taxonomy.is_a(id("dog"), id("dog")));
    assert!(!taxonomy.is_a(id("dog"), id("beagle")));
    assert!(taxonomy.is_bird(id("sparrow")) && !taxonomy.is_bird(id("pug")));
}

#[test]
fn a_damaged_file_is_refused() {
    assert!(refused(r#""up":[1],"class":0"#, r#""up":[2],"class":0"#).contains("beagle"));
    assert!(refused(r#""class":5"#, r#""class":6"#).contains("sparrow"));
    assert!(refused(r#""a","pug""#, r#""a","""#).contains("pug"));
    assert!(refused(r#""format":1"#, r#""format":2"#).contains("format 2"));
    assert!(refused(r#""dog":1,"#, r#""dog":99,"#).contains("not there"));
    assert!(refused(r#""dog":1,"#, r#""dog":5,"#).contains("no noun"));
    assert!(refused(r#""detection":0.45"#, r#""detection":45"#).contains("0 to 1"));
    assert!(refused(r#""id":"light""#, r#""id":"light","colour":"red""#).contains("colour"));
    let near = r#""id":"light","near":[6]"#;
    assert!(refused(r#""id":"light""#, near).contains("class 6 in near"));
    let scores = |scores: &str| format!(r#""scores":{{{scores}}},"finer""#);
    assert!(refused(r#""finer""#, &scores(r#""dog":[2,0.3]"#)).contains("the scores of \"dog\""));
    assert!(refused(r#""finer""#, &scores(r#""dog":[0.3,0.5]"#)).contains("the scores of \"dog\""));
    assert!(
        refused(r#""finer""#, &scores(r#""cow":[0.5,0.3]"#)).contains("\"cow\", which is no label")
    );
    assert!(refused(r#""id":"dog""#, r#""id":"dog","part_of":8"#).contains("dog"));
    let backed = r#""detection":0.45,"backed":{"score":0.3,"mass":1.5}"#;
    assert!(refused(r#""detection":0.45"#, backed).contains("0 to 1"));
    assert_eq!(
        Taxonomy::from_bytes(&SMALL.as_bytes()[..400])
            .unwrap_err()
            .kind(),
        ErrorKind::BadPack
    );
}

#[test]
fn the_reference_taxonomy_loads_and_reads_well() {
    let bytes = include_bytes!("../../../models/reference/taxonomy.json");
    let taxonomy = Taxonomy::from_bytes(bytes).unwrap();
    assert_eq!(taxonomy.classes(), 1000);
    assert!(taxonomy.labels.len() >= 80);
    let mut said = vec![false; 1000];
    for node in &taxonomy.nodes {
        if let (Some(_), [class]) = (&node.noun, node.members.as_slice()) {
            said[*class as usize] = true;
        }
    }
    assert!(said.iter().all(|said| *said), "every class has a noun");
    let id = |id| taxonomy.by_id(id).unwrap();
    let label = |label: &str| taxonomy.labels[label];
    assert!(taxonomy.is_a(label("dog"), id("n00015388")));
    assert!(taxonomy.is_a(label("airplane"), taxonomy.find("vehicles")[0]));
    assert!(taxonomy.is_bird(label("bird")) && !taxonomy.is_bird(label("cat")));
    for word in [
        "people", "bike", "buses", "knives", "tv", "mice", "animal", "wolves", "sofa",
    ] {
        assert!(!taxonomy.find(word).is_empty(), "{word}");
    }
    for word in ["object", "whole", "artifact"] {
        assert!(taxonomy.find(word).is_empty(), "{word}");
    }
}

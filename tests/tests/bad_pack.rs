//! Packs that are wrong, each in one way: the command says what is wrong with which file and ends.

use atom_tests::damage::Pack;
use atom_tests::ort_library;
use atom_tests::refusal::{refuses, survives};

#[test]
fn whole_pack_works() {
    // Or every refusal below might be for another reason.
    let pack = Pack::copy();
    for command in [&mut pack.index(), &mut pack.caption()] {
        let done = survives("whole pack", command);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

#[test]
fn damaged_files_are_refused() {
    for file in ["eye.onnx", "eye.onnx.data"] {
        let pack = Pack::copy();
        std::fs::remove_file(pack.path().join(file)).unwrap();
        refuses("missing file", &mut pack.index(), "bad_pack", &[file]);

        let pack = Pack::copy();
        pack.damage(file, |bytes| bytes.truncate(bytes.len() / 2));
        refuses("truncated file", &mut pack.index(), "bad_pack", &[file]);

        let pack = Pack::copy();
        pack.damage(file, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        });
        refuses("one bit flipped", &mut pack.index(), "bad_pack", &[file]);

        let pack = Pack::copy();
        pack.damage(file, |bytes| bytes.push(0));
        refuses("one byte too many", &mut pack.index(), "bad_pack", &[file]);

        let pack = Pack::copy();
        pack.damage(file, Vec::clear);
        refuses("empty file", &mut pack.index(), "bad_pack", &[file]);

        let pack = Pack::copy();
        std::fs::remove_file(pack.path().join(file)).unwrap();
        std::fs::create_dir(pack.path().join(file)).unwrap();
        refuses(
            "a folder for a file",
            &mut pack.index(),
            "bad_pack",
            &[file],
        );
    }
    let pack = Pack::copy();
    pack.damage("words.json", |bytes| bytes.truncate(100));
    refuses(
        "truncated tokenizer",
        &mut pack.caption(),
        "bad_pack",
        &["words.json"],
    );
}

#[test]
fn models_broken_before_the_pack_was_made_are_refused() {
    let pack = Pack::copy();
    pack.rewrite("eye.onnx", |bytes| bytes.truncate(bytes.len() / 2));
    refuses(
        "truncated graph with a right checksum",
        &mut pack.index(),
        "bad_model",
        &["eye"],
    );

    let pack = Pack::copy();
    pack.rewrite("eye.onnx", |bytes| *bytes = b"no model at all".to_vec());
    refuses(
        "a text for a graph",
        &mut pack.index(),
        "bad_model",
        &["eye"],
    );

    let pack = Pack::copy();
    pack.rewrite("eye.onnx.data", |bytes| bytes.truncate(bytes.len() / 3));
    refuses(
        "truncated weights with a right checksum",
        &mut pack.index(),
        "bad_model",
        &["eye"],
    );

    let pack = Pack::copy();
    pack.rewrite("words.json", |bytes| *bytes = b"{}".to_vec());
    refuses(
        "a tokenizer that is none",
        &mut pack.caption(),
        "bad_pack",
        &["words.json"],
    );

    let pack = Pack::copy();
    pack.rewrite("chat.jinja", |bytes| *bytes = b"{% for m in %}".to_vec());
    refuses(
        "a template that does not parse",
        &mut pack.caption(),
        "bad_pack",
        &["chat.jinja"],
    );

    let pack = Pack::copy();
    pack.rewrite("chat.jinja", |bytes| {
        *bytes = b"{% for i in range(100000000) %}x{% endfor %}".to_vec()
    });
    refuses(
        "a template without end",
        &mut pack.caption(),
        "bad_pack",
        &["template"],
    );
}

#[test]
fn ports_that_do_not_fit_the_graph_are_refused() {
    let pack = Pack::copy();
    pack.edit("\"pixel_values\"", "\"pixels\"");
    refuses(
        "wrong input name",
        &mut pack.index(),
        "bad_model",
        &["pixels", "eye"],
    );

    let pack = Pack::copy();
    pack.edit("\"last_hidden_state\"", "\"hidden\"");
    refuses(
        "wrong output name",
        &mut pack.index(),
        "bad_model",
        &["hidden", "eye"],
    );

    let pack = Pack::copy();
    pack.edit(
        "\"image_embeds\", dtype = \"f32\", shape = [\"batch\", 48]",
        "\"image_embeds\", dtype = \"f32\", shape = [\"batch\", 47]",
    );
    refuses(
        "wrong output shape",
        &mut pack.index(),
        "bad_model",
        &["image_embeds", "47"],
    );

    let pack = Pack::copy();
    pack.edit(
        "\"image_embeds\", dtype = \"f32\", shape = [\"batch\", 48]",
        "\"image_embeds\", dtype = \"f32\", shape = [\"batch\", 48, 1]",
    );
    refuses(
        "wrong output rank",
        &mut pack.index(),
        "bad_model",
        &["image_embeds"],
    );

    let pack = Pack::copy();
    pack.edit(
        "\"pixel_values\", dtype = \"f32\"",
        "\"pixel_values\", dtype = \"f16\"",
    );
    refuses(
        "wrong element type",
        &mut pack.index(),
        "bad_pack",
        &["eye"],
    );

    let pack = Pack::copy();
    pack.edit("height = 64", "height = 65");
    refuses(
        "preprocessing of another size",
        &mut pack.index(),
        "bad_pack",
        &["eye"],
    );

    let pack = Pack::copy();
    pack.edit("layers = 5", "layers = 6");
    refuses(
        "a layer too many",
        &mut pack.caption(),
        "bad_model",
        &["mouth"],
    );

    let pack = Pack::copy();
    pack.edit("kv_heads = 2", "kv_heads = 3");
    refuses(
        "another number of heads",
        &mut pack.caption(),
        "bad_model",
        &["mouth"],
    );
}

#[test]
fn manifests_that_break_the_format_are_refused() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        (
            "unknown key",
            "schema = 1",
            "schema = 1\ncolour = \"red\"",
            &["colour"],
        ),
        (
            "unknown key of a module",
            "precision = \"fp32\"",
            "precision = \"fp32\"\nspeed = 3",
            &["speed"],
        ),
        (
            "absolute path",
            "file = \"eye.onnx\"",
            "file = \"/etc/hostname\"",
            &["/etc/hostname"],
        ),
        (
            "path out of the pack",
            "file = \"eye.onnx\"",
            "file = \"../eye.onnx\"",
            &["../eye.onnx"],
        ),
        (
            "path out and in",
            "file = \"eye.onnx\"",
            "file = \"golden/../eye.onnx\"",
            &["golden/../eye.onnx"],
        ),
        ("empty path", "file = \"eye.onnx\"", "file = \"\"", &["eye"]),
        (
            "no such module",
            "visual_encoder = \"eye\"",
            "visual_encoder = \"nose\"",
            &["nose"],
        ),
        (
            "a module of another kind",
            "visual_encoder = \"eye\"",
            "visual_encoder = \"mouth\"",
            &["mouth"],
        ),
        (
            "unknown kind",
            "kind = \"connector\"",
            "kind = \"cable\"",
            &["cable"],
        ),
        (
            "two modules of one name",
            "id = \"bridge\"",
            "id = \"eye\"",
            &["eye"],
        ),
        (
            "id of other letters",
            "id = \"foreign\"",
            "id = \"Für Élise\"",
            &["lise"],
        ),
        ("zero width", "width = 96", "width = 0", &["width"]),
        (
            "enormous width",
            "width = 96",
            "width = 4000000000",
            &["width"],
        ),
        (
            "negative height",
            "height = 64",
            "height = -64",
            &["height"],
        ),
        (
            "zero standard deviation",
            "std = [0.3,",
            "std = [0.0,",
            &["std"],
        ),
        (
            "std that is no number",
            "std = [0.3,",
            "std = [nan,",
            &["std"],
        ),
        (
            "a view larger than the frame",
            "fraction = 1.0",
            "fraction = 1.5",
            &["fraction"],
        ),
        (
            "no view",
            "views = [\n  { fit = \"stretch\", fraction = 1.0 },\n]",
            "views = []",
            &["views"],
        ),
        (
            "short checksum",
            "sha256 = \"",
            "sha256 = \"zz",
            &["sha256"],
        ),
        ("zero context", "context = 256", "context = 0", &["context"]),
        (
            "enormous layers",
            "layers = 5",
            "layers = 4000000000",
            &["layers"],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, from, to, words) in cases {
        let pack = Pack::copy();
        pack.edit(from, to);
        let tried =
            std::panic::catch_unwind(|| refuses(name, &mut pack.index(), "bad_pack", words));
        if tried.is_err() {
            wrong.push(*name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    let pack = Pack::copy();
    pack.edit("schema = 1", "schema = 2");
    refuses("newer schema", &mut pack.index(), "unsupported", &["2"]);
    for (name, text) in [
        ("no TOML", "][".to_owned()),
        ("empty", String::new()),
        ("deep", "a = ".to_owned() + &"[".repeat(100_000)),
    ] {
        let pack = Pack::copy();
        std::fs::write(pack.path().join("pack.toml"), text).unwrap();
        refuses(name, &mut pack.index(), "bad_pack", &["pack.toml"]);
    }
    let pack = Pack::copy();
    std::fs::write(pack.path().join("pack.toml"), [0xff, 0xfe, 0x00]).unwrap();
    refuses("not UTF-8", &mut pack.index(), "bad_pack", &["pack.toml"]);

    let pack = Pack::copy();
    std::fs::remove_file(pack.path().join("pack.toml")).unwrap();
    refuses(
        "no manifest",
        &mut pack.index(),
        "not_found",
        &["pack.toml"],
    );

    let pack = Pack::copy();
    std::fs::remove_dir_all(pack.path()).unwrap();
    refuses("no pack", &mut pack.index(), "not_found", &["pack"]);
}

#[test]
fn links_out_of_the_pack_are_refused() {
    let pack = Pack::copy();
    let file = pack.path().join("eye.onnx");
    let outside = pack.folder.path().join("outside.onnx");
    std::fs::rename(&file, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &file).unwrap();
    refuses(
        "a link out of the pack",
        &mut pack.index(),
        "bad_pack",
        &["eye.onnx"],
    );
}

#[test]
fn features_that_are_no_numbers_are_refused_and_not_stored() {
    let pack = Pack::copy();
    // The last matrix of the visual encoder: with NaN in it the embedding is NaN, and the graph still loads.
    pack.rewrite("eye.onnx.data", |bytes| {
        let end = bytes.len();
        bytes[end - 4096..]
            .chunks_exact_mut(4)
            .for_each(|value| value.copy_from_slice(&f32::NAN.to_le_bytes()));
    });
    refuses("NaN features", &mut pack.index(), "inference", &["eye"]);
    let runtime = atom_core::runtime::Runtime::open(&{
        let mut options = atom_core::runtime::RuntimeOptions::new(pack.path());
        options.ort_library = Some(ort_library());
        options
    })
    .unwrap();
    let store = runtime
        .open_store(
            &pack.folder.path().join("store"),
            atom_core::index::Access::ReadOnly,
        )
        .unwrap();
    for stream in store.streams().unwrap() {
        assert!(
            store.segments(stream.id, None, None).unwrap().is_empty(),
            "a segment without features was stored"
        );
    }
}

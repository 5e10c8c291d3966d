//! Links of an export: those of a Hugging Face cache are followed, others out of the folder are refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use atom_core::ErrorKind;
use atom_core::control::Control;
use atom_import::import;
use atom_tests::broken::Folder;
use atom_tests::temporary;

#[test]
fn nothing_outside_of_the_folder_is_read() {
    let outside = temporary();
    let elsewhere = outside.path().join("elsewhere.onnx");
    for file in ["onnx/vision_encoder.onnx", "config.json", "tokenizer.json"] {
        let folder = Folder::copy("smolvlm-tiny");
        fs::copy(folder.file(file), &elsewhere).unwrap();
        folder.remove(file);
        symlink(&elsewhere, folder.file(file)).unwrap();
        folder.refused(
            ErrorKind::BadModel,
            &[file, "link that leaves the folder", "elsewhere.onnx"],
        );
    }
    let folder = Folder::copy("smolvlm-tiny");
    fs::rename(folder.file("onnx"), outside.path().join("onnx")).unwrap();
    symlink(outside.path().join("onnx"), folder.file("onnx")).unwrap();
    folder.refused(
        ErrorKind::BadModel,
        &["onnx", "link that leaves the folder"],
    );
    let folder = Folder::copy("smolvlm-tiny");
    folder.remove("config.json");
    symlink("nowhere.json", folder.file("config.json")).unwrap();
    folder.refused(ErrorKind::NotFound, &["config.json", "nowhere.json"]);
    // External weights: absolute, above, and a link.
    let name = "decoder_model_merged.onnx_data";
    for (location, part) in [
        ("/tmp/atom/decoder_merged.onnx_da", "/tmp/atom/"),
        ("../model/decoder_merged.onnx_dat", ".."),
    ] {
        let location = &location[..name.len()];
        let folder = Folder::copy("smolvlm2-tiny");
        folder.patch("onnx/decoder_model_merged.onnx", name, location);
        folder.refused(ErrorKind::BadModel, &["decoder_model_merged.onnx", part]);
    }
    let folder = Folder::copy("smolvlm2-tiny");
    let side = format!("onnx/{name}");
    fs::rename(folder.file(&side), outside.path().join("data")).unwrap();
    symlink(outside.path().join("data"), folder.file(&side)).unwrap();
    folder.refused(ErrorKind::BadModel, &[name, "link that leaves the folder"]);
}

#[test]
fn a_snapshot_of_a_hugging_face_cache_is_read_through_its_links() {
    let folder = Folder::copy("smolvlm2-tiny");
    let repository = folder.all.path().join("models--org--smolvlm2");
    let snapshot = repository.join("snapshots/0123abcd");
    fs::create_dir_all(repository.join("blobs")).unwrap();
    let mut count = 0;
    let mut open = vec![PathBuf::new()];
    while let Some(under) = open.pop() {
        fs::create_dir_all(snapshot.join(&under)).unwrap();
        for entry in fs::read_dir(folder.path().join(&under)).unwrap().flatten() {
            let relative = under.join(entry.file_name());
            if entry.path().is_dir() {
                open.push(relative);
                continue;
            }
            let blob = format!("{count:064x}");
            fs::copy(entry.path(), repository.join("blobs").join(&blob)).unwrap();
            let up = "../".repeat(relative.components().count() + 1);
            symlink(format!("{up}blobs/{blob}"), snapshot.join(&relative)).unwrap();
            count += 1;
        }
    }
    let mut options = folder.options();
    options.folders = vec![snapshot.clone()];
    let report = import(&options, &Control::default()).unwrap();
    println!("{} files linked; {} bytes", count, report.bytes);
    for file in [
        "captioner/decoder_model_merged.onnx",
        "captioner/decoder_model_merged.onnx_data",
    ] {
        assert!(
            fs::symlink_metadata(options.pack.join(file))
                .unwrap()
                .is_file(),
            "{file}"
        );
    }
    fs::remove_dir_all(&options.pack).unwrap();
    // Any other link is refused, here too.
    fs::remove_file(snapshot.join("config.json")).unwrap();
    symlink(folder.file("config.json"), snapshot.join("config.json")).unwrap();
    folder.refused_with(
        &options,
        ErrorKind::BadModel,
        &["config.json", "link that leaves the folder"],
    );
}

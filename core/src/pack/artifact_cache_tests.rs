use std::thread;
use std::time::Duration;

use super::*;

fn made(cache: &ArtifactCache, name: &str, bytes: usize) -> Key {
    let key = Key(name.into());
    let made = cache.create(&key, "module", |path| {
        let io = |e: std::io::Error| Error::io(path.display(), &e);
        fs::write(path, vec![7; bytes]).map_err(io)?;
        fs::write(path.with_file_name("model_qnn.bin"), vec![9; bytes]).map_err(io)?;
        ArtifactCache::keep_placement(path, &Placement::default())
    });
    assert!(made.is_ok(), "{made:?}");
    key
}

#[test]
fn the_entries_whose_use_is_longest_ago_give_way() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let cache = ArtifactCache::with_limit(folder.path(), 50_000);
    let first = made(&cache, "first", 10_000);
    let second = made(&cache, "second", 10_000);
    // Used again, so the other one is the older.
    thread::sleep(Duration::from_millis(20));
    assert!(cache.find(&first).is_some());
    thread::sleep(Duration::from_millis(20));
    let third = made(&cache, "third", 10_000);
    let there = |key| cache.has(key);
    assert!(there(&first) && !there(&second) && there(&third));
    // One that is too large alone stays, since it is in use.
    let large = made(&cache, "large", 100_000);
    assert!(there(&large) && !there(&first) && !there(&third));
}

#[test]
fn a_flipped_byte_anywhere_in_a_compiled_entry_is_caught_at_every_load() {
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let cache = ArtifactCache::new(folder.path());
    let key = made(&cache, "entry", 300);
    assert!(cache.find_compiled(&key).is_some());
    for file in ["model.onnx", "model_qnn.bin", PLACEMENT] {
        let path = folder.path().join("entry").join(file);
        let whole = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap_or_else(|e| panic!("{e}"));
            assert!(cache.find_compiled(&key).is_none(), "{file} at {at}");
            assert!(!cache.has(&key), "{file} at {at}: still in use");
            made(&cache, "entry", 300);
        }
    }
    assert!(cache.find_compiled(&key).is_some());
}

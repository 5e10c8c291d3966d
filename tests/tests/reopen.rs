//! 100 times open, use, close, two packs in turn, in one process: nothing is left behind.

use std::ops::ControlFlow;
use std::path::Path;

use atom_core::control::{Control, TextOptions};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::Access;
use atom_core::os::smaps::process_memory;
use atom_core::runtime::{Runtime, RuntimeOptions};
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::{foreign_pack, ort_library, pack, picture, temporary};

const ROUNDS: usize = 100;
/// Rounds after which allocators and ONNX Runtime's pools have found their size.
const WARM: usize = 20;
/// What anonymous memory may grow by over the other 80 rounds: less than the smallest module of either pack held once
/// per round would be, by far (the reference pack's are 20 MB and more).
const GROWTH_MB: f64 = 12.0;

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn round(pack: &Path, folder: &Path, seed: u64) {
    let mut options = RuntimeOptions::new(pack);
    options.artifacts = Some(folder.join("artifacts"));
    options.ort_library = Some(ort_library());
    let runtime = Runtime::open(&options).unwrap();
    let path = folder.join("store");
    let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
    let (width, height) = (192, 128);
    let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
    let ingest = runtime
        .ingest(&store, &IngestOptions::new("s", format.packed_bytes()))
        .unwrap();
    for index in 0..3 {
        let pixels = picture(seed, width, height);
        ingest
            .push_wait(&Frame::packed(format, &pixels, index * 100_000_000).unwrap())
            .unwrap();
    }
    assert!(ingest.finish().unwrap().keyframes >= 1);
    let control = Control::default();
    let mut query = SearchQuery::new("a picture");
    query.min_score = Some(-1.0);
    let hits = runtime.search(&store, &query, &control).unwrap();
    let features = store.features(hits[0].segment).unwrap();
    let short = TextOptions {
        max_tokens: 8,
        ..TextOptions::default()
    };
    let mut ignore = |_: &str| ControlFlow::Continue(());
    runtime
        .caption(&[&features], &short, &control, &mut ignore)
        .unwrap();
    runtime
        .ask(
            &[&features],
            "Is there a cat?",
            &short,
            &control,
            &mut ignore,
        )
        .unwrap();
    drop((store, runtime));
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn alternating_packs_stay_flat() {
    let folders = [temporary(), temporary()];
    let packs = [pack(), foreign_pack().to_owned()];
    let mut first = None;
    for index in 0..ROUNDS {
        round(
            &packs[index % 2],
            folders[index % 2].path(),
            index as u64 + 1,
        );
        let memory = process_memory().unwrap();
        let now = (
            entries("/proc/self/task"),
            entries("/proc/self/fd"),
            memory.pss_anon as f64 / 1e6,
        );
        if index + 1 == WARM {
            first = Some(now);
        }
        if (index + 1) % 20 == 0 {
            println!(
                "after {:>3} rounds: {} threads, {} descriptors, {:.1} MB anonymous",
                index + 1,
                now.0,
                now.1,
                now.2
            );
        }
        if let Some((threads, descriptors, anonymous)) = first {
            assert_eq!(now.0, threads, "threads after round {}", index + 1);
            assert_eq!(now.1, descriptors, "descriptors after round {}", index + 1);
            assert!(
                now.2 < anonymous + GROWTH_MB,
                "{:.1} MB after {WARM} rounds, {:.1} MB after {}",
                anonymous,
                now.2,
                index + 1
            );
        }
    }
}

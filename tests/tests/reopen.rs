//! 100 times open, use, close, two packs in turn, in one process: nothing is left behind.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use atom_core::control::{Control, TextOptions};
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::Access;
use atom_core::os::smaps::process_memory;
use atom_core::runtime::Runtime;
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::{foreign_pack, likeliest_pack, picture, runtime_options, temporary};

const ROUNDS: usize = 100;
/// Rounds after which allocators and ONNX Runtime's pools have found their size.
const WARM: usize = 20;
/// What anonymous memory may grow by over the later rounds. One session kept would be 20 MB or more for the reference
/// pack; what was seen is below 0.5.
const GROWTH_MB: f64 = 2.0;

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn round(pack: &Path, folder: &Path, seed: u64) {
    let mut options = runtime_options(pack);
    options.artifacts = Some(folder.join("artifacts"));
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
        max_tokens: Some(8),
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
    // glibc gives threads heaps of their own, and what is left over in each makes the process wander between 80 and 115
    // MB over these rounds. With one heap a leak shows and nothing else does, so the rounds run in a child that has one.
    if std::env::var("MALLOC_ARENA_MAX").as_deref() != Ok("1") {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "alternating_packs_stay_flat", "--nocapture"])
            .env("MALLOC_ARENA_MAX", "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let folders = [temporary(), temporary()];
    let packs = [likeliest_pack(), foreign_pack().to_owned()];
    let mut seen = Vec::new();
    for index in 0..ROUNDS {
        round(
            &packs[index % 2],
            folders[index % 2].path(),
            index as u64 + 1,
        );
        let memory = process_memory().unwrap();
        seen.push((
            entries("/proc/self/task"),
            entries("/proc/self/fd"),
            memory.pss_anon as f64 / 1e6,
        ));
    }
    // What the allocator keeps varies from round to round and with the pack closed last; what leaks raises the least of
    // several rounds of one pack.
    for pack in 0..2 {
        let own: Vec<_> = seen.iter().skip(pack).step_by(2).collect();
        let least = |rounds: std::ops::Range<usize>| {
            own[rounds]
                .iter()
                .map(|round| round.2)
                .fold(f64::INFINITY, f64::min)
        };
        let series: Vec<String> = own.iter().map(|round| format!("{:.0}", round.2)).collect();
        println!(
            "pack {pack}: anonymous MB after each round: {}",
            series.join(" ")
        );
        let (early, late) = (
            least(WARM / 2..WARM),
            least(own.len() - WARM / 2..own.len()),
        );
        let (first, last) = (own[WARM / 2], own[own.len() - 1]);
        println!(
            "pack {pack}: threads {} then {}, descriptors {} then {}, least anonymous memory of {} rounds {early:.1} then \
             {late:.1} MB (bound: {GROWTH_MB} MB more)",
            first.0,
            last.0,
            first.1,
            last.1,
            WARM / 2
        );
        for round in &own[WARM / 2..] {
            assert_eq!(
                (round.0, round.1),
                (first.0, first.1),
                "threads and descriptors"
            );
        }
        assert!(late < early + GROWTH_MB, "{late:.1} MB after {early:.1} MB");
    }
}

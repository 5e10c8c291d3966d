//! What a caller's callback may do: use the runtime that calls it. (The C ABI lets only few calls in; capi tests those.)

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use atom_core::ErrorKind;
use atom_core::budget::pressure::Level;
use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, Store};
use atom_core::runtime::{Budget, Runtime, RuntimeOptions};
use atom_core::task::ingest::IngestOptions;
use atom_core::task::search::SearchQuery;
use atom_tests::{foreign_pack, ort_library, picture, temporary};

const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;

fn caption(
    runtime: &Runtime,
    features: &Features,
    mut on_text: impl FnMut(),
) -> Result<String, atom_core::Error> {
    let mut on_text = |_: &str| {
        on_text();
        ControlFlow::Continue(())
    };
    let options = TextOptions::default();
    let said = runtime.caption(&[features], &options, &Control::default(), &mut on_text)?;
    Ok(said.text)
}

/// Everything a program may think of amid a caption.
fn use_it(runtime: &Runtime, store: &Store, features: &Features, expected: &str) {
    let hits = runtime
        .search(store, &SearchQuery::new("a thing"), &Control::default())
        .unwrap();
    drop(hits);
    // Another generation on the session that this one uses.
    assert_eq!(caption(runtime, features, || {}).unwrap(), expected);
    runtime.trim(Level::Low);
    runtime.trim(Level::Critical);
    assert!(runtime.status().is_ok());
    runtime.prefixes().clear();
    runtime.set_budget(Budget::Bytes(1)).unwrap();
    let refused = caption(runtime, features, || {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfBudget, "{refused}");
    runtime.set_budget(Budget::Share(0.9)).unwrap();
    runtime.events().since(0);
}

#[test]
fn amid_a_caption_everything_else_can_be_done() {
    let (done, finished) = mpsc::channel();
    let work = thread::spawn(move || {
        let folder = temporary();
        let mut options = RuntimeOptions::new(foreign_pack());
        options.artifacts = Some(folder.path().join("artifacts"));
        options.ort_library = Some(ort_library());
        let runtime = Runtime::open(&options).unwrap();
        let path = folder.path().join("store");
        let store = runtime.open_store(&path, Access::ReadWrite).unwrap();
        let size = WIDTH as usize * HEIGHT as usize * 3;
        let pixels = picture(1, WIDTH, HEIGHT);
        let format = FrameFormat::new(PixelFormat::Rgb8, WIDTH, HEIGHT);
        let frame = Frame::packed(format, &pixels, 0).unwrap();
        let indexing = runtime
            .ingest(&store, &IngestOptions::new("a", size))
            .unwrap();
        indexing.push(&frame).unwrap();
        indexing.finish().unwrap();
        let features = runtime.observe(&frame, &Control::default()).unwrap();
        let expected = caption(&runtime, &features, || {}).unwrap();
        let mut calls = 0;
        let said = caption(&runtime, &features, || {
            calls += 1;
            if calls <= 3 {
                use_it(&runtime, &store, &features, &expected);
            }
        });
        assert_eq!(said.unwrap(), expected);
        assert!(calls > 0);
        let _ = done.send(());
    });
    // A thread that panicked has hung up, one that hangs has not.
    let waited = finished.recv_timeout(Duration::from_secs(120));
    assert_ne!(waited, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    work.join().unwrap();
}

//! What is said depends on the picture.

use std::ops::ControlFlow;

use atom_core::control::{Control, TextOptions};
use atom_core::features::Features;
use atom_core::frame::{Frame, FrameFormat, PixelFormat};
use atom_core::index::{Access, NewSegment, NewStream};
use atom_core::language::TextEncoder;
use atom_core::runtime::Runtime;
use atom_media::VideoReader;
use atom_tests::{
    atom, cached, cosine, files_ending, json, pack, photos, runtime_options, temporary, video,
};

fn runtime(folder: &std::path::Path) -> Runtime {
    let mut options = runtime_options(pack());
    options.artifacts = Some(folder.join("artifacts"));
    Runtime::open(&options).unwrap()
}

fn caption(runtime: &Runtime, features: &Features) -> String {
    caption_all(runtime, &[features])
}

fn caption_all(runtime: &Runtime, features: &[&Features]) -> String {
    let mut ignore = |_: &str| ControlFlow::Continue(());
    runtime
        .caption(
            features,
            &TextOptions::default(),
            &Control::default(),
            &mut ignore,
        )
        .unwrap()
        .text
}

#[test]
fn swapped_features_swap_captions() {
    let folder = temporary();
    let path = folder.path().join("store");
    let clips = ["bikes", "bigbuckbunny", "carphone"];
    let mut index = atom();
    index
        .args(["--json", "index", "--pack"])
        .arg(pack())
        .arg("--store")
        .arg(&path);
    json(index.args(clips.map(video)));

    let runtime = runtime(folder.path());
    let store = runtime.open_store(&path, Access::ReadOnly).unwrap();
    // A segment of each clip, with what is said of it.
    let mut said = Vec::new();
    for clip in clips {
        let name = format!("{clip}.mp4");
        let stream = store.stream(&name).unwrap();
        let segment = store.segments(stream.id, None, None).unwrap().remove(0);
        let features = store.features(segment.id).unwrap();
        let text = caption(&runtime, &features);
        println!("{name}: {text}");
        said.push((name, segment, features, text));
    }
    let mut swaps = 0;
    for first in 0..said.len() {
        for second in first + 1..said.len() {
            if said[first].3 == said[second].3 {
                continue;
            }
            swaps += 1;
            // A store like the first one, but for the features of these two segments.
            let swapped = folder.path().join(format!("swapped{swaps}"));
            let copy = runtime.open_store(&swapped, Access::ReadWrite).unwrap();
            for (index, (name, segment, _, _)) in said.iter().enumerate() {
                let from = if index == first {
                    second
                } else if index == second {
                    first
                } else {
                    index
                };
                let stream = copy
                    .open_stream(&NewStream {
                        name: name.clone(),
                        ..NewStream::default()
                    })
                    .unwrap();
                copy.append(
                    stream,
                    &NewSegment {
                        start_ns: segment.start_ns,
                        end_ns: segment.end_ns,
                        keyframe_ns: segment.keyframe_ns,
                        features: &said[from].2,
                        thumbnail: &store.thumbnail(segment.id).unwrap(),
                    },
                )
                .unwrap();
            }
            drop(copy);
            for (index, (name, segment, _, text)) in said.iter().enumerate() {
                let mut command = atom();
                command
                    .args(["--json", "caption", "--pack"])
                    .arg(pack())
                    .arg("--store")
                    .arg(&swapped);
                command.args([
                    "--stream",
                    name,
                    "--at",
                    &(segment.start_ns as f64 / 1e9).to_string(),
                ]);
                let now = json(&mut command)["text"].as_str().unwrap().to_owned();
                let expected = if index == first {
                    &said[second].3
                } else if index == second {
                    &said[first].3
                } else {
                    text
                };
                println!("swap {swaps}, {name}: {now}");
                assert_eq!(&now, expected);
            }
        }
    }
    assert!(
        swaps >= 2,
        "only {swaps} pairs of clips are described differently"
    );
}

/// Photos, and frames of clips that no other test reads.
fn pictures(runtime: &Runtime) -> Vec<(String, Features)> {
    let control = Control::default();
    let folder = cached("heldout");
    let mut all = Vec::new();
    let mut files = files_ending(&folder, &[".jpg", ".jpeg"]);
    files.extend(files_ending(&cached("photos"), &[".jpg", ".png"]));
    for photo in photos(&files) {
        let format = FrameFormat::new(PixelFormat::Rgb8, photo.width, photo.height);
        let frame = Frame::packed(format, &photo.rgb, 0).unwrap();
        all.push((photo.name, runtime.observe(&frame, &control).unwrap()));
    }
    for clip in files_ending(&folder, &[".mp4"]) {
        let mut reader = VideoReader::open(&clip).unwrap();
        let length = reader.info().duration_ns;
        let name = clip.file_name().unwrap().to_string_lossy().into_owned();
        for part in 1..4 {
            let frame = reader.frame_at(length / 4 * part).unwrap();
            all.push((
                format!("{name}#{part}"),
                runtime
                    .observe(&frame.as_frame().unwrap(), &control)
                    .unwrap(),
            ));
        }
    }
    all
}

#[test]
fn captions_fit_their_own_frames_better_than_others() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let module = runtime
        .pack()
        .manifest()
        .tasks
        .search
        .as_ref()
        .unwrap()
        .text_encoder
        .clone();
    let encoder = TextEncoder::new(runtime.registry(), &module).unwrap();
    // Captions that name nothing are true of every picture: they have no right frame.
    let mut rows = Vec::new();
    let mut silent = 0;
    for (name, features) in pictures(&runtime) {
        let text = caption(&runtime, &features);
        println!("{name}: {text}");
        if text.to_lowercase().contains("nothing i can name") {
            silent += 1;
            continue;
        }
        let vector = encoder.encode(&text, &Control::default()).unwrap();
        rows.push((vector, features.embedding));
    }
    assert!(
        rows.len() >= 6,
        "only {} captions name anything",
        rows.len()
    );
    let (mut right, mut shuffled, mut better, mut pairs) = (0.0, 0.0, 0, 0);
    for (index, (text, own)) in rows.iter().enumerate() {
        let fit = cosine(text, own);
        right += fit;
        for (other, (_, picture)) in rows.iter().enumerate() {
            if other != index {
                let wrong = cosine(text, picture);
                shuffled += wrong;
                pairs += 1;
                better += usize::from(fit > wrong);
            }
        }
    }
    let (right, shuffled) = (right / rows.len() as f64, shuffled / f64::from(pairs));
    println!(
        "{} captions that name something, {silent} that do not; cosine with their own frame {right:.3}, with others \
         {shuffled:.3}; own frame preferred in {better} of {pairs} comparisons",
        rows.len()
    );
    assert!(right > shuffled + 0.05, "{right} against {shuffled}");
    assert!(better * 3 > usize::try_from(pairs).unwrap_or(0) * 2);
}

/// Keyframes of two clips, as if one followed the other: what is told of time follows their order.
#[test]
fn what_comes_and_goes_is_told_in_order() {
    let folder = temporary();
    let runtime = runtime(folder.path());
    let control = Control::default();
    let observe = |clip: &str, seconds: [f64; 2]| {
        let mut reader = VideoReader::open(video(clip)).unwrap();
        seconds.map(|at| {
            let frame = reader.frame_at((at * 1e9) as i64).unwrap();
            runtime
                .observe(&frame.as_frame().unwrap(), &control)
                .unwrap()
        })
    };
    let talking = observe("carphone", [1.0, 3.0]);
    let rabbit = observe("bigbuckbunny", [2.4, 4.0]);
    let forth = caption_all(
        &runtime,
        &[&talking[0], &talking[1], &rabbit[0], &rabbit[1]],
    );
    let back = caption_all(
        &runtime,
        &[&rabbit[0], &rabbit[1], &talking[0], &talking[1]],
    );
    println!("{forth} / {back}");
    let at = |text: &str, word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
    assert!(at(&forth, "irst") < at(&forth, "person"));
    assert!(at(&forth, "person") < at(&forth, ", then "));
    assert!(at(&forth, ", then ") < at(&forth, "animal"));
    assert!(at(&back, "animal") < at(&back, ", then "));
    assert!(at(&back, ", then ") < at(&back, "person"));
    // Two keyframes that differ are not enough to tell a change from a mistake.
    let unclear = caption_all(&runtime, &[&talking[0], &rabbit[0]]);
    assert!(
        !unclear.contains("irst") && !unclear.contains("then"),
        "{unclear}"
    );
}

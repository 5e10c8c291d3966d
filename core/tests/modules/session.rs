//! Sessions and tensors.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use atom_core::control::CancelToken;
use atom_core::ort::{
    DType, Dim, GraphForm, RunArgs, Session, SessionConfig, Target, Tensor, Threads,
};
use atom_core::{ErrorKind, Result};

use crate::support::{Test, X, environment, expected_linear, fixture, kind};

fn load(model: &Path) -> Result<Session> {
    Session::load(&SessionConfig {
        environment: environment()?,
        model: model.to_owned(),
        form: GraphForm::Source,
        threads: Threads::Shared,
        profile: None,
        target: Target::default(),
        fixed: Vec::new(),
        untuned: false,
    })
}

#[test]
fn ports_run_and_placement() -> Test {
    let mut session = load(&fixture("linear.onnx"))?;
    let (input, output) = (&session.inputs()[0], &session.outputs()[0]);
    assert_eq!((input.name.as_str(), input.dtype), ("x", DType::F32));
    let batch = Dim::Symbolic("batch".into());
    assert_eq!(input.shape, [batch.clone(), Dim::Fixed(16)]);
    assert_eq!(output.shape, [batch, Dim::Fixed(24)]);
    assert!(
        session.placement().to_string().starts_with("cpu: "),
        "{}",
        session.placement()
    );
    let two_rows = [X, [0.0; 16]].concat();
    let x = Tensor::from_vec(&[2, 16], two_rows)?;
    let y = session.run(RunArgs {
        inputs: vec![("x", &x)],
        outputs: vec!["y"],
        ..RunArgs::default()
    })?;
    assert_eq!(y[0].shape(), [2, 24]);
    let rows = [expected_linear(&X), expected_linear(&[0.0; 16])].concat();
    assert_eq!(y[0].as_slice::<f32>()?, rows);
    assert_eq!(session.runs(), 1);
    // Outputs outlive their session.
    drop(session);
    assert_eq!(y[0].as_slice::<f32>()?, rows);
    Ok(())
}

/// Attention of one query of 8 over the rows of `keys` and `values`.
fn attend(q: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
    let scores: Vec<f32> = keys
        .chunks(8)
        .map(|k| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() / 8f32.sqrt())
        .map(f32::exp)
        .collect();
    let total: f32 = scores.iter().sum();
    (0..8)
        .map(|i| {
            values
                .chunks(8)
                .zip(&scores)
                .map(|(v, s)| v[i] * s / total)
                .sum()
        })
        .collect()
}

#[test]
fn one_buffer_is_past_and_present() -> Test {
    let mut session = load(&fixture("cache.onnx"))?;
    let rows = |n: usize, salt: usize| -> Vec<f32> {
        (0..n * 8)
            .map(|i| ((i * 7 + salt) % 11) as f32 / 11.0 - 0.4)
            .collect()
    };
    let mut key = Tensor::zeros(DType::F32, &[1, 1, 6, 8])?;
    let mut value = Tensor::zeros(DType::F32, &[1, 1, 6, 8])?;
    let address = key.as_slice::<f32>()?.as_ptr();
    let (k, v) = (rows(3, 1), rows(3, 2));
    let mut attended = Vec::new();
    // Two rows, then one more.
    for (from, to) in [(0, 2), (2, 3)] {
        let new = to - from;
        let tensor = |data: &[f32]| Tensor::from_vec(&[1, new, 8], data[from * 8..to * 8].to_vec());
        let (q, new_k, new_v) = (tensor(&rows(3, 3))?, tensor(&k)?, tensor(&v)?);
        let seqlens = Tensor::from_vec(&[1], vec![to as i32 - 1])?;
        let total = Tensor::from_vec(&[], vec![to as i32])?;
        let out = session.run(RunArgs {
            inputs: vec![
                ("q", &q),
                ("k", &new_k),
                ("v", &new_v),
                ("seqlens_k", &seqlens),
                ("total", &total),
            ],
            outputs: vec!["attended"],
            in_place: vec![
                ("past_key", "present_key", &mut key),
                ("past_value", "present_value", &mut value),
            ],
            ..RunArgs::default()
        })?;
        assert_eq!(out.len(), 1);
        attended = out[0].as_slice::<f32>()?.to_vec();
        // Written where they were handed in, and nothing else.
        let stored = key.as_slice::<f32>()?;
        assert_eq!(stored[..to * 8], k[..to * 8]);
        assert!(stored[to * 8..].iter().all(|&x| x == 0.0));
        assert_eq!(value.as_slice::<f32>()?[..to * 8], v[..to * 8]);
    }
    assert_eq!(key.as_slice::<f32>()?.as_ptr(), address);
    // The second run read what the first one left in the buffer.
    let expected = attend(&rows(3, 3)[16..], &k, &v);
    for (found, expected) in attended.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{attended:?} {expected:?}");
    }
    Ok(())
}

fn rounds(session: &mut Session, rounds: i64, args: RunArgs<'_>) -> Result<Vec<Tensor>> {
    let rounds = Tensor::from_vec(&[], vec![rounds])?;
    let x = Tensor::from_vec(&[4], vec![0.1f32, 0.2, 0.3, 0.4])?;
    session.run(RunArgs {
        inputs: vec![("rounds", &rounds), ("x", &x)],
        outputs: vec!["y"],
        cancel: args.cancel,
        deadline: args.deadline,
        ..RunArgs::default()
    })
}

/// The graph would run for days: the test ends only if the run does.
#[test]
fn cancel_and_deadline_end_a_run_under_way() -> Test {
    let mut session = load(&fixture("long.onnx"))?;
    let cancel = CancelToken::new();
    let canceller = cancel.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        canceller.cancel();
    });
    let args = RunArgs {
        cancel: Some(&cancel),
        ..RunArgs::default()
    };
    let cancelled = rounds(&mut session, i64::MAX, args);
    assert_eq!(kind(cancelled), Some(ErrorKind::Cancelled));
    assert!(thread.join().is_ok());
    let deadline = Instant::now() + Duration::from_millis(100);
    let args = RunArgs {
        deadline: Some(deadline),
        ..RunArgs::default()
    };
    let late = rounds(&mut session, i64::MAX, args);
    assert_eq!(kind(late), Some(ErrorKind::DeadlineExceeded));
    assert!(Instant::now() >= deadline);
    // Neither harms the session; a token nobody cancels and a far deadline change nothing.
    let args = RunArgs {
        cancel: Some(&CancelToken::new()),
        deadline: Some(Instant::now() + Duration::from_secs(600)),
        ..RunArgs::default()
    };
    let y = rounds(&mut session, 2, args)?;
    assert_eq!(y[0].as_slice::<f32>()?[0], 0.1f32.sin().sin());
    assert_eq!(session.runs(), 1);
    Ok(())
}

#[test]
fn wrong_arguments_are_named() -> Test {
    let mut session = load(&fixture("linear.onnx"))?;
    let x = Tensor::from_vec(&[1, 16], X.to_vec())?;
    let ints = Tensor::from_vec(&[1, 16], vec![0i64; 16])?;
    type Inputs<'a> = Vec<(&'a str, &'a Tensor)>;
    let cases: [(Inputs<'_>, Vec<&str>, &str); 7] = [
        (vec![("x", &x), ("z", &x)], vec!["y"], "no input \"z\""),
        (vec![], vec!["y"], "input \"x\" is missing"),
        (
            vec![("x", &x), ("x", &x)],
            vec!["y"],
            "input \"x\" is given twice",
        ),
        (vec![("x", &ints)], vec!["y"], "takes f32, not i64"),
        (vec![("x", &x)], vec!["z"], "no output \"z\""),
        (vec![("x", &x)], vec!["y", "y"], "asked for twice"),
        (vec![("x", &x)], vec![], "no output is asked for"),
    ];
    for (inputs, outputs, says) in cases {
        let result = session.run(RunArgs {
            inputs,
            outputs,
            ..RunArgs::default()
        });
        let error = result.err().ok_or(says)?;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(
            error.message().contains(says),
            "{error} should say {says:?}"
        );
    }
    let narrow = Tensor::from_vec(&[1, 3], vec![0f32; 3])?;
    let result = session.run(RunArgs {
        inputs: vec![("x", &narrow)],
        outputs: vec!["y"],
        ..RunArgs::default()
    });
    assert_eq!(kind(result), Some(ErrorKind::Inference));
    assert_eq!(session.runs(), 0);
    Ok(())
}

#[test]
fn bad_models_are_errors() -> Test {
    let dir = tempfile::tempdir()?;
    let model = dir.path().join("linear.onnx");
    let data = dir.path().join("linear.onnx.data");
    let good = fs::read(fixture("linear.onnx"))?;
    let weights = fs::read(fixture("linear.onnx.data"))?;
    assert_eq!(kind(load(&model)), Some(ErrorKind::NotFound));
    let mut flipped = good.clone();
    for byte in flipped.iter_mut().skip(20).step_by(3) {
        *byte ^= 0x55;
    }
    type Case<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);
    let cases: [Case<'_>; 5] = [
        ("empty", b"", Some(&weights)),
        ("no graph", b"not a model at all", Some(&weights)),
        ("truncated", &good[..good.len() / 2], Some(&weights)),
        ("flipped bits", &flipped, Some(&weights)),
        ("weights missing", &good, None),
    ];
    for (name, graph, weights) in cases {
        fs::write(&model, graph)?;
        let _ = fs::remove_file(&data);
        if let Some(weights) = weights {
            fs::write(&data, weights)?;
        }
        assert_eq!(kind(load(&model)), Some(ErrorKind::BadModel), "{name}");
    }
    // Shorter than the graph says: an error at the load and not a fault at the first run.
    fs::write(&model, &good)?;
    fs::write(&data, &weights[..100])?;
    assert_eq!(
        kind(load(&model)),
        Some(ErrorKind::BadModel),
        "weights truncated"
    );
    fs::write(&data, &weights)?;
    fs::copy(fixture("beyond.onnx"), &model)?;
    assert_eq!(
        kind(load(&model)),
        Some(ErrorKind::BadModel),
        "weights beyond the end"
    );
    // The name ../tiny/linear.onnx.data leads to a file, but not to one beside the graph.
    fs::create_dir(dir.path().join("tiny"))?;
    fs::create_dir(dir.path().join("pack"))?;
    fs::copy(
        fixture("linear.onnx.data"),
        dir.path().join("tiny/linear.onnx.data"),
    )?;
    let outside = dir.path().join("pack/outside.onnx");
    fs::copy(fixture("outside.onnx"), &outside)?;
    assert_eq!(
        kind(load(&outside)),
        Some(ErrorKind::BadModel),
        "weights outside"
    );
    assert_eq!(
        kind(load(&fixture("words.onnx"))),
        Some(ErrorKind::Unsupported)
    );
    fs::write(&model, &good)?;
    assert!(load(&model).is_ok());
    Ok(())
}

#[test]
fn tensors() -> Test {
    environment()?;
    let mut tensor = Tensor::from_vec(&[2, 3], vec![1i32, 2, 3, 4, 5, 6])?;
    tensor.as_mut_slice::<i32>()?[5] = 60;
    assert_eq!(tensor.as_slice::<i32>()?, [1, 2, 3, 4, 5, 60]);
    assert_eq!((tensor.bytes(), tensor.shape()), (24, vec![2, 3]));
    assert_eq!(
        kind(tensor.as_slice::<f32>()),
        Some(ErrorKind::InvalidArgument)
    );
    assert_eq!(
        kind(Tensor::from_vec(&[2, 3], vec![0f32; 5])),
        Some(ErrorKind::InvalidArgument)
    );
    let empty = Tensor::zeros(DType::F16, &[1, 3, 0, 64])?;
    assert!(empty.as_slice::<half::f16>()?.is_empty());
    assert!(
        Tensor::from_vec(&[0], Vec::<f32>::new())?
            .as_slice::<f32>()?
            .is_empty()
    );
    let flags = Tensor::from_bytes(DType::Bool, &[2], &[1, 0])?;
    assert_eq!(flags.as_slice::<u8>()?, [1, 0]);
    let bytes = Tensor::from_bytes(DType::F32, &[2], &[0, 0, 128, 63, 0, 0, 0, 64])?;
    assert_eq!(bytes.as_slice::<f32>()?, [1.0, 2.0]);
    for shape in [&[usize::MAX, 2][..], &[usize::MAX]] {
        assert_eq!(
            kind(Tensor::zeros(DType::F32, shape)),
            Some(ErrorKind::InvalidArgument)
        );
    }
    Ok(())
}

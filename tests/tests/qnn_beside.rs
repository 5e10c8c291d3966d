//! QNN in a process changes nothing for the modules that it does not serve. The only test of its binary: before its own load
//! nobody may have used QNN.

use std::path::PathBuf;

use atom_core::control::Control;
use atom_core::ort::{DType, RunArgs, Tensor};
use atom_core::pack::ModuleKind;
use atom_core::runtime::{MemoryOptions, Runtime, RuntimeOptions};
use atom_tests::npu::emulator;
use atom_tests::{cached, ort_library, pack, temporary};

fn open(pack: PathBuf, artifacts: PathBuf) -> Runtime {
    let mut options = RuntimeOptions::new(pack);
    options.ort_library = Some(ort_library());
    options.artifacts = Some(artifacts);
    // What is loaded stays, whatever else the machine does.
    options.memory = MemoryOptions::ungoverned();
    Runtime::open(&options).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    match tensor.dtype() {
        DType::F32 => {
            let values = tensor.as_slice::<f32>().unwrap();
            values.iter().map(|v| u64::from(v.to_bits())).collect()
        }
        DType::I64 => {
            let values = tensor.as_slice::<i64>().unwrap();
            values.iter().map(|v| *v as u64).collect()
        }
        other => panic!("an output of {other}"),
    }
}

/// What a module is, where it ran, and every bit it made of its golden input.
#[derive(Debug, PartialEq)]
struct Ran {
    module: String,
    placement: Option<String>,
    provider: &'static str,
    outputs: Vec<Vec<u64>>,
}

/// Loads every module but the decoder, whose outputs are those of a cache: of that the golden cosine must do.
fn run_all(runtime: &Runtime) -> (Vec<Ran>, Vec<f64>) {
    let registry = runtime.registry();
    let modules = runtime.pack().manifest().modules.iter();
    let modules = modules.filter(|module| module.kind != ModuleKind::LanguageDecoder);
    let mut all = Vec::new();
    for spec in modules {
        let lease = registry.lease(&spec.id).unwrap();
        let golden = spec.golden.as_ref().unwrap();
        let inputs: Vec<(&str, Tensor)> = golden
            .inputs
            .iter()
            .map(|port| {
                let dtype = spec.input(&port.port).unwrap().dtype;
                let bytes = runtime.pack().read(&port.file).unwrap();
                let tensor = Tensor::from_bytes(dtype, &port.shape, &bytes).unwrap();
                (port.port.as_str(), tensor)
            })
            .collect();
        let made = lease
            .step(&Control::default())
            .unwrap()
            .run(RunArgs {
                inputs: inputs.iter().map(|(name, of)| (*name, of)).collect(),
                outputs: spec.outputs.iter().map(|port| port.name.as_str()).collect(),
                ..RunArgs::default()
            })
            .unwrap();
        let status = registry.status();
        let status = status.iter().find(|status| status.id == spec.id).unwrap();
        all.push(Ran {
            module: spec.id.clone(),
            placement: status.placement.clone(),
            provider: lease.provider(),
            outputs: made.iter().map(bits).collect(),
        });
    }
    let golden = registry.golden().unwrap();
    let golden = golden.iter().map(|report| report.cosine).collect();
    for module in &runtime.pack().manifest().modules {
        assert!(registry.release_idle(&module.id).unwrap(), "{}", module.id);
    }
    (all, golden)
}

#[test]
fn with_qnn_active_the_processor_computes_what_it_did() {
    if emulator().is_none() {
        return;
    }
    let folder = temporary();
    let reference = open(pack(), folder.path().join("artifacts"));
    let (before, golden_before) = run_all(&reference);
    assert!(before.len() >= 5 && before.iter().all(|ran| !ran.outputs.is_empty()));

    let npu = open(
        cached("packs/reference-npu"),
        folder.path().join("artifacts"),
    );
    let lease = npu.registry().lease("visual-encoder").unwrap();
    assert_eq!(lease.provider(), "qnn");
    let own = npu.registry().status();
    assert!(
        own[0].placement.as_ref().unwrap().starts_with("qnn"),
        "{own:?}"
    );

    let (after, golden_after) = run_all(&reference);
    for (was, is) in before.iter().zip(&after) {
        let values: usize = is.outputs.iter().map(Vec::len).sum();
        println!("{}: {:?}, {values} values", is.module, is.placement);
        assert_eq!(is.provider, "cpu", "{}", is.module);
        let placement = is.placement.as_ref().unwrap();
        assert!(
            placement.starts_with("cpu") && !placement.contains(','),
            "{placement}"
        );
        assert_eq!(was, is, "{}", is.module);
    }
    assert_eq!(golden_before, golden_after);
    // The other modules of the pack that has QNN, too.
    let text = npu.registry().lease("text-encoder").unwrap();
    assert_eq!(text.provider(), "cpu");
    assert_eq!(lease.provider(), "qnn");
}

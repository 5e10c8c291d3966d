//! An ONNX file: described, rewritten and written again, or refused.

#![no_main]

use atom_core::onnx::{DecoderGraph, LayerCache, Model, Observe, Observed, Rewrite, Rows};
use atom_core::{Error, ErrorKind, Result};
use atom_fuzz::{is_an_answer, shown};
use libfuzzer_sys::fuzz_target;

/// Makes up what a run would show: any model's tensors can be anything.
struct MadeUp(u64);

impl MadeUp {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

impl Observe for MadeUp {
    fn observe(&mut self, _: &Model, rows: Rows, wanted: &[&str]) -> Result<Vec<Observed>> {
        if self.below(8) == 0 {
            return Err(Error::new(ErrorKind::Inference, "made up"));
        }
        let tensors = wanted.iter().map(|_| {
            let sizes = [1, rows.new, rows.new + rows.past, 0, 4, 8];
            let shape: Vec<usize> = (0..self.below(5))
                .map(|_| sizes[self.below(6) as usize])
                .collect();
            let values = (0..shape.iter().product()).map(|_| match self.below(4) {
                0 => 0.0,
                1 => f32::NEG_INFINITY,
                _ => self.below(1000) as f32 / 500.0 - 1.0,
            });
            Observed {
                values: values.collect(),
                shape,
            }
        });
        Ok(tensors.collect())
    }
}

fn decoder() -> DecoderGraph {
    let layer = |layer: usize| LayerCache {
        past: ["key", "value"].map(|kind| format!("past_key_values.{layer}.{kind}")),
        present: ["key", "value"].map(|kind| format!("present.{layer}.{kind}")),
    };
    DecoderGraph {
        attention_mask: "attention_mask".to_owned(),
        position_ids: Some("position_ids".to_owned()),
        layers: (0..2).map(layer).collect(),
        kv_heads: 1,
        head_dim: 8,
        context: 512,
    }
}

fn accept<T>(result: Result<T>) -> Option<T> {
    let kinds = [
        ErrorKind::BadModel,
        ErrorKind::Unsupported,
        ErrorKind::NotFound,
        ErrorKind::Inference,
        ErrorKind::InvalidArgument,
    ];
    result.inspect_err(|error| is_an_answer(error, &kinds)).ok()
}

fuzz_target!(init: atom_fuzz::seeds::write("onnx"), |input: &[u8]| {
    shown(|| {
        let Some(model) = accept(Model::parse(input.to_vec())) else {
            return;
        };
        let Some(summary) = accept(model.inspect()) else {
            return;
        };
        accept(model.external_files());
        let inputs: Vec<&str> = summary
            .inputs
            .iter()
            .map(|port| port.name.as_str())
            .collect();
        let outputs: Vec<&str> = summary
            .outputs
            .iter()
            .map(|port| port.name.as_str())
            .collect();
        for name in &inputs {
            let _ = model.lookup_of(name);
        }
        accept(model.extract(&inputs, &outputs));
        let mut other = model.clone();
        accept(other.fuse_gelu());
        for name in &outputs {
            accept(other.keep_last_logits(name));
        }
        other.split_matmul();
        let seed = input.iter().fold(7, |sum: u64, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        let mut made_up = MadeUp(seed);
        for rewrite in [
            other.fuse_attention(&mut made_up),
            other.share_cache(&decoder(), &mut made_up),
        ] {
            if let Some(Rewrite::Done { model, .. }) = accept(rewrite) {
                let written = accept(model.to_vec()).unwrap_or_default();
                assert_eq!(accept(Model::parse(written)).as_ref(), Some(&*model));
            }
        }
    });
});

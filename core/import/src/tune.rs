//! Rewrites the graphs of a new pack to faster operators, where that is seen to change nothing.

use atom_core::Result;
use atom_core::control::Control;
use atom_core::pack::Pack;

use crate::made::copy;
use crate::place::Site;
use crate::plan::Plan;
use crate::prove::{Proof, keep_last_row};
use crate::report::Notes;
use crate::rewrite::{self, Rewritten};

/// Rewrites what it can of the pack in `site`, whose manifest is there and whose modules were run for `proof`.
///
/// # Errors
/// What reading, running and writing give; a cancelled import.
pub(crate) fn run(
    plan: &mut Plan,
    site: &mut Site,
    proof: &mut Proof,
    control: &Control,
    notes: &mut Notes,
) -> Result<()> {
    let pack = Pack::open(&site.dir)?;
    for module in &mut plan.modules {
        control.check()?;
        let path = site.dir.join(&module.source.target);
        let shown = module.source.shown.clone();
        let rewritten = match (module.kind, &pack.module(module.id)?.decoder) {
            (_, Some(spec)) => rewrite::decoder(&path, spec)?,
            // A text tower's mask may have zeros, which the made-up inputs do not have.
            ("visual-encoder" | "encoder", None) => {
                let inputs = proof.inputs.get(module.id);
                let inputs = || {
                    let tensors = inputs.into_iter().flatten();
                    tensors
                        .map(|(name, tensor)| Ok((name.clone(), copy(tensor)?)))
                        .collect()
                };
                rewrite::tower(&path, &inputs)?
            }
            _ => Rewritten::default(),
        };
        if rewritten.shares_cache
            && let Some(decoder) = &mut module.decoder
        {
            decoder.shared = true;
        }
        if rewritten.last_logits
            && let Some(golden) = proof.goldens.get_mut(module.id)
        {
            keep_last_row(golden, site)?;
        }
        let what = format!("graph of {}", module.id);
        if !rewritten.done.is_empty() {
            site.changed(&module.source.target)?;
            notes.infer(
                &what,
                &format!("rewritten: {}", rewritten.done.join("; ")),
                &shown,
            );
        }
        for left in &rewritten.left {
            notes.infer(&what, &format!("left: {left}"), &shown);
        }
    }
    Ok(())
}

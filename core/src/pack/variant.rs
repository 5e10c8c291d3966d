//! The forms of a module: its own, and variants with other graphs for some providers.

use std::iter;

use super::file_ref::FileRef;
use super::spec::{ModuleSpec, Provider, VariantSpec};
use crate::ort::Dim;

impl VariantSpec {
    /// The files a session is made from.
    pub fn weights(&self) -> impl Iterator<Item = &FileRef> {
        iter::once(&self.model).chain(&self.data)
    }
}

impl ModuleSpec {
    /// Which variant `provider` runs: the first for it; `None`: the module's own form.
    pub fn variant_for(&self, provider: Provider) -> Option<usize> {
        let for_it = |variant: &VariantSpec| variant.providers.contains(&provider);
        self.variants.iter().position(for_it)
    }

    /// Which form has the hash `hash`, if one has: `Some(None)` for the module's own.
    pub fn variant_of(&self, hash: &[u8; 32]) -> Option<Option<usize>> {
        let mut all = iter::once(None).chain((0..self.variants.len()).map(Some));
        all.find(|at| self.variant(*at).hash == *hash)
    }

    /// The module with the graph, weights and shapes of `variant`; as it is for `None`.
    pub fn as_variant(&self, variant: Option<usize>) -> Self {
        let mut spec = self.clone();
        let Some(variant) = variant.and_then(|at| self.variants.get(at)) else {
            return spec;
        };
        spec.model = variant.model.clone();
        spec.data = variant.data.clone();
        spec.precision = variant.precision;
        spec.fixed = variant.fixed.clone();
        if let Some(golden) = &variant.golden {
            spec.golden = Some(golden.clone());
        }
        for port in spec.inputs.iter_mut().chain(&mut spec.outputs) {
            for dim in &mut port.shape {
                if let Dim::Symbolic(name) = dim
                    && let Some(&size) = variant.fixed.get(name)
                {
                    *dim = Dim::Fixed(size);
                }
            }
        }
        spec
    }
}

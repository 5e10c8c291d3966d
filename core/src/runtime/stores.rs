//! Opening stores: what a pack says of what it makes, in the words of the index.

use std::path::Path;

use super::Runtime;
use crate::error::Result;
use crate::index::{Access, Earlier, Identity, Provenance, Store, StoreOptions};

impl Runtime {
    /// Opens the store in folder `path`; with [`Access::ReadWrite`] it is made if absent.
    ///
    /// # Errors
    /// [`ErrorKind::StoreForeign`](crate::ErrorKind::StoreForeign) when another encoder made its vectors, and what [`Store::open`] reports.
    pub fn open_store(&self, path: &Path, access: Access) -> Result<Store> {
        Store::open(path, &self.store_options(access)?)
    }

    /// How a store of this pack is opened.
    fn store_options(&self, access: Access) -> Result<StoreOptions> {
        let manifest = self.pack().manifest();
        let made_by = manifest.index_identity()?;
        let identity = Identity {
            hash: made_by.embedding.finish().0,
            dim: made_by.dim,
            description: made_by.description,
        };
        let earlier = manifest.legacy_identity()?.map(|legacy| Earlier {
            identity: legacy.store.0,
            forms: {
                let forms = legacy.forms.iter().zip(&made_by.forms);
                forms.map(|(old, new)| (old.0, new.hash)).collect()
            },
            captions: {
                let old = legacy.captions.map(|maker| maker.to_string());
                let captioner = self.0.captioner.as_ref();
                let new = captioner.map(|captioner| captioner.identity().to_string());
                old.zip(new).into_iter().collect()
            },
        });
        Ok(StoreOptions {
            provenance: Provenance {
                encoding: made_by.embedding.bytes(),
                forms: made_by.forms,
                features: made_by.features,
                remakes_maps: manifest.remakes_rows(),
                earlier,
            },
            ..StoreOptions::new(identity, access)
        })
    }
}

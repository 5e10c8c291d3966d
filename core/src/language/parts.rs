//! The parts that a prompt is put together of.

use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;

/// A part of a prompt.
pub enum Part<'a> {
    /// Tokens.
    Ids(&'a [u32]),
    /// Tokens with rows of input embeddings in place of each `marker`, in order. There are as many rows as markers.
    Marked {
        /// The tokens.
        ids: &'a [u32],
        /// The token in whose place rows stand.
        marker: u32,
        /// A hash of all that the rows depend on.
        identity: [u8; 32],
        /// Makes the rows, if they are needed.
        make: &'a dyn Fn() -> Result<FeatureMap>,
    },
    /// Rows of input embeddings, made only if they are needed.
    Rows {
        /// A hash of all they depend on.
        identity: [u8; 32],
        /// The token in whose place they stand, if any.
        stands_for: Option<u32>,
        /// Makes them.
        make: &'a dyn Fn() -> Result<FeatureMap>,
    },
}

/// A part as it is fed.
pub(super) enum Fed<'a> {
    Ids(&'a [u32]),
    Rows(Option<u32>, FeatureMap),
    /// As many rows as markers.
    Marked(&'a [u32], u32, FeatureMap),
}

impl<'a> Fed<'a> {
    pub(super) fn marked(ids: &'a [u32], marker: u32, map: FeatureMap) -> Result<Self> {
        let markers = ids.iter().filter(|id| **id == marker).count();
        if markers != map.rows || map.rows.checked_mul(map.dim) != Some(map.data.len()) {
            let what = format!(
                "the prompt has {markers} places for rows of features, but there are {} rows",
                map.rows
            );
            return Err(Error::new(ErrorKind::BadPack, what).remedy(
                "captioner.files.image_prompt must write the image token once for each row of a picture",
            ));
        }
        Ok(Self::Marked(ids, marker, map))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ids(ids) | Self::Marked(ids, ..) => ids.len(),
            Self::Rows(_, map) => map.rows,
        }
    }
}

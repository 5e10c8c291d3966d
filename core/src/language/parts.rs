//! The parts that a prompt is put together of, and how they are fed to a decoder.

use super::generation::Generation;
use super::past::Past;
use crate::control::Control;
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

impl Generation {
    /// Feeds `parts` as one.
    pub(super) fn feed_parts(&mut self, parts: &[Fed<'_>], control: &Control) -> Result<()> {
        if parts.iter().all(|part| matches!(part, Fed::Ids(_))) {
            let ids: Vec<u32> = parts
                .iter()
                .flat_map(|part| match part {
                    Fed::Ids(ids) => *ids,
                    _ => &[],
                })
                .copied()
                .collect();
            return self.feed(&ids, control);
        }
        let (mut values, mut past) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Fed::Ids(ids) => {
                    values.extend(self.embed(ids, control)?);
                    past.extend(ids.iter().copied().map(Past::token));
                }
                Fed::Rows(stands_for, map) => {
                    values.extend_from_slice(&map.data);
                    let row = stands_for.map_or_else(Past::unknown, Past::row);
                    past.resize(past.len() + map.rows, row);
                }
                Fed::Marked(ids, marker, map) => {
                    values.extend(self.embed_around(ids, *marker, map, control)?);
                    past.extend(ids.iter().map(|id| match id == marker {
                        true => Past::row(*id),
                        false => Past::token(*id),
                    }));
                }
            }
        }
        self.feed_past(&values, &past, None, control)
    }

    /// The embeddings of `ids`, with the rows of `map` in place of each `marker`.
    fn embed_around(
        &self,
        ids: &[u32],
        marker: u32,
        map: &FeatureMap,
        control: &Control,
    ) -> Result<Vec<f32>> {
        if ids.iter().all(|id| *id == marker) {
            return Ok(map.data.clone());
        }
        let mut values = self.embed(ids, control)?;
        let width = values.len() / ids.len();
        if width != map.dim {
            let what = format!(
                "rows of features are {} wide, but embeddings of tokens {width}",
                map.dim
            );
            return Err(Error::new(ErrorKind::BadModel, what)
                .remedy("name the module between them in captioner.connector in pack.toml"));
        }
        let places = values.chunks_exact_mut(width).zip(ids);
        let places = places.filter(|(_, id)| **id == marker);
        for ((place, _), row) in places.zip(map.data.chunks_exact(width)) {
            place.copy_from_slice(row);
        }
        Ok(values)
    }

    /// The embeddings of `ids`.
    fn embed(&self, ids: &[u32], control: &Control) -> Result<Vec<f32>> {
        let embedding = self.embedding.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("{:?} reads token ids, not embeddings", self.model().0.id),
            )
        })?;
        embedding.rows(ids, control)?.to_f32s()
    }
}

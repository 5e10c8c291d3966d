//! How parts of a prompt are fed to a decoder.

use super::generation::Generation;
use super::parts::Fed;
use super::past::Past;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::features::FeatureMap;

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

//! Captions kept with their segments: by whoever made them, deleted with the segment.

use rusqlite::{OptionalExtension, params};

use super::sql::unsigned;
use super::store::{Store, lock};
use super::types::{Caption, SegmentId, StreamId};
use crate::error::Result;

impl Store {
    /// The caption that `maker` gave segment `id`, if it did.
    ///
    /// # Errors
    /// `NotFound` when there is no such segment.
    pub fn caption(&self, id: SegmentId, maker: &str) -> Result<Option<Caption>> {
        self.row(id)?;
        let earlier = self.0.provenance.earlier_maker(maker);
        lock(&self.0.reader).catalogue.run(|c| {
            let query = "SELECT * FROM captions WHERE segment = ?1 AND maker IN (?2, ?3)
                         ORDER BY maker = ?2 DESC LIMIT 1";
            c.prepare_cached(query)?
                .query_row(params![id.0 as i64, maker, earlier], |r| {
                    Ok(Caption {
                        text: r.get("text")?,
                        tokens: r.get("tokens")?,
                        stop_reason: r.get("stop_reason")?,
                        grounds: r.get("grounds")?,
                    })
                })
                .optional()
        })
    }

    /// The first segment of `stream`, in the order of their ids and after segment `after`, that `maker` has not
    /// captioned.
    ///
    /// # Errors
    /// `StoreCorrupt`, `Io`.
    pub fn uncaptioned(
        &self,
        stream: StreamId,
        after: Option<SegmentId>,
        maker: &str,
    ) -> Result<Option<SegmentId>> {
        let earlier = self.0.provenance.earlier_maker(maker);
        let after = after.map_or(-1, |id| id.0 as i64);
        lock(&self.0.reader).catalogue.run(|c| {
            c.prepare_cached(
                "SELECT id FROM visible WHERE stream = ?1 AND id > ?2 AND NOT EXISTS
                 (SELECT 1 FROM captions WHERE segment = visible.id AND maker IN (?3, ?4)) ORDER BY id LIMIT 1",
            )?
            .query_row(params![stream.0, after, maker, earlier], |r| {
                Ok(SegmentId(unsigned(r, "id")?))
            })
            .optional()
        })
    }

    /// Keeps the caption that `maker` (which pack and modules, which prompt) gave segment `id`, in place of its earlier
    /// one. When this returns it survives a crash of the process and a loss of power.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `DiskFull`, `Io`.
    pub fn set_caption(&self, id: SegmentId, maker: &str, caption: &Caption) -> Result<()> {
        let mut writer = self.writer()?;
        writer.catalogue.segment(id)?;
        writer.change(&self.0.layout, |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO captions(segment, maker, text, tokens, stop_reason, grounds)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    id.0 as i64,
                    maker,
                    caption.text,
                    caption.tokens,
                    caption.stop_reason,
                    caption.grounds
                ],
            )
        })?;
        Ok(())
    }
}

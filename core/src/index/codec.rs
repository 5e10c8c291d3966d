//! Features as bytes: the part of a blob behind the embedding. Little-endian, every length checked.

use crate::error::{Error, ErrorKind, Result};
use crate::features::{Detection, FeatureMap, Features};

const VERSION: u8 = 1;

/// Refuses features that must not reach a store: not finite, of the wrong length, or without direction.
pub(super) fn check(features: &Features, dim: usize) -> Result<()> {
    let bad = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
    if features.embedding.len() != dim {
        return bad(format!(
            "embedding of {} values in a store of dimension {dim}",
            features.embedding.len()
        ));
    }
    check_vector("embedding", &features.embedding)?;
    check_map(&features.map)?;
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    if !finite(&features.posteriors) {
        return bad("posteriors hold a NaN or an infinity".into());
    }
    if !features
        .detections
        .iter()
        .all(|d| d.score.is_finite() && finite(&d.bbox))
    {
        return bad("a detection holds a NaN or an infinity".into());
    }
    Ok(())
}

/// Whether `map` has a file of its own; a single vector stays with the segment's other features.
pub(super) fn apart(map: &FeatureMap) -> bool {
    map.rows > 1
}

/// Refuses rows that must not reach a store: not finite, or of another number than they say.
pub(super) fn check_map(map: &FeatureMap) -> Result<()> {
    let bad = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
    if map.rows.checked_mul(map.dim) != Some(map.data.len()) {
        return bad(format!(
            "feature map of {} x {} has {} values",
            map.rows,
            map.dim,
            map.data.len()
        ));
    }
    match map.data.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => bad("feature map holds a NaN or an infinity".into()),
    }
}

/// Refuses a vector that has no direction; returns its length.
pub(super) fn check_vector(what: &str, vector: &[f32]) -> Result<f64> {
    let norm = vector
        .iter()
        .map(|&v| f64::from(v) * f64::from(v))
        .sum::<f64>()
        .sqrt();
    if !norm.is_finite() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{what} holds a NaN or an infinity"),
        ));
    }
    // Shorter than this, the quotient by the length is no longer a number of f32.
    if norm < 1e-20 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{what} is zero, so it has no direction"),
        ));
    }
    Ok(norm)
}

pub(super) fn put_f32s(out: &mut Vec<u8>, values: &[f32]) {
    out.reserve(values.len() * 4);
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn get_f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn put_len(out: &mut Vec<u8>, len: usize) -> Result<()> {
    let len = u32::try_from(len).map_err(|_| {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("features with a part of {len} values"),
        )
    })?;
    out.extend_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Everything of `features` but the embedding, and rows that are kept apart.
pub(super) fn encode(features: &Features, out: &mut Vec<u8>) -> Result<()> {
    out.push(VERSION);
    put_len(out, features.posteriors.len())?;
    put_f32s(out, &features.posteriors);
    put_len(out, features.detections.len())?;
    for detection in &features.detections {
        out.extend_from_slice(&detection.label.to_le_bytes());
        put_f32s(out, &[detection.score]);
        put_f32s(out, &detection.bbox);
    }
    let none = FeatureMap::default();
    let map = match apart(&features.map) {
        true => &none,
        false => &features.map,
    };
    put_len(out, map.rows)?;
    put_len(out, map.dim)?;
    put_f32s(out, &map.data);
    Ok(())
}

/// The inverse of [`encode`], with the embedding given; `None` when the bytes are none of its.
pub(super) fn decode(embedding: Vec<f32>, bytes: &[u8]) -> Option<Features> {
    let mut rest = Reader(bytes);
    if rest.take(1)? != [VERSION] {
        return None;
    }
    let count = rest.len()?;
    let posteriors = rest.f32s(count)?;
    let count = rest.len()?;
    let mut detections = Vec::new();
    for _ in 0..count {
        let label = u32::from_le_bytes(rest.take(4)?.try_into().ok()?);
        let values = rest.f32s(5)?;
        detections.push(Detection {
            label,
            score: values[0],
            bbox: [values[1], values[2], values[3], values[4]],
        });
    }
    let (rows, dim) = (rest.len()?, rest.len()?);
    let data = rest.f32s(rows.checked_mul(dim)?)?;
    rest.0.is_empty().then_some(Features {
        embedding,
        posteriors,
        detections,
        map: match rows {
            0 => FeatureMap::default(),
            _ => FeatureMap::of_one(rows, dim, data),
        },
        time_ns: None,
        made_by: None,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }

    fn len(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }

    fn f32s(&mut self, count: usize) -> Option<Vec<f32>> {
        Some(get_f32s(self.take(count.checked_mul(4)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Features {
        Features {
            embedding: vec![0.6, -0.8],
            posteriors: vec![0.1, 0.9, 0.0],
            detections: vec![Detection {
                label: 7,
                score: 0.5,
                bbox: [0.0, 0.1, 0.2, 0.3],
            }],
            map: FeatureMap::of_one(1, 6, (0u8..6).map(f32::from).collect()),
            time_ns: None,
            made_by: None,
        }
    }

    #[test]
    fn round_trip_and_every_truncation() {
        let features = sample();
        let mut bytes = Vec::new();
        encode(&features, &mut bytes).unwrap();
        assert_eq!(
            decode(features.embedding.clone(), &bytes).as_ref(),
            Some(&features)
        );
        for cut in 0..bytes.len() {
            assert_eq!(decode(vec![], &bytes[..cut]), None, "cut at {cut}");
        }
        bytes.push(0);
        assert_eq!(decode(vec![], &bytes), None);
        // A length of four thousand million must not be allocated.
        assert_eq!(decode(vec![], &[VERSION, 255, 255, 255, 255]), None);
    }

    #[test]
    fn unusable_features_are_refused() {
        let refused = |change: &dyn Fn(&mut Features)| {
            let mut features = sample();
            change(&mut features);
            check(&features, 2).unwrap_err().kind()
        };
        check(&sample(), 2).unwrap();
        for kind in [
            refused(&|f| f.embedding[0] = f32::NAN),
            refused(&|f| f.embedding[1] = f32::INFINITY),
            refused(&|f| f.embedding.fill(0.0)),
            refused(&|f| f.embedding.push(0.0)),
            refused(&|f| f.posteriors[0] = f32::NAN),
            refused(&|f| f.detections[0].bbox[3] = f32::NAN),
            refused(&|f| f.map.data[5] = f32::NEG_INFINITY),
            refused(&|f| f.map.rows = 3),
        ] {
            assert_eq!(kind, ErrorKind::InvalidArgument);
        }
    }
}

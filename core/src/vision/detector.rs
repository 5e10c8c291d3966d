//! A detector's raw boxes to detections.

use crate::error::{Error, ErrorKind, Result};
use crate::features::Detection;
use crate::pack::DetectorSpec;

/// Detections kept for one frame, best first.
const MAX_DETECTIONS: usize = 100;

/// Raw outputs of a detector for one picture.
pub(super) struct Raw<'a> {
    /// x0, y0, x1, y1 in 0..=1 of the view, one after another.
    pub(super) boxes: &'a [f32],
    pub(super) scores: &'a [f32],
    pub(super) classes: &'a [i64],
}

/// Thresholds, drops the weaker of two boxes of one class that overlap, and maps `region`, the part of the frame that
/// the view showed, to the frame. Boxes outside the frame or without area are dropped.
///
/// # Errors
/// [`ErrorKind::Inference`] when a score or box is not a number, or a class has no label.
pub(super) fn detections(
    spec: &DetectorSpec,
    raw: &Raw<'_>,
    region: [f32; 4],
) -> Result<Vec<Detection>> {
    let unusable = |what: String| Error::new(ErrorKind::Inference, what);
    let count = raw.scores.len();
    if raw.classes.len() != count || raw.boxes.len() != count * 4 {
        return Err(unusable(format!(
            "{} box values, {count} scores and {} classes do not belong together",
            raw.boxes.len(),
            raw.classes.len()
        )));
    }
    let mut found = Vec::new();
    let boxes = raw.boxes.chunks_exact(4);
    for ((corners, &score), &class) in boxes.zip(raw.scores).zip(raw.classes) {
        if score.is_nan() {
            return Err(unusable("a score is not a number".into()));
        }
        if score < spec.min_score {
            continue;
        }
        let label = usize::try_from(class)
            .ok()
            .filter(|&label| label < spec.labels.len())
            .ok_or_else(|| unusable(format!("class {class} of {} labels", spec.labels.len())))?;
        if !corners.iter().all(|value| value.is_finite()) {
            return Err(unusable(format!("a box is {corners:?}")));
        }
        let [x0, y0, x1, y1] = region;
        let place = |value: f32, low: f32, high: f32| (low + value * (high - low)).clamp(0.0, 1.0);
        let bbox = [
            place(corners[0], x0, x1),
            place(corners[1], y0, y1),
            place(corners[2], x0, x1),
            place(corners[3], y0, y1),
        ];
        let detection = Detection {
            label: label as u32,
            score: score.min(1.0),
            bbox,
        };
        if detection.area() > 0.0 {
            found.push(detection);
        }
    }
    // Stable: equal scores keep the detector's order.
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in found {
        let covered = kept
            .iter()
            .any(|better| better.label == candidate.label && better.iou(&candidate) > spec.nms_iou);
        if !covered {
            kept.push(candidate);
        }
        if kept.len() == MAX_DETECTIONS {
            break;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> DetectorSpec {
        DetectorSpec {
            labels: vec!["person".into(), "bicycle".into()],
            min_score: 0.45,
            nms_iou: 0.5,
        }
    }

    const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];

    fn run(boxes: &[[f32; 4]], scores: &[f32], classes: &[i64]) -> Result<Vec<Detection>> {
        let raw = Raw {
            boxes: &boxes.concat(),
            scores,
            classes,
        };
        detections(&spec(), &raw, WHOLE)
    }

    #[test]
    fn overlapping_boxes_of_one_class_leave_the_best() {
        let a = [0.1, 0.1, 0.5, 0.5];
        let nearly_a = [0.12, 0.1, 0.5, 0.5];
        let far = [0.6, 0.6, 0.9, 0.9];
        let found = run(
            &[nearly_a, a, a, far, a],
            &[0.6, 0.9, 0.7, 0.5, 0.44],
            &[0, 0, 1, 0, 1],
        )
        .unwrap();
        let labels: Vec<_> = found.iter().map(|d| (d.label, d.score)).collect();
        assert_eq!(labels, [(0, 0.9), (1, 0.7), (0, 0.5)]);
    }

    #[test]
    fn boxes_are_mapped_from_the_view_to_the_frame() {
        // A view of the middle half across, letterboxed above and below.
        let raw = Raw {
            boxes: &[0.0, 0.25, 0.5, 0.75, 0.0, 0.0, 1.0, 0.2],
            scores: &[0.9, 0.8],
            classes: &[1, 0],
        };
        let found = detections(&spec(), &raw, [0.25, -0.5, 0.75, 1.5]).unwrap();
        // The second lies in the bar above the picture.
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].bbox, [0.25, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn nonsense_is_an_error_and_empty_boxes_are_dropped() {
        let whole = [0.0, 0.0, 1.0, 1.0];
        for (boxes, score, class) in [
            (whole, f32::NAN, 0),
            (whole, 0.9, 2),
            (whole, 0.9, -1),
            ([0.0, f32::NAN, 1.0, 1.0], 0.9, 0),
        ] {
            let error = run(&[boxes], &[score], &[class]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Inference, "{error}");
        }
        assert!(run(&[whole], &[0.9], &[]).is_err());
        assert_eq!(run(&[[0.5, 0.5, 0.5, 0.9]], &[0.9], &[0]), Ok(vec![]));
        assert_eq!(run(&[[0.9, 0.5, 0.1, 0.9]], &[0.9], &[0]), Ok(vec![]));
    }
}

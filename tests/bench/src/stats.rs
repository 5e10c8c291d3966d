//! A handful of measurements of one thing.

use serde::Serialize;

/// Median and range of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of `values`, which must not be empty; not-a-number sorts last.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: percentile(&values, 0.5),
            min: values.first().copied().unwrap_or(f64::NAN),
            max: values.last().copied().unwrap_or(f64::NAN),
        }
    }

    /// `median (min–max)`, or the one value alone.
    pub fn show(&self, decimals: usize) -> String {
        let text = |value: f64| format!("{value:.decimals$}");
        let (median, min, max) = (text(self.median), text(self.min), text(self.max));
        if min == max {
            median
        } else {
            format!("{median} ({min}–{max})")
        }
    }
}

/// The value below which the part `at` (0..=1) of `sorted` lies, interpolated; NaN for none.
pub fn percentile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = at.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_interpolate() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(spread.show(1), "2.5 (1.0–4.0)");
        assert_eq!(Spread::of([2.0]).show(1), "2.0");
        assert!(Spread::of([]).median.is_nan());
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 1.0), 3.0);
    }
}

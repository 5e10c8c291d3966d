//! Pictures of measurements, as SVG.

use std::ops::Range;
use std::path::Path;

use atom_core::{Error, ErrorKind, Result};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Told apart by colour-blind eyes too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(240, 228, 66),
    RGBColor(110, 110, 110),
];
const WIDTH: u32 = 860;
/// Lines of up to so many points show each.
const MARKED: usize = 100;

/// Of series `index`: those beyond the colours have them again, lighter.
fn colour(index: usize) -> RGBAColor {
    let again = (index / COLOURS.len()) as f64;
    COLOURS[index % COLOURS.len()].mix(0.45_f64.powf(again))
}

/// What an axis shows.
#[derive(Debug, Clone)]
pub struct Axis<'a> {
    /// Name and unit.
    pub label: &'a str,
    /// Tenfold steps of equal size; every value must then be above 0.
    pub log: bool,
}

/// Values over a quantity.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    pub title: &'a str,
    pub x: Axis<'a>,
    pub y: Axis<'a>,
    /// Name and points, in order of x.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// Name and height of what cannot be passed.
    pub limits: Vec<(String, f64)>,
}

/// Horizontal bars, one row a group.
#[derive(Debug, Clone)]
pub struct Bars<'a> {
    pub title: &'a str,
    /// Of the values; from 0.
    pub label: &'a str,
    /// Names of the rows, from the top.
    pub rows: Vec<String>,
    /// Name and a value for each row; NaN for none.
    pub series: Vec<(String, Vec<f64>)>,
    /// The values of a row one behind the other instead of one below the other.
    pub stacked: bool,
    /// Name and, for each row, a mark for what cannot be passed; NaN for none.
    pub limits: Vec<(String, Vec<f64>)>,
}

impl Lines<'_> {
    /// Draws into the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let x = Scale::over(points().map(|point| point.0), self.x.log);
        let limits = self.limits.iter().map(|(_, height)| *height);
        let y = Scale::over(points().map(|point| point.1).chain(limits), self.y.log);
        let (left, right) = (x.range.start, x.range.end);
        let shares: Vec<_> = points().map(|p| (x.place(p.0), y.place(p.1))).collect();
        let emptiest = emptiest(&shares);
        save(path, 480, |area| {
            let mut chart = ChartBuilder::on(area)
                .caption(self.title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(64)
                .build_cartesian_2d(x, y)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .x_desc(self.x.label)
                .y_desc(self.y.label)
                .label_style(("sans-serif", 13))
                .draw()?;
            for (index, (name, points)) in self.series.iter().enumerate() {
                let colour = colour(index);
                chart
                    .draw_series(LineSeries::new(
                        points.iter().copied(),
                        colour.stroke_width(2),
                    ))?
                    .label(name)
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                    });
                // So many would be a band.
                let marked = points.iter().filter(|_| points.len() <= MARKED);
                chart.draw_series(marked.map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
            for (name, height) in &self.limits {
                chart
                    .draw_series(DashedLineSeries::new(
                        [(left, *height), (right, *height)],
                        6,
                        4,
                        BLACK.stroke_width(1),
                    ))?
                    .label(name)
                    .legend(|(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(1))
                    });
            }
            legend(&mut chart, emptiest)
        })
    }
}

/// Where a legend hides the least of `points`, shares of width and height.
fn emptiest(points: &[(f64, f64)]) -> SeriesLabelPosition {
    use SeriesLabelPosition::{
        LowerLeft, LowerRight, MiddleLeft, MiddleRight, UpperLeft, UpperRight,
    };
    let places = [
        (LowerRight, 0.6, 0.0),
        (UpperRight, 0.6, 0.65),
        (UpperLeft, 0.0, 0.65),
        (LowerLeft, 0.0, 0.0),
        (MiddleLeft, 0.0, 0.33),
        (MiddleRight, 0.6, 0.33),
    ];
    let hidden = |x: f64, y: f64| {
        let inside =
            |at: &&(f64, f64)| (x..=x + 0.4).contains(&at.0) && (y..=y + 0.35).contains(&at.1);
        points.iter().filter(inside).count()
    };
    // The first of equals.
    let least = places.into_iter().min_by_key(|(_, x, y)| hidden(*x, *y));
    least.map_or(LowerRight, |(place, ..)| place)
}

impl Bars<'_> {
    /// Draws into the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let part = 0.8
            / if self.stacked {
                1
            } else {
                self.series.len().max(1)
            } as f64;
        // Rectangles, per series: from, to, upper edge.
        let mut bars: Vec<Vec<(f64, f64, f64)>> = vec![Vec::new(); self.series.len()];
        for row in 0..self.rows.len() {
            let mut at = 0.0;
            for (index, (_, values)) in self.series.iter().enumerate() {
                let Some(value) = values.get(row).copied().filter(|value| !value.is_nan()) else {
                    continue;
                };
                let start = if self.stacked { at } else { 0.0 };
                let place = if self.stacked { 0 } else { index };
                let top = row as f64 - 0.4 + place as f64 * part;
                bars[index].push((start, start + value, top));
                at += value;
            }
        }
        // Where the shorter bars are.
        let longest_of = |lower: bool| {
            let middle = self.rows.len() as f64 / 2.0;
            let half = bars
                .iter()
                .flatten()
                .filter(|bar| (bar.2 >= middle) == lower);
            half.map(|bar| bar.1).fold(0.0, f64::max)
        };
        let place = if longest_of(true) > longest_of(false) {
            SeriesLabelPosition::UpperRight
        } else {
            SeriesLabelPosition::LowerRight
        };
        let ends = bars.iter().flatten().map(|bar| bar.1);
        let limits = self.limits.iter().flat_map(|(_, values)| values).copied();
        let values = Scale::over(std::iter::once(0.0).chain(ends).chain(limits), false);
        let rows = Scale::rows(&self.rows);
        let longest = self.rows.iter().map(|row| row.chars().count()).max();
        let bars_in_row = if self.stacked { 1 } else { self.series.len() };
        let height = 110 + self.rows.len() * (16 + 22 * bars_in_row) + 20 * self.legend_lines();
        save(path, u32::try_from(height).unwrap_or(u32::MAX), |area| {
            let mut chart = ChartBuilder::on(area)
                .caption(self.title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(u32::try_from(24 + 8 * longest.unwrap_or(0)).unwrap_or(64))
                .build_cartesian_2d(values, rows)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .light_line_style(TRANSPARENT)
                .x_desc(self.label)
                .label_style(("sans-serif", 13))
                .draw()?;
            for (index, ((name, _), bars)) in self.series.iter().zip(&bars).enumerate() {
                let colour = colour(index);
                chart
                    .draw_series(bars.iter().map(|(from, to, top)| {
                        Rectangle::new([(*from, *top), (*to, top + part * 0.94)], colour.filled())
                    }))?
                    .label(name)
                    .legend(move |(x, y)| {
                        Rectangle::new([(x + 3, y - 5), (x + 15, y + 6)], colour.filled())
                    });
            }
            for (name, values) in &self.limits {
                let marks = values.iter().enumerate().filter(|(_, at)| !at.is_nan());
                chart
                    .draw_series(marks.map(|(row, at)| {
                        let row = row as f64;
                        PathElement::new(
                            [(*at, row - 0.48), (*at, row + 0.48)],
                            BLACK.stroke_width(2),
                        )
                    }))?
                    .label(name)
                    .legend(|(x, y)| {
                        PathElement::new([(x + 9, y - 6), (x + 9, y + 6)], BLACK.stroke_width(2))
                    });
            }
            legend(&mut chart, place)
        })
    }

    fn legend_lines(&self) -> usize {
        // The legend stands in the picture, over the free ends of the upper or the lower rows at best: room for half of it is enough.
        (self.series.len() + self.limits.len()).div_ceil(2)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn legend<'a, 'b: 'a>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<Scale, Scale>>,
    place: SeriesLabelPosition,
) -> Drawn {
    chart
        .configure_series_labels()
        .position(place)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

fn save(path: &Path, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<()> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)
            .map_err(|error| error.to_string())
            .and_then(|()| draw(&area).map_err(|error| error.to_string()))
            .and_then(|()| area.present().map_err(|error| error.to_string()))
            .map_err(|error| Error::new(ErrorKind::Internal, format!("drawing: {error}")))?;
    }
    std::fs::write(path, text).map_err(|error| Error::io(path.display(), &error))
}

/// An axis: linear, logarithmic, or one step a named row.
#[derive(Clone)]
struct Scale {
    range: Range<f64>,
    log: bool,
    rows: Vec<String>,
}

impl Scale {
    /// Over all `values`; a linear one starts at 0 unless something lies below.
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let values: Vec<f64> = values
            .filter(|value| value.is_finite() && (!log || *value > 0.0))
            .collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = match (values.is_empty(), log) {
            (true, _) => 1.0..10.0,
            (_, true) => low / 1.15..high * 1.15,
            (_, false) => {
                low.min(0.0)..if high > low.min(0.0) {
                    high * 1.05
                } else {
                    1.0
                }
            }
        };
        Self {
            range,
            log,
            rows: Vec::new(),
        }
    }

    /// From the top down.
    fn rows(names: &[String]) -> Self {
        Self {
            range: names.len() as f64 - 0.5..-0.5,
            log: false,
            rows: names.to_vec(),
        }
    }

    fn place(&self, value: f64) -> f64 {
        let on = |value: f64| if self.log { value.log10() } else { value };
        (on(value) - on(self.range.start)) / (on(self.range.end) - on(self.range.start))
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let length = f64::from(limit.1 - limit.0);
        limit.0 + (self.place(*value) * length).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if !self.rows.is_empty() {
            return (0..self.rows.len()).map(|row| row as f64).collect();
        }
        let (low, high) = (self.range.start, self.range.end);
        if self.log {
            let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
            // Few tenfold steps leave room for 2 and 5 between them.
            let steps: &[f64] = if last - first > 3 {
                &[1.0]
            } else {
                &[1.0, 2.0, 5.0]
            };
            return (first..=last)
                .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
                .filter(|value| (low..=high).contains(value))
                .collect();
        }
        let rough = (high - low) / hint.max_num_points().clamp(2, 8) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|step| step * power)
            .find(|step| *step >= rough)
            .unwrap_or(power * 10.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        if let Some(name) = self.rows.get(*value as usize) {
            return name.clone();
        }
        match value.abs() {
            big if big >= 1e6 => format!("{} M", trimmed(value / 1e6)),
            big if big >= 1e4 => format!("{} k", trimmed(value / 1e3)),
            _ => trimmed(*value),
        }
    }
}

/// Three decimals at most, no noise of binary fractions.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_in_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bars.svg");
        let bars = Bars {
            title: "Where the time went",
            label: "seconds",
            rows: vec!["reload".to_owned(), "shared".to_owned()],
            series: vec![
                ("load".to_owned(), vec![3.0, 0.5]),
                ("run".to_owned(), vec![1.0, f64::NAN]),
            ],
            stacked: true,
            limits: vec![("one read".to_owned(), vec![0.1, 0.1])],
        };
        bars.draw(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for name in [
            "Where the time went",
            "seconds",
            "reload",
            "shared",
            "load",
            "one read",
        ] {
            assert!(text.contains(name), "{name}");
        }
        let lines = Lines {
            title: "Latency",
            x: Axis {
                label: "vectors",
                log: true,
            },
            y: Axis {
                label: "ms",
                log: true,
            },
            series: vec![("flat".to_owned(), vec![(1e3, 0.1), (1e6, 80.0)])],
            limits: vec![("memory".to_owned(), 5.0)],
        };
        lines.draw(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for name in ["Latency", "vectors", "10 k", "1 M", "flat", "memory"] {
            assert!(text.contains(name), "{name}");
        }
        let missing = lines.draw(&folder.path().join("no/such/folder.svg"));
        assert!(missing.is_err());
    }

    #[test]
    fn empty_and_even_values_still_have_an_axis() {
        for values in [vec![], vec![0.0], vec![5.0, 5.0], vec![-1.0, 1.0]] {
            for log in [false, true] {
                let scale = Scale::over(values.iter().copied(), log);
                assert!(scale.range.end > scale.range.start, "{values:?} {log}");
            }
        }
        assert_eq!(trimmed(0.1 + 0.2), "0.3");
        assert_eq!(trimmed(200.0), "200");
    }
}

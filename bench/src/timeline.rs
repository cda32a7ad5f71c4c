//! Latency over time: what requests went through before, during and after something, as figures and a picture.

use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use serde::Serialize;

use crate::cli::AnyError;
use crate::tally::Sample;

/// Requests due within so much time are one point of a picture.
const POINT_S: f64 = 0.1;
/// The least that a picture's axis shows: 0.1 ms.
const SHOWN_MS_MIN: f64 = 0.1;

/// Percentiles of the requests due in some time, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub requests: usize,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub worst: f64,
}

/// The course of one run of requests.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    /// When each was due, in seconds from the start, and its latency in milliseconds; in the order of the due times.
    samples: Vec<(f64, f64)>,
    /// When something was going on.
    pub disturbed: Range<f64>,
}

impl Timeline {
    pub(crate) fn new(samples: &[Sample], disturbed: Range<f64>) -> Self {
        let in_units = |sample: &Sample| (sample.due_ns as f64 / 1e9, sample.latency_ns as f64 / 1e6);
        let mut samples: Vec<(f64, f64)> = samples.iter().map(in_units).collect();
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { samples, disturbed }
    }

    fn between(&self, time: &Range<f64>) -> &[(f64, f64)] {
        let place = |at: f64| self.samples.partition_point(|(due_s, _)| *due_s < at);
        &self.samples[place(time.start)..place(time.end).max(place(time.start))]
    }

    /// Latencies of the requests due in this time.
    pub(crate) fn percentiles(&self, time: &Range<f64>) -> Percentiles {
        percentiles(self.between(time).iter().map(|(_, latency)| *latency).collect())
    }

    /// The last request's due time.
    fn end_s(&self) -> f64 {
        self.samples.last().map_or(0.0, |(due_s, _)| *due_s)
    }

    /// A point for each slice of time: its middle, counted from the disturbance's begin, the median and the worst.
    fn points(&self) -> Vec<(f64, f64, f64)> {
        let mut points = Vec::new();
        // Counted, not added up: a tenth is no number of this kind.
        for begin in (0..).map(|slot| f64::from(slot) * POINT_S).take_while(|begin| *begin < self.end_s()) {
            let of_slice = self.percentiles(&(begin..begin + POINT_S));
            if 0 < of_slice.requests {
                let at = begin + POINT_S / 2.0 - self.disturbed.start;
                points.push((at, of_slice.p50.max(SHOWN_MS_MIN), of_slice.worst.max(SHOWN_MS_MIN)));
            }
        }
        points
    }
}

fn percentiles(mut latencies: Vec<f64>) -> Percentiles {
    latencies.sort_by(f64::total_cmp);
    let at = |quantile: f64| {
        // The smallest latency that at least this share of the requests does not exceed.
        let place = (quantile * latencies.len() as f64).ceil().max(1.0);
        let index = (0..latencies.len()).find(|index| place <= *index as f64 + 1.0);
        index.map_or(0.0, |index| latencies[index])
    };
    let (p50, p99, p999) = (at(0.50), at(0.99), at(0.999));
    Percentiles { requests: latencies.len(), p50, p99, p999, worst: latencies.last().copied().unwrap_or(0.0) }
}

/// Draws who went through what beside the same disturbance, one above the other, all with the same axes.
pub(crate) fn draw(path: &Path, title: &str, lines: &[(&str, &Timeline)]) -> Result<(), AnyError> {
    let drawn: Vec<_> = lines.iter().map(|(name, timeline)| (*name, *timeline, timeline.points())).collect();
    let all = || drawn.iter().flat_map(|(_, _, points)| points);
    let begin_s = all().map(|(at, ..)| *at).fold(0.0, f64::min);
    let end_s = all().map(|(at, ..)| *at).fold(1.0, f64::max);
    let worst_ms = all().map(|(.., worst)| *worst).fold(10.0, f64::max);
    let height = 80 + 260 * u32::try_from(drawn.len())?;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 20))?;
    for ((name, timeline, points), area) in drawn.iter().zip(root.split_evenly((drawn.len(), 1))) {
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .caption(name, ("sans-serif", 16))
            .x_label_area_size(32)
            .y_label_area_size(64)
            .build_cartesian_2d(begin_s..end_s, (SHOWN_MS_MIN..worst_ms * 1.5).log_scale())?;
        let length_s = timeline.disturbed.end - timeline.disturbed.start;
        chart.draw_series([Rectangle::new(
            [(0.0, SHOWN_MS_MIN), (length_s.min(end_s), worst_ms * 1.5)],
            RGBColor(255, 200, 120).mix(0.35).filled(),
        )])?;
        chart
            .configure_mesh()
            .x_desc("seconds from its begin (shaded while it lasts)")
            .y_desc("put latency, ms")
            .light_line_style(TRANSPARENT)
            .draw()?;
        let worst = points.iter().map(|(at, _, worst)| (*at, *worst));
        chart
            .draw_series(LineSeries::new(worst, &RED))?
            .label("worst of 0.1 s")
            .legend(|(x, y)| line(x, y, RED));
        let median = points.iter().map(|(at, median, _)| (*at, *median));
        chart.draw_series(LineSeries::new(median, &BLUE))?.label("median").legend(|(x, y)| line(x, y, BLUE));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

fn line(x: i32, y: i32, color: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 16, y)], color)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request each millisecond, of 1 ms; those due in the third second take what is left of it.
    fn stalled() -> Timeline {
        let sample = |due_ms: u64| {
            let latency_ms = if due_ms / 1_000 == 2 { 3_000 - due_ms } else { 1 };
            Sample { due_ns: due_ms * 1_000_000, latency_ns: latency_ms * 1_000_000 }
        };
        let samples: Vec<Sample> = (0..5_000).rev().map(sample).collect();
        Timeline::new(&samples, 2.0..3.0)
    }

    #[test]
    fn percentiles_are_of_the_requests_due_meanwhile() {
        let timeline = stalled();
        let alone = timeline.percentiles(&(0.0..2.0));
        assert_eq!((alone.requests, alone.p50, alone.p999, alone.worst), (2_000, 1.0, 1.0, 1.0));
        let beside = timeline.percentiles(&timeline.disturbed);
        assert_eq!((beside.requests, beside.p50, beside.p99, beside.worst), (1_000, 500.0, 990.0, 1_000.0));
        assert_eq!(timeline.percentiles(&(9.0..10.0)), Percentiles::default());
    }

    #[test]
    fn a_picture_has_both_lines_of_each_target_and_names_them() {
        let timeline = stalled();
        let points = timeline.points();
        assert_eq!(points.len(), 50);
        assert!(points.iter().any(|(at, _, worst)| (0.0..0.1).contains(at) && *worst == 1_000.0));
        let name = format!("pinion-bench-timeline-{}.svg", std::process::id());
        let path = std::env::temp_dir().join(name);
        draw(&path, "a stall", &[("one", &timeline), ("other", &timeline)]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for color in ["#FF0000", "#0000FF"] {
            let lines = svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(color));
            assert_eq!(lines.count(), 4, "{color}: a line and its key in the legend, of both targets");
        }
        for text in ["a stall", "one", "other", "median", "worst of 0.1 s"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}

//! The text of a scrape: Prometheus' own format 0.0.4, or OpenMetrics 1.0.0 for whoever asks for it.

use std::fmt::Write as _;

use super::report::{Label, Merged, Value};
use super::series::{Kind, Row};

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// By an `Accept` header: whoever can read OpenMetrics gets it, unless it prefers the other.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let parts = accept.split(',').filter_map(|part| {
                let (kind, parameters) = part.split_once(';').unwrap_or((part, ""));
                let weight = parameters.split(';').find_map(|text| text.trim().strip_prefix("q="));
                let weight = weight.map_or(Some(1.0), |text| text.trim().parse::<f64>().ok());
                (kind.trim().eq_ignore_ascii_case(wanted)).then_some(weight.unwrap_or(0.0))
            });
            parts.fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if 0.0 < open && quality("text/plain") <= open { Self::OpenMetrics } else { Self::Prometheus }
    }

    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text of what all roles have answered.
#[must_use]
pub fn write(merged: &Merged, format: Format) -> String {
    let mut text = String::with_capacity(128 * 1024);
    for (name, samples) in &merged.0 {
        let row = name.row();
        head(&mut text, row, format);
        for (labels, value) in samples {
            match value {
                Value::Number(number) => sample(&mut text, row, "", labels, None, *number),
                Value::Buckets(counts, sum) => buckets(&mut text, row, labels, counts, *sum),
            }
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn head(text: &mut String, row: &Row, format: Format) {
    let (mut family, mut kind) = (row.name, row.kind.word());
    if format == Format::OpenMetrics && row.kind == Kind::Counter {
        // There a counter's samples end with `_total`, and its family does not.
        match row.name.strip_suffix("_total") {
            Some(stem) => family = stem,
            None => kind = "unknown",
        }
    }
    text.push_str("# HELP ");
    text.push_str(family);
    text.push(' ');
    escape(text, row.help, format == Format::OpenMetrics);
    let _infallible = writeln!(text, "\n# TYPE {family} {kind}");
}

fn buckets(text: &mut String, row: &Row, labels: &[Label], counts: &[u64], sum: f64) {
    let mut so_far = 0;
    let bounds = row.bounds.iter().copied().chain([f64::INFINITY]);
    for (bound, count) in bounds.zip(counts) {
        so_far += count;
        sample_count(text, row, "_bucket", labels, Some(bound), so_far);
    }
    sample(text, row, "_sum", labels, None, sum);
    sample_count(text, row, "_count", labels, None, so_far);
}

fn sample_count(
    text: &mut String,
    row: &Row,
    suffix: &str,
    labels: &[Label],
    bound: Option<f64>,
    count: u64,
) {
    sample_head(text, row, suffix, labels, bound);
    let _infallible = writeln!(text, "{count}");
}

fn sample(text: &mut String, row: &Row, suffix: &str, labels: &[Label], bound: Option<f64>, value: f64) {
    sample_head(text, row, suffix, labels, bound);
    number(text, value);
    text.push('\n');
}

fn sample_head(text: &mut String, row: &Row, suffix: &str, labels: &[Label], bound: Option<f64>) {
    text.push_str(row.name);
    text.push_str(suffix);
    let mut separator = '{';
    for (name, value) in row.labels.iter().zip(labels) {
        text.push(separator);
        separator = ',';
        text.push_str(name);
        text.push_str("=\"");
        escape(text, value, true);
        text.push('"');
    }
    if let Some(bound) = bound {
        text.push(separator);
        separator = ',';
        text.push_str("le=\"");
        number(text, bound);
        text.push('"');
    }
    text.push_str(if separator == '{' { " " } else { "} " });
}

/// As Go writes it, since a bound is a label, and labels are compared as texts.
fn number(text: &mut String, value: f64) {
    let size = value.abs();
    if value.is_finite() && value != 0.0 && !(1e-4..1e6).contains(&size) {
        let short = format!("{value:e}");
        let (digits, exponent) = short.split_once('e').expect("that is the format");
        let exponent: i32 = exponent.parse().expect("a number");
        let sign = if exponent < 0 { '-' } else { '+' };
        let _infallible = write!(text, "{digits}e{sign}{:02}", exponent.abs());
        return;
    }
    let written = if value == f64::INFINITY {
        write!(text, "+Inf")
    } else if value == f64::NEG_INFINITY {
        write!(text, "-Inf")
    } else if value.is_nan() {
        write!(text, "NaN")
    } else {
        write!(text, "{value}")
    };
    let _infallible = written;
}

/// What would end a label's value, a help text, or a line.
fn escape(text: &mut String, raw: &str, quotes: bool) {
    for c in raw.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

//! What the measurements say: ratios with their spread, the marks of the design and whether each is met.
//!
//! A ratio is Pinion / etcd within one round, so that what changes between rounds cancels; its median over
//! the rounds is judged, its extremes are shown. For throughput more is better, for time and CPU less.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::compare::{BigStore, Comparison, Measurement, Target};
use crate::disk::RawSync;
use crate::floor::Floor;
use crate::report::{ratio, thousands, time};
use crate::stream_verdict;

/// The design's bound above key and value, bytes.
const MEMORY_OVERHEAD_BYTES: usize = 150;
const RESTART_S_MAX: f64 = 1.0;
/// Above the bare sync, microseconds.
const ABOVE_RAW_SYNC_US: f64 = 60.0;
/// A lone put and a lone get beside the loops that do nothing else (`floor`).
const PUT_ABOVE_FLOOR: f64 = 1.10;
const GET_ABOVE_FLOOR: f64 = 1.25;
/// What is left of the throughput when rights are asked for.
const RIGHTS_MIN: f64 = 0.97;
/// "Flat as keys grow": pages of ten times the keys may be this much slower.
const FLAT_MIN: f64 = 0.7;

/// Smallest, middle and largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { min: first, median, max: last })
    }
}

/// A figure that the design wants, what it is, and whether that is enough.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Mark {
    pub figure: String,
    pub wanted: String,
    pub found: String,
    pub is_met: bool,
}

type Metric = fn(&Measurement) -> f64;

const THROUGHPUT: Metric = |m| m.figures.replies_per_s;
const P50: Metric = |m| m.figures.latency_us.p50;
const P99: Metric = |m| m.figures.latency_us.p99;
const SERVER_CPU: Metric = |m| m.server_cpu_us_per_request;

/// The spread of a metric over the rounds of one target.
fn spread(measurements: &[Measurement], case: &str, target: Target, metric: Metric) -> Option<Spread> {
    Spread::of(measurements.iter().filter(|m| m.case == case && m.target == target).map(metric))
}

/// The spread of Pinion / etcd over the rounds that have both.
fn ratios(measurements: &[Measurement], case: &str, metric: Metric) -> Option<Spread> {
    let of = |target| -> BTreeMap<u32, f64> {
        let mine = measurements.iter().filter(|m| m.case == case && m.target == target);
        mine.map(|m| (m.round, metric(m))).collect()
    };
    let (etcd, pinion) = (of(Target::Etcd), of(Target::Pinion));
    // A round in which etcd answered nothing in time has no ratio: "infinitely faster" is no figure.
    let is_answered = |value: &&f64| 0.0 < **value;
    Spread::of(
        pinion.iter().filter_map(|(round, value)| Some(ratio(*value, *etcd.get(round).filter(is_answered)?))),
    )
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Holds the measurements against the design's table. A figure that was not measured has no line.
pub(crate) fn marks(
    measurements: &[Measurement],
    big_stores: &[BigStore],
    (raw_sync, floor): (&RawSync, &Floor),
    pair_bytes: usize,
) -> Vec<Mark> {
    let table: [(&str, &str, Metric, Bound); 11] = [
        ("put throughput, 16 x 32 in flight", "put-16x32", THROUGHPUT, Bound::AtLeast(5.0)),
        ("server CPU per put, 16 x 32", "put-16x32", SERVER_CPU, Bound::AtMost(1.0 / 6.0)),
        ("put p50, one in flight", "put-1x1", P50, Bound::AtMost(0.7)),
        ("put p99 at 10 k/s", "put-10k", P99, Bound::AtMost(0.25)),
        ("puts of 64 KiB, 8 x 4 in flight", "put-64k", THROUGHPUT, Bound::AtLeast(3.0)),
        ("puts of 1 MiB, 4 x 2 in flight", "put-1m", THROUGHPUT, Bound::AtLeast(3.0)),
        ("linearizable get throughput", "get-16x32", THROUGHPUT, Bound::AtLeast(5.0)),
        ("100-key pages", "page", THROUGHPUT, Bound::AtLeast(100.0)),
        ("three members, put throughput, 16 x 32", "cluster-put-16x32", THROUGHPUT, Bound::AtLeast(4.0)),
        ("three members, put p50, one in flight", "cluster-put-1x1", P50, Bound::AtMost(0.7)),
        ("count-only of the big store", "count-big", THROUGHPUT, Bound::AtLeast(100.0)),
    ];
    let mut marks = Vec::new();
    for (figure, case, metric, bound) in table {
        let Some(found) = ratios(measurements, case, metric) else { continue };
        let (wanted, is_met) = match bound {
            Bound::AtLeast(bound) => (format!(">= {bound:.0} x etcd"), bound <= found.median),
            Bound::AtMost(bound) => (format!("<= {bound:.2} x etcd"), found.median <= bound),
        };
        let found = format!("{:.2} x", found.median);
        marks.push(Mark { figure: figure.to_owned(), wanted, found, is_met });
    }
    if let Some(p50) = spread(measurements, "put-1x1", Target::Pinion, P50) {
        let bound = raw_sync.p50_us + ABOVE_RAW_SYNC_US;
        marks.push(Mark {
            figure: "put p50, one in flight, above the raw sync".to_owned(),
            wanted: format!("<= {} + 60 us = {}", time(raw_sync.p50_us), time(bound)),
            found: time(p50.median),
            is_met: p50.median <= bound,
        });
    }
    let lone =
        [("put", "put-1x1", &floor.put, PUT_ABOVE_FLOOR), ("get", "get-1x1", &floor.get, GET_ABOVE_FLOOR)];
    for (what, case, floor, bound) in lone {
        let Some(p50) = spread(measurements, case, Target::Pinion, P50) else { continue };
        let found = ratio(p50.median, floor.p50_us);
        marks.push(Mark {
            figure: format!("{what} p50, one in flight, beside the bare loop"),
            wanted: format!("<= {bound:.2} x {}", time(floor.p50_us)),
            found: format!("{found:.2} x"),
            is_met: found <= bound,
        });
    }
    let rights: [(&str, [&str; 2]); 2] = [
        ("puts with rights asked for, 100 permissions a user", ["open-put-16x32", "auth-put-16x32"]),
        ("gets with rights asked for, 100 permissions a user", ["open-get-16x32", "auth-get-16x32"]),
    ];
    for (figure, [open, auth]) in rights {
        let of = |case: &'static str| {
            let mine = measurements.iter().filter(move |m| m.case == case && m.target == Target::Pinion);
            mine.map(|m| (m.round, THROUGHPUT(m)))
        };
        let open: BTreeMap<u32, f64> = of(open).collect();
        let kept = of(auth).filter_map(|(round, with)| Some(ratio(with, *open.get(&round)?)));
        let Some(kept) = Spread::of(kept) else { continue };
        marks.push(Mark {
            figure: figure.to_owned(),
            wanted: format!(">= {RIGHTS_MIN} of those without"),
            found: format!("{:.3}", kept.median),
            is_met: RIGHTS_MIN <= kept.median,
        });
    }
    let pinion = |case| spread(measurements, case, Target::Pinion, THROUGHPUT);
    if let Some((small, big)) = pinion("page").zip(pinion("page-big")) {
        let flatness = ratio(big.median, small.median);
        marks.push(Mark {
            figure: "pages stay flat as keys grow".to_owned(),
            wanted: format!(">= {FLAT_MIN} of the small store's"),
            found: format!("{flatness:.2}"),
            is_met: FLAT_MIN <= flatness,
        });
    }
    let ours = || big_stores.iter().filter(|store| store.target == Target::Pinion);
    if let Some(per_key) = Spread::of(ours().map(|store| store.anonymous_bytes_per_key)) {
        let bound = pair_bytes + MEMORY_OVERHEAD_BYTES;
        marks.push(Mark {
            figure: "anonymous memory per key".to_owned(),
            wanted: format!("<= {bound} B"),
            found: format!("{:.0} B", per_key.median),
            is_met: per_key.median <= bound as f64,
        });
    }
    if let Some(restart) = Spread::of(ours().flat_map(|store| store.restart_s.iter().copied())) {
        marks.push(Mark {
            figure: "restart to first linearizable read".to_owned(),
            wanted: format!("<= {RESTART_S_MAX:.0} s"),
            found: format!("{:.2} s", restart.median),
            is_met: restart.median <= RESTART_S_MAX,
        });
    }
    marks
}

/// The tables, which read well on a terminal too.
pub(crate) fn markdown(comparison: &Comparison) -> String {
    let mut text = String::new();
    write_all(&mut text, comparison).expect("a String takes everything");
    text
}

fn write_all(text: &mut String, comparison: &Comparison) -> std::fmt::Result {
    let Comparison { host, raw_sync, floor, measurements, big_stores, .. } = comparison;
    writeln!(text, "# pinion-bench compare\n\n```text\n{}", host.command.join(" "))?;
    write!(text, "{}", host.lines())?;
    for (target, version) in &comparison.versions {
        writeln!(text, "{}: {version}", target.name())?;
    }
    write!(text, "raw sync: p50 {}, p99 {}", time(raw_sync.p50_us), time(raw_sync.p99_us))?;
    if let Some(bytes) = raw_sync.device_bytes_per_sync {
        write!(text, ", {} device bytes per 4096-byte sync", thousands(bytes))?;
    }
    let Floor { put, get } = floor;
    write!(text, "\nbare loops: put p50 {}, p99 {}", time(put.p50_us), time(put.p99_us))?;
    write!(text, "; get p50 {}, p99 {}", time(get.p50_us), time(get.p99_us))?;
    writeln!(text, "\n```\n")?;
    let mut cases: Vec<&str> = measurements.iter().map(|m| m.case).collect();
    cases.dedup(); // rounds repeat the list
    let mut seen = Vec::new();
    cases.retain(|case| {
        !seen.contains(case) && {
            seen.push(*case);
            true
        }
    });
    if !cases.is_empty() {
        write_figures(text, measurements, &cases)?;
        write_ratios(text, measurements, &cases)?;
    }
    if !big_stores.is_empty() {
        write_big_stores(text, big_stores)?;
    }
    if !comparison.stream_measurements.is_empty() {
        stream_verdict::write_table(text, &comparison.stream_measurements)?;
    }
    if !comparison.marks.is_empty() {
        writeln!(text, "| mark of the design | wanted | found | |\n|---|---|---|---|")?;
        for mark in &comparison.marks {
            let verdict = if mark.is_met { "met" } else { "**not met**" };
            writeln!(text, "| {} | {} | {} | {verdict} |", mark.figure, mark.wanted, mark.found)?;
        }
    }
    Ok(())
}

fn write_figures(text: &mut String, measurements: &[Measurement], cases: &[&str]) -> std::fmt::Result {
    writeln!(
        text,
        "Medians over the rounds. Device columns are per request; what others did meanwhile (in percent of a core) is in them.\n"
    )?;
    writeln!(
        text,
        "| scenario | target | /s | p50 | p90 | p99 | p99.9 | max | server CPU | device bytes | writes | flushes \
         | WAL syncs | client CPU | others' CPU | failed |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
    for case in cases {
        for target in [Target::Etcd, Target::Pinion] {
            let mine: Vec<&Measurement> =
                measurements.iter().filter(|m| m.case == *case && m.target == target).collect();
            if mine.is_empty() {
                continue;
            }
            let median =
                |metric: Metric| Spread::of(mine.iter().map(|m| metric(m))).map_or(0.0, |s| s.median);
            let optional = |metric: fn(&Measurement) -> Option<f64>, digits: usize| {
                let spread = Spread::of(mine.iter().filter_map(|m| metric(m)));
                spread.map_or("-".to_owned(), |s| format!("{:.digits$}", s.median))
            };
            let failed: u64 = mine
                .iter()
                .map(|m| m.figures.failures.iter().map(|f| f.count).sum::<u64>() + m.figures.unaccounted)
                .sum();
            writeln!(
                text,
                "| {case} | {} | {} | {} | {} | {} | {} | {} | {:.1} us | {} | {} | {} | {} | {:.2} us | {:.0} % | {failed} |",
                target.name(),
                thousands(median(THROUGHPUT)),
                time(median(P50)),
                time(median(|m| m.figures.latency_us.p90)),
                time(median(P99)),
                time(median(|m| m.figures.latency_us.p999)),
                time(median(|m| m.figures.latency_us.max)),
                median(SERVER_CPU),
                optional(|m| m.device_bytes_per_request, 0),
                optional(|m| m.device_writes_per_request, 3),
                optional(|m| m.device_flushes_per_request, 3),
                optional(|m| m.wal_syncs_per_request, 3),
                median(|m| m.figures.client_cpu_us_per_request),
                median(|m| m.other_cpu_percent),
            )?;
        }
    }
    writeln!(text)
}

fn write_ratios(text: &mut String, measurements: &[Measurement], cases: &[&str]) -> std::fmt::Result {
    let has_both = cases.iter().any(|case| ratios(measurements, case, THROUGHPUT).is_some());
    if !has_both {
        return Ok(());
    }
    writeln!(text, "Pinion / etcd, round by round: min – median – max.\n")?;
    writeln!(text, "| scenario | throughput | p50 | p99 | server CPU |\n|---|---|---|---|---|")?;
    for case in cases {
        let cell = |metric| {
            ratios(measurements, case, metric)
                .map_or("-".to_owned(), |s| format!("{:.2} – {:.2} – {:.2}", s.min, s.median, s.max))
        };
        writeln!(
            text,
            "| {case} | {} | {} | {} | {} |",
            cell(THROUGHPUT),
            cell(P50),
            cell(P99),
            cell(SERVER_CPU)
        )?;
    }
    writeln!(text)
}

fn write_big_stores(text: &mut String, big_stores: &[BigStore]) -> std::fmt::Result {
    writeln!(text, "| target | keys | loaded at | anonymous memory | per key | restart to first read |")?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for store in big_stores {
        let restart = Spread::of(store.restart_s.iter().copied())
            .map_or("-".to_owned(), |s| format!("{:.2} – {:.2} – {:.2} s", s.min, s.median, s.max));
        writeln!(
            text,
            "| {} | {} | {} /s | {} MiB | {:.0} B | {restart} |",
            store.target.name(),
            thousands(store.keys as f64),
            thousands(store.load_keys_per_s),
            store.anonymous_bytes_after >> 20,
            store.anonymous_bytes_per_key,
        )?;
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::{Loop, Wait};
    use crate::report::{Figures, Latency};

    fn measurement(case: &'static str, target: Target, round: u32, per_s: f64, p50: f64) -> Measurement {
        let latency_us = Latency { p50, p99: p50 * 10.0, ..Latency::default() };
        Measurement {
            case,
            target,
            round,
            figures: Figures { replies_per_s: per_s, latency_us, ..Figures::default() },
            server_cpu_us_per_request: 1e6 / per_s,
            device_bytes_per_request: None,
            device_writes_per_request: None,
            device_flushes_per_request: None,
            other_cpu_percent: 0.0,
            wal_syncs_per_request: None,
        }
    }

    fn floor() -> Floor {
        let bare = |what, p50_us| Loop {
            what,
            server: Wait::Sleep,
            client: Wait::Sleep,
            round_trips: 1,
            p50_us,
            p90_us: p50_us,
            p99_us: p50_us,
            p999_us: p50_us,
            max_us: p50_us,
        };
        Floor { put: bare("put", 160.0), get: bare("get", 50.0) }
    }

    fn raw_sync() -> RawSync {
        RawSync {
            p50_us: 100.0,
            p99_us: 200.0,
            syncs: 10,
            device_bytes_per_sync: None,
            device_flushes_per_sync: None,
        }
    }

    #[test]
    fn spread_is_min_median_max() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
    }

    /// The machine halves its speed in round 2: figures jump, ratios stand.
    #[test]
    fn ratios_compare_within_a_round_only() {
        let all = [
            measurement("put-16x32", Target::Etcd, 1, 20_000.0, 10.0),
            measurement("put-16x32", Target::Pinion, 1, 130_000.0, 10.0),
            measurement("put-16x32", Target::Pinion, 2, 65_000.0, 10.0),
            measurement("put-16x32", Target::Etcd, 2, 10_000.0, 10.0),
            measurement("put-16x32", Target::Pinion, 3, 1.0, 10.0), // etcd's round 3 is missing
        ];
        assert_eq!(ratios(&all, "put-16x32", THROUGHPUT), Some(Spread { min: 6.5, median: 6.5, max: 6.5 }));
        let marks = marks(&all[..4], &[], (&raw_sync(), &floor()), 288);
        let verdicts: Vec<(&str, bool)> = marks.iter().map(|m| (m.wanted.as_str(), m.is_met)).collect();
        assert_eq!(verdicts, [(">= 5 x etcd", true), ("<= 0.17 x etcd", true)]);
    }

    #[test]
    fn marks_are_missed_by_a_little() {
        let all = [
            measurement("put-1x1", Target::Etcd, 1, 4_000.0, 250.0),
            measurement("put-1x1", Target::Pinion, 1, 6_000.0, 176.0),
        ];
        let store = BigStore {
            target: Target::Pinion,
            round: 1,
            keys: 1_000_000,
            load_keys_per_s: 1.0,
            anonymous_bytes_before: 0,
            anonymous_bytes_after: 0,
            anonymous_bytes_per_key: 438.4,
            restart_s: vec![0.9, 1.1, 1.0],
        };
        let marks = marks(&all, &[store], (&raw_sync(), &floor()), 288);
        let verdicts: Vec<(&str, &str, bool)> =
            marks.iter().map(|m| (m.wanted.as_str(), m.found.as_str(), m.is_met)).collect();
        assert_eq!(
            verdicts,
            [
                ("<= 0.70 x etcd", "0.70 x", false),
                ("<= 100 us + 60 us = 160 us", "176 us", false),
                ("<= 1.10 x 160 us", "1.10 x", true),
                ("<= 438 B", "438 B", false),
                ("<= 1 s", "1.00 s", true),
            ]
        );
    }
}

//! What the scenarios of watchers, leases and lost members say: each figure of both targets side by side, and the marks.

use std::fmt::Write as _;

use serde::Serialize;

use crate::compare::Target;
use crate::failover::{NEXT_WRITE, Outage};
use crate::findings::{Findings, Unit};
use crate::report::ratio;
use crate::stream_cases::{EXPIRY, EXPIRY_BIG, FAN_OUT, FAN_OUT_50, SLOW};
use crate::verdict::{Mark, Spread};

/// Marks of the design: fan-out of one put to a thousand watchers, by etcd's, and from commit to client.
const FAN_OUT_RATIO_MIN: f64 = 3.0;
const COMMIT_TO_CLIENT_US_MAX: f64 = 10_000.0;
/// A key goes less than a second after its lease ended.
const EXPIRY_LAG_US_MAX: f64 = 1_000_000.0;
/// Three members with default flags, from the signal to the next accepted write.
const LEADER_KILLED_US_MAX: f64 = 500_000.0;
const LEADER_FROZEN_US_MAX: f64 = 2_000_000.0;
const FOLLOWER_KILLED_US_MAX: f64 = 300_000.0;
/// A slow reader costs nobody else: put p99 beside them, by put p99 alone. Two runs of the same differ by
/// about this much.
const SLOW_RATIO_MAX: f64 = 1.5;

/// One scenario, one target, one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StreamMeasurement {
    pub case: &'static str,
    pub target: Target,
    pub round: u32,
    pub findings: Findings,
}

impl StreamMeasurement {
    fn value(&self, name: &str) -> Option<f64> {
        self.findings.readings.iter().find(|reading| reading.name == name).map(|reading| reading.value)
    }
}

fn of<'a>(
    all: &'a [StreamMeasurement],
    case: &'a str,
    target: Target,
) -> impl Iterator<Item = &'a StreamMeasurement> {
    all.iter().filter(move |m| m.case == case && m.target == target)
}

fn spread(all: &[StreamMeasurement], case: &str, target: Target, name: &str) -> Option<Spread> {
    Spread::of(of(all, case, target).filter_map(|m| m.value(name)))
}

/// Pinion / etcd over the rounds that have both; none where etcd has nothing to divide by.
fn ratios(all: &[StreamMeasurement], case: &str, name: &str) -> Option<Spread> {
    Spread::of(of(all, case, Target::Pinion).filter_map(|pinion| {
        let etcd = of(all, case, Target::Etcd).find(|etcd| etcd.round == pinion.round)?.value(name)?;
        (0.0 < etcd).then_some(ratio(pinion.value(name)?, etcd))
    }))
}

/// Holds the measurements against the design. A figure that was not measured has no line.
pub(crate) fn marks(all: &[StreamMeasurement]) -> Vec<Mark> {
    let mut marks = Vec::new();
    if let Some(found) = ratios(all, FAN_OUT, "events") {
        marks.push(Mark {
            figure: "events to 1000 watchers of one key".to_owned(),
            wanted: format!(">= {FAN_OUT_RATIO_MIN:.0} x etcd"),
            found: format!("{:.2} x", found.median),
            is_met: FAN_OUT_RATIO_MIN <= found.median,
        });
    }
    let mut at_most = |figure: &str, case, name, bound| {
        if let Some(found) = spread(all, case, Target::Pinion, name) {
            marks.push(Mark {
                figure: figure.to_owned(),
                wanted: format!("<= {}", Unit::Time.show(bound)),
                found: Unit::Time.show(found.median),
                is_met: found.median <= bound,
            });
        }
    };
    let commit_to_client = "commit to client p99, 50 puts a second to 1000 watchers";
    at_most(commit_to_client, FAN_OUT_50, "reply to event p99", COMMIT_TO_CLIENT_US_MAX);
    at_most("expiry lag, 10 k leases together", EXPIRY, "expiry lag max", EXPIRY_LAG_US_MAX);
    at_most("expiry lag, 100 k leases together", EXPIRY_BIG, "expiry lag max", EXPIRY_LAG_US_MAX);
    let outages = [
        ("leader killed", Outage::LeaderKilled, LEADER_KILLED_US_MAX),
        ("leader frozen", Outage::LeaderFrozen, LEADER_FROZEN_US_MAX),
        ("follower killed", Outage::FollowerKilled, FOLLOWER_KILLED_US_MAX),
    ];
    for (what, outage, bound) in outages {
        at_most(&format!("{what}, to the next accepted write"), outage.name(), NEXT_WRITE, bound);
    }
    let slowdown = of(all, SLOW, Target::Pinion)
        .filter_map(|m| Some(ratio(m.value("put beside slow watchers p99")?, m.value("put alone p99")?)));
    if let Some(found) = Spread::of(slowdown) {
        marks.push(Mark {
            figure: "put p99 beside 1000 slow watchers".to_owned(),
            wanted: format!("<= {SLOW_RATIO_MAX} x put p99 alone"),
            found: format!("{:.2} x", found.median),
            is_met: found.median <= SLOW_RATIO_MAX,
        });
    }
    marks
}

/// A line for each figure of each scenario.
pub(crate) fn write_table(text: &mut String, all: &[StreamMeasurement]) -> std::fmt::Result {
    writeln!(
        text,
        "Watchers, leases and lost members: medians over the rounds; Pinion / etcd round by round, median.\n"
    )?;
    writeln!(text, "| scenario | figure | etcd | pinion | pinion / etcd |\n|---|---|---|---|---|")?;
    let mut cases: Vec<&str> = Vec::new();
    for measurement in all {
        if !cases.contains(&measurement.case) {
            cases.push(measurement.case);
        }
    }
    for case in cases {
        let mut figures: Vec<(&str, Unit)> = Vec::new();
        for reading in all.iter().filter(|m| m.case == case).flat_map(|m| &m.findings.readings) {
            if !figures.iter().any(|(name, _)| *name == reading.name) {
                figures.push((&reading.name, reading.unit));
            }
        }
        for (name, unit) in figures {
            let cell = |target| {
                spread(all, case, target, name).map_or("-".to_owned(), |found| unit.show(found.median))
            };
            let ratio =
                ratios(all, case, name).map_or("-".to_owned(), |found| format!("{:.2}", found.median));
            writeln!(
                text,
                "| {case} | {name} | {} | {} | {ratio} |",
                cell(Target::Etcd),
                cell(Target::Pinion)
            )?;
        }
        let failed = |target| {
            let mut lines: Vec<String> = Vec::new();
            for fault in of(all, case, target).flat_map(|m| &m.findings.faults) {
                lines.push(format!("{} x {} ({})", fault.count, fault.what, fault.example.replace('|', "/")));
            }
            if lines.is_empty() { "-".to_owned() } else { lines.join("; ") }
        };
        if all.iter().any(|m| m.case == case && !m.findings.is_clean()) {
            let (etcd, pinion) = (failed(Target::Etcd), failed(Target::Pinion));
            writeln!(text, "| {case} | **failed** | {etcd} | {pinion} | |")?;
        }
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::FailureLine;

    fn measurement(
        case: &'static str,
        target: Target,
        round: u32,
        readings: &[(&str, Unit, f64)],
    ) -> StreamMeasurement {
        let mut findings = Findings::default();
        for (name, unit, value) in readings {
            findings.add(*name, *unit, *value);
        }
        StreamMeasurement { case, target, round, findings }
    }

    #[test]
    fn figures_stand_side_by_side_and_marks_are_judged_within_a_round() {
        let mut all = vec![
            measurement(
                FAN_OUT,
                Target::Etcd,
                1,
                &[("events", Unit::PerSecond, 100.0), ("only etcd", Unit::Count, 0.0)],
            ),
            measurement(FAN_OUT, Target::Pinion, 1, &[("events", Unit::PerSecond, 400.0)]),
            measurement(FAN_OUT, Target::Pinion, 2, &[("events", Unit::PerSecond, 50.0)]),
            measurement(FAN_OUT, Target::Etcd, 2, &[("events", Unit::PerSecond, 20.0)]),
            measurement(EXPIRY, Target::Pinion, 1, &[("expiry lag max", Unit::Time, 1_000_001.0)]),
            measurement(
                SLOW,
                Target::Pinion,
                1,
                &[("put alone p99", Unit::Time, 100.0), ("put beside slow watchers p99", Unit::Time, 120.0)],
            ),
        ];
        let marks: Vec<(String, bool)> = marks(&all).into_iter().map(|m| (m.found, m.is_met)).collect();
        assert_eq!(marks, [("3.25 x".into(), true), ("1000.0 ms".into(), false), ("1.20 x".into(), true)]);
        all[1].findings.faults.push(FailureLine { what: "lost".into(), count: 3, example: "a|b".into() });
        let mut text = String::new();
        write_table(&mut text, &all).unwrap();
        assert!(text.contains("| fanout-1x1000 | events | 60.0 /s | 225 /s | 3.25 |"), "{text}");
        assert!(text.contains("| fanout-1x1000 | only etcd | 0.0 | - | - |"), "{text}");
        assert!(text.contains("| fanout-1x1000 | **failed** | - | 3 x lost (a/b) | |"), "{text}");
    }
}

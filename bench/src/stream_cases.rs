//! The scenarios of watchers and leases that a comparison plays, each on a fresh server.
//!
//! The shapes are small enough for two cores and a few minutes, and the rates low enough that etcd 3.4
//! answers them: a server that is behind shows how long its queue is, and little else.

use std::time::Duration;

use crate::cli::AnyError;
use crate::fanout::{FanOut, Pace};
use crate::findings::Findings;
use crate::lease::{Expiry, KeepAlive};
use crate::stage::Timing;
use crate::stream_commands::catch_up_after;
use crate::subject::Subject;
use crate::watch::{self, Bench, CatchUp, SidePuts};
use crate::watchers::{Scope, Shape};
use crate::workload::Space;

const VALUE_BYTES: usize = 256;
/// Keys that are put where a prefix is watched.
const KEYS: u64 = 10_000;
/// How long stragglers are waited for.
const LIMIT: Duration = Duration::from_secs(90);

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamCase {
    pub name: &'static str,
    pub is_lease: bool,
    /// Only when it is named, or with `--big`.
    pub is_big: bool,
    play: Play,
}

#[derive(Debug, Clone, Copy)]
enum Play {
    FanOut(Shape, Pace),
    Idle(Shape),
    /// Puts a second.
    Slow(Shape, u64),
    /// Watchers and puts a second.
    CatchUp(usize, u64),
    KeepAlive(KeepAlive),
    /// Leases, TTL and puts a second.
    Expiry(usize, i64, u64),
}

const fn shape(watchers: usize, streams: usize, connections: usize, scope: Scope) -> Shape {
    Shape { watchers, streams, connections, scope }
}

const fn watch_case(name: &'static str, play: Play) -> StreamCase {
    StreamCase { name, is_lease: false, is_big: false, play }
}

const fn lease_case(name: &'static str, play: Play) -> StreamCase {
    StreamCase { is_lease: true, ..watch_case(name, play) }
}

const SPREAD: Shape = shape(1000, 1000, 10, Scope::OneKey);
const DISTINCT: Shape = shape(10_000, 100, 10, Scope::DistinctKeys);

/// Fan-out of one put to a thousand watchers, as fast as it goes: the design's figure.
pub(crate) const FAN_OUT: &str = "fanout-1x1000";
/// The same at 50 puts a second: what a delivery takes.
pub(crate) const FAN_OUT_50: &str = "fanout-1x1000-50";
pub(crate) const SLOW: &str = "slow-watchers-1000";
pub(crate) const EXPIRY: &str = "lease-expiry-10k";
pub(crate) const EXPIRY_BIG: &str = "lease-expiry-100k";

pub(crate) const STREAM_CASES: [StreamCase; 12] = [
    watch_case(FAN_OUT, Play::FanOut(SPREAD, Pace::InFlight(8))),
    watch_case(FAN_OUT_50, Play::FanOut(SPREAD, Pace::Rate(50))),
    watch_case("fanout-1x1000-one-stream", Play::FanOut(shape(1000, 1, 1, Scope::OneKey), Pace::InFlight(8))),
    watch_case("fanout-10k-keys", Play::FanOut(DISTINCT, Pace::InFlight(256))),
    watch_case("fanout-10k-keys-2k", Play::FanOut(DISTINCT, Pace::Rate(2000))),
    watch_case("idle-100k-one-stream", Play::Idle(shape(100_000, 1, 1, Scope::DistinctKeys))),
    watch_case("idle-100k-1000-streams", Play::Idle(shape(100_000, 1000, 10, Scope::DistinctKeys))),
    watch_case(SLOW, Play::Slow(shape(1000, 1000, 10, Scope::Prefix), 5000)),
    watch_case("catch-up", Play::CatchUp(10, 1000)),
    lease_case(
        "keep-alive",
        Play::KeepAlive(KeepAlive { leases: 10_000, streams: 64, connections: 16, in_flight: 8 }),
    ),
    lease_case(EXPIRY, Play::Expiry(10_000, 15, 1000)),
    StreamCase { is_big: true, ..lease_case(EXPIRY_BIG, Play::Expiry(100_000, 120, 1000)) },
];

impl StreamCase {
    /// Plays it against a server that holds nothing. `history` is the number of puts to catch up with.
    pub(crate) fn run(
        &self,
        subject: &Subject,
        bench: &Bench,
        timing: Timing,
        history: u64,
    ) -> Result<Findings, AnyError> {
        let puts = |rate_per_s| SidePuts {
            rate_per_s,
            space: Space { keys: KEYS, key_bytes: 32, value_bytes: VALUE_BYTES },
        };
        Ok(match self.play {
            Play::FanOut(shape, pace) => {
                let fan_out = FanOut {
                    shape,
                    pace,
                    keys: KEYS,
                    value_bytes: VALUE_BYTES,
                    seed: bench.seed,
                    drain: FanOut::DRAIN,
                };
                fan_out.run(subject, bench.streams_core(), timing)?
            }
            Play::Idle(shape) => watch::idle(&shape, subject, bench)?,
            Play::Slow(shape, rate) => watch::slow(&shape, &puts(rate), subject, bench, timing)?,
            Play::CatchUp(watchers, rate) => {
                let catch_up = CatchUp { shape: watch::one_a_stream(watchers, watchers), limit: LIMIT };
                catch_up_after(&catch_up, history, &puts(rate), subject, bench, timing)?
            }
            Play::KeepAlive(keep_alive) => keep_alive.run(subject, bench, timing)?,
            Play::Expiry(leases, ttl_s, rate) => {
                // etcd 3.4 revokes 1000 leases a second at most, so that many seconds are no fault of ours.
                let limit = LIMIT + Duration::from_millis(leases as u64);
                Expiry { leases, ttl_s, limit }.run(&puts(rate), subject, bench, timing)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_can_be_and_every_name_is_one_of_a_kind() {
        let mut names: Vec<&str> = STREAM_CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STREAM_CASES.len());
        for case in STREAM_CASES {
            if let Play::FanOut(shape, _) | Play::Idle(shape) | Play::Slow(shape, _) = case.play {
                Shape::new(shape.watchers, Some(shape.streams), Some(shape.connections), shape.scope)
                    .unwrap();
            }
        }
    }
}

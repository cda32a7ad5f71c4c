//! The same sequence of watch, lease, lock and election calls to a real etcd and to the binary under
//! test; everything their calls and watchers said is compared (`watch_log.rs` lists what is masked).
//!
//! `PINION_WIRE_SEEDS` (3) sequences of `PINION_WIRE_STEPS` (200) steps from `PINION_WIRE_SEED` (1) on,
//! and some written out.

use std::path::Path;
use std::time::Duration;

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, server_is_etcd};

use crate::reference_binary;
use crate::watch_log::{self, Entry};
use crate::watch_play::{Player, Tally};
use crate::watch_script::{self, Script, Step, World};

fn as_it_is(_: &mut Vec<Entry>) {}

/// Plays the steps that `next` gives, and returns the player, or the first difference.
async fn play(
    reference: &Path,
    spoil: fn(&mut Vec<Entry>),
    mut next: impl FnMut(u64, &World) -> Option<Step>,
) -> Result<Player, String> {
    let work = WorkDir::new();
    let mut player = Player::start(reference, &work).await;
    player.spoil = spoil;
    let mut number = 0;
    while let Some(step) = next(number, player.world()) {
        player.play(&step).await.map_err(|difference| format!("step {number}, {step:?}: {difference}"))?;
        number += 1;
    }
    player.finish().await.map_err(|difference| format!("after the last step: {difference}"))?;
    Ok(player)
}

async fn play_all(reference: &Path, spoil: fn(&mut Vec<Entry>), steps: Vec<Step>) -> Result<Player, String> {
    let mut steps = steps.into_iter();
    play(reference, spoil, |_, _| steps.next()).await
}

fn shown(tally: &Tally) -> String {
    format!(
        "{} steps, {} answered with an error, {} watchers, {} events of history, {} messages to watchers, \
         {} compactions, {} progress answers",
        tally.steps,
        tally.errors,
        tally.watchers,
        tally.events,
        tally.messages,
        tally.compactions,
        tally.progress_answers
    )
}

#[test]
fn watchers_leases_and_locks_are_those_of_a_real_etcd() {
    let Some(reference) = reference_binary() else { return };
    let seeds = env_number("PINION_WIRE_SEEDS", 3);
    let count = env_number("PINION_WIRE_STEPS", 200);
    let first = env_number("PINION_WIRE_SEED", 1);
    block_on(Duration::from_secs(60 + seeds * (20 + count / 2)), async {
        for seed in first..first + seeds {
            let mut script = Script::new(seed);
            let next = |number, world: &World| (number < count).then(|| script.next_step(world));
            match play(&reference, as_it_is, next).await {
                Ok(player) => println!("seed {seed}: {}: no difference", shown(&player.tally)),
                Err(difference) => panic!(
                    "seed {seed}, {difference}\nreplay: PINION_WIRE_SEED={seed} PINION_WIRE_SEEDS=1 \
                     PINION_WIRE_STEPS={count} cargo test --test wire watchers"
                ),
            }
        }
    });
}

#[test]
fn written_out_watch_and_lease_calls_are_answered_as_by_a_real_etcd() {
    let Some(reference) = reference_binary() else { return };
    block_on(TEST_DEADLINE, async {
        match play_all(&reference, as_it_is, watch_script::written_out()).await {
            Ok(player) => println!("{}: no difference", shown(&player.tally)),
            Err(difference) => panic!("{difference}"),
        }
    });
}

#[test]
fn large_revisions_are_cut_into_fragments_where_a_real_etcd_cuts() {
    let Some(reference) = reference_binary() else { return };
    block_on(TEST_DEADLINE, async {
        let player = match play_all(&reference, as_it_is, watch_script::fragments()).await {
            Ok(player) => player,
            Err(difference) => panic!("{difference}"),
        };
        let is_fragment = |entry: &&Entry| matches!(entry, Entry::Event { fragment: true, .. });
        let fragments = player.logs().concat().iter().filter(is_fragment).count();
        println!("{fragments} events in responses that announce another fragment");
        assert!(fragments > 5, "too little was cut: {fragments}");
    });
}

/// One change to what a watcher was told.
type Plant = (&'static str, fn(&mut Vec<Entry>) -> bool);

/// Changes the first event that can be changed.
fn on_event(log: &mut [Entry], mut change: impl FnMut(&mut Entry) -> bool) -> bool {
    log.iter_mut().any(|entry| matches!(entry, Entry::Event { .. }) && change(entry))
}

const PLANTS: [Plant; 10] = [
    ("an event lost", |log| {
        let place = log.iter().position(watch_log::is_event);
        place.map(|place| log.remove(place)).is_some()
    }),
    ("an event twice", |log| {
        let place = log.iter().position(watch_log::is_event);
        place.map(|place| log.insert(place, log[place].clone())).is_some()
    }),
    ("two events in the wrong order", |log| {
        let places: Vec<usize> = (0..log.len()).filter(|place| watch_log::is_event(&log[*place])).collect();
        places.len() > 1 && {
            log.swap(places[0], places[1]);
            true
        }
    }),
    ("another version", |log| {
        on_event(log, |entry| {
            let Entry::Event { event, .. } = entry else { return false };
            event.kv.as_mut().is_some_and(|kv| {
                kv.version += 1;
                true
            })
        })
    }),
    ("a previous value withheld", |log| {
        on_event(log, |entry| {
            let Entry::Event { event, .. } = entry else { return false };
            event.prev_kv.take().is_some()
        })
    }),
    ("another header revision of an event", |log| {
        on_event(log, |entry| {
            let Entry::Event { header_revision, .. } = entry else { return false };
            *header_revision += 1;
            true
        })
    }),
    ("a fragment that does not say so", |log| {
        on_event(log, |entry| {
            let Entry::Event { fragment, .. } = entry else { return false };
            std::mem::replace(fragment, false)
        })
    }),
    ("another cut into fragments", |log| {
        on_event(log, |entry| {
            let Entry::Event { part, .. } = entry else { return false };
            *part > 0 && {
                *part -= 1;
                true
            }
        })
    }),
    ("another header revision of a created response", |log| {
        log.iter_mut().any(|entry| match entry {
            Entry::Created(control) => {
                control.header_revision += 1;
                true
            }
            _ => false,
        })
    }),
    ("a cancel without its compact revision", |log| {
        log.iter_mut().any(|entry| match entry {
            Entry::Canceled(control) => std::mem::take(&mut control.compact_revision) != 0,
            _ => false,
        })
    }),
];

/// The comparison must see what it is for: each kind of change is planted into a log of a real play.
#[test]
fn each_planted_difference_in_what_watchers_are_told_is_seen() {
    let Some(reference) = reference_binary() else { return };
    block_on(TEST_DEADLINE, async {
        let mut logs = Vec::new();
        let compacted_start = watch_script::written_out().into_iter().take(60).collect();
        for steps in [watch_script::fragments(), compacted_start] {
            let player = play_all(&reference, as_it_is, steps).await;
            logs.extend(player.unwrap_or_else(|difference| panic!("{difference}")).logs());
        }
        for (what, plant) in PLANTS {
            let mut planted = 0;
            for log in &logs {
                let mut changed = log.clone();
                if plant(&mut changed) {
                    planted += 1;
                    assert!(watch_log::compare(log, &changed, true).is_err(), "{what} and nobody noticed");
                }
            }
            assert!(planted > 0, "{what}: no watcher was told anything that could be changed so");
        }
        // And through the whole player.
        let spoil: fn(&mut Vec<Entry>) = |log| {
            (PLANTS[4].1)(log);
        };
        let found = play_all(&reference, spoil, watch_script::fragments()).await;
        let difference = found.err().expect("a previous value is missing and nobody noticed");
        assert!(difference.contains("prev_kv"), "{difference}");
    });
}

/// Signs of life of idle watchers, which need an interval shorter than the 10 minutes of the default.
#[test]
fn idle_watchers_are_told_the_revision_as_a_real_etcd_tells_it() {
    let Some(reference) = reference_binary() else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        // The flag lost its prefix in 3.6.
        let old = "--experimental-watch-progress-notify-interval=200ms";
        let new = if server_is_etcd() { old } else { "--watch-progress-notify-interval=200ms" };
        let reference = Launch::binary(reference, work.join("reference")).flag(old).start().await;
        let subject = Launch::new(work.join("subject")).flag(new).start().await;
        let told = [signs_of_life(&reference).await, signs_of_life(&subject).await];
        assert_eq!(told[0], told[1], "reference and subject");
        println!("{:?}", told[0]);
    });
}

/// The first signs of life of watchers that asked for them, by watcher and revision.
async fn signs_of_life(server: &Server) -> Vec<(i64, i64)> {
    let client = server.connect().await;
    client.put_kv("elsewhere", "1").await.unwrap();
    client.put_kv("seen", "1").await.unwrap();
    let (mut requests, mut answers) = client.watch().await.unwrap();
    let watcher = |watch_id, key: &'static str, progress_notify, start_revision| pb::WatchCreateRequest {
        key: key.into(),
        watch_id,
        progress_notify,
        start_revision,
        ..Default::default()
    };
    requests.create(watcher(1, "idle", true, 0)).unwrap();
    requests.create(watcher(2, "did not ask", false, 0)).unwrap();
    requests.create(watcher(3, "seen", true, 1)).unwrap();
    let mut told = Vec::new();
    let mut rounds = 0;
    let mut written = false;
    while rounds < 4 {
        let response = answers.next().await.unwrap().expect("the stream goes on");
        if response.created || !response.events.is_empty() {
            continue;
        }
        let revision = response.header.unwrap_or_default().revision;
        assert_ne!(response.watch_id, 2, "it did not ask");
        if response.watch_id == 1 {
            rounds += 1;
        }
        if !told.contains(&(response.watch_id, revision)) {
            told.push((response.watch_id, revision));
        }
        if rounds == 2 && !written {
            written = true;
            client.put_kv("elsewhere", "2").await.unwrap();
        }
    }
    told.sort_unstable();
    told
}

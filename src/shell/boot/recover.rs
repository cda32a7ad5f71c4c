//! `pinion recover`: a new cluster out of the data directories of those that are left of an old one.
//!
//! First it looks: each directory is read as `pinion status` reads it, one after the other, so that memory holds one state
//! at a time, and `membership::survivors` says which one holds the most and what that proves. Then, where a new directory
//! is named, the chosen one is read again and its state written there as that of the only member of a new cluster, by the
//! machinery of `--force-new-cluster`. The survivors' directories are only read.
//!
//! The new directory is made beside its place, under a name that ends with `.unfinished` and with the mark that a restore
//! has, too, and renamed when it is whole. Ended at any line, the next run begins anew, or says that only the rename is left.
//!
//! The new cluster has another id, so whoever comes back of the old one is refused where they meet; the member has a new
//! life at its first start, so it is not taken for the old process of the same id either.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::data_dir::{DataDir, IdentityFile};
use super::force_new;
use super::host;
use super::inspect::{Held, life};
use super::restore::{ToolError, write_data};
use crate::config::{Format, Recover};
use crate::membership::{Member, Survivor, lost};
use crate::peer::Lives;
use crate::shell::runtime::logging;
use crate::shell::store::check_format_level;
use crate::shell::store::checkpoint_file::sync_dir;
use crate::types::{FormatLevel, LogIndex, MemberId};

/// The name of a directory in the making, behind its own.
const UNFINISHED_SUFFIX: &str = ".unfinished";

fn told(text: impl Into<String>) -> ToolError {
    ToolError::Told(text.into())
}

/// What one directory holds.
struct Found {
    identity: IdentityFile,
    lives: Option<Lives>,
    name: String,
    log: Survivor,
    checkpoint: LogIndex,
    revision: i64,
    compact_revision: i64,
    keys: u64,
    level: FormatLevel,
    segments: usize,
    is_torn: bool,
}

impl Found {
    fn look(dir: &str) -> Result<Self, ToolError> {
        let held = Held::read(Path::new(dir), None)?;
        let (machine, member) = (&held.machine, held.identity.member);
        let checkpoint = (held.header.index, held.header.term);
        Ok(Self {
            log: Survivor::new(member, checkpoint, &held.tail, held.commit),
            name: machine.cluster().member(member).map(|own| own.name.clone()).unwrap_or_default(),
            checkpoint: held.header.index,
            revision: machine.store().current_revision(),
            compact_revision: machine.store().compact_revision(),
            keys: machine.store().keys_count(),
            level: machine.format_level(),
            segments: held.segments,
            is_torn: held.torn,
            lives: held.lives,
            identity: held.identity,
        })
    }

    fn member(&self) -> MemberId {
        self.identity.member
    }

    fn text(&self, dir: &str) -> String {
        let (term, index) = self.log.last();
        let torn = if self.is_torn { ", a torn end that no sync covered" } else { "" };
        format!(
            "{dir}: member {} {:?} of cluster {}, life {}, format level {}\n  last entry: term {}, index {}; known as \
             committed: {}, revision {}, compacted at {}, {} keys\n  checkpoint at index {}, log of {} segments{torn}\n",
            self.member(),
            self.name,
            self.identity.cluster,
            life(self.lives.as_ref()),
            self.level,
            term.0,
            index.0,
            self.log.commit.0,
            self.revision,
            self.compact_revision,
            self.keys,
            self.checkpoint.0,
            self.segments,
        )
    }

    fn json(&self, dir: &str) -> Value {
        let (term, index) = self.log.last();
        json!({
            "directory": dir,
            "member": self.member().to_string(),
            "name": self.name,
            "cluster": self.identity.cluster.to_string(),
            "life": life(self.lives.as_ref()),
            "formatLevel": self.level.0,
            "lastTerm": term.0,
            "lastIndex": index.0,
            "commitIndex": self.log.commit.0,
            "revision": self.revision,
            "compactRevision": self.compact_revision,
            "keys": self.keys,
            "checkpointIndex": self.checkpoint.0,
            "logSegments": self.segments,
            "tornTail": self.is_torn,
        })
    }
}

/// Which directory is gone on with.
struct Choice {
    /// Its place among those that are given.
    chosen: usize,
    /// The last entry of it that is known to be committed, by any of the survivors.
    certain: LogIndex,
    /// Given up with another directory, which is further.
    given_up: Option<String>,
}

/// What the chosen directory comes to.
struct Outcome {
    dir: String,
    certain_revision: i64,
    revision: i64,
    certain_index: LogIndex,
    last_index: LogIndex,
    /// Voters of the old cluster that are not among the survivors.
    missing: BTreeSet<MemberId>,
    voters: usize,
    /// Those may have committed what no survivor holds.
    may_be_more: bool,
    given_up: Option<String>,
}

/// Judges whether directories are those of one cluster, and chooses.
fn choose(tool: &Recover, found: &[Found]) -> Result<Choice, ToolError> {
    let dir = |slot: usize| &tool.dirs[slot];
    let mut by_member = BTreeMap::<MemberId, usize>::new();
    for (slot, one) in found.iter().enumerate() {
        if one.identity.cluster != found[0].identity.cluster {
            return Err(told(format!(
                "{} is of cluster {}, and {} of cluster {}: give the directories of one cluster",
                dir(0),
                found[0].identity.cluster,
                dir(slot),
                one.identity.cluster
            )));
        }
        if let Some(first) = by_member.insert(one.member(), slot) {
            return Err(told(format!(
                "{} and {} are both of member {}: one of them is an older copy, or one that begun anew. Give the one that \
                 the member used last",
                dir(first),
                dir(slot),
                one.member()
            )));
        }
    }
    for (a, one) in found.iter().enumerate() {
        for (b, other) in found.iter().enumerate().filter(|(b, _)| *b != a) {
            let (Some(lives), Some(theirs)) = (&one.lives, &other.lives) else { continue };
            if let Err(problem) =
                lives.judge(one.member(), other.member(), theirs.own, theirs.of(one.member()))
            {
                return Err(told(format!(
                    "{} and {} do not belong together: {problem}. Here: leave out the directory whose history does not count",
                    dir(a),
                    dir(b)
                )));
            }
        }
    }
    let furthest =
        (0..found.len()).rev().max_by_key(|slot| (found[*slot].log.last(), found[*slot].log.commit));
    let furthest = furthest.expect("at least one directory is given");
    for (slot, other) in found.iter().enumerate().filter(|(slot, _)| *slot != furthest) {
        if let Err(problem) = found[furthest].log.check(&other.log) {
            return Err(told(format!(
                "{} and {} do not fit together: {problem}. One of them is an older copy, or has lost something; leave that \
                 one out",
                dir(furthest),
                dir(slot)
            )));
        }
    }
    let chosen = match &tool.force_new_cluster {
        None => furthest,
        Some(forced) => tool.dirs.iter().position(|dir| dir == forced).expect("the command line was checked"),
    };
    if found[chosen].log.last() == found[furthest].log.last() {
        let certain = found.iter().map(|one| one.log.commit).max().unwrap_or_default();
        return Ok(Choice { chosen, certain, given_up: None });
    }
    let of = |slot: usize| {
        let (term, index) = found[slot].log.last();
        format!("{}, whose last entry has term {} and index {}", dir(slot), term.0, index.0)
    };
    if !tool.force_older {
        return Err(told(format!(
            "--force-new-cluster={}: it is older than {}; its own last entry has term {} and index {}. Leave the flag out to \
             go on with the other one. To give up what only that one holds, acknowledged or not, give \
             --force-new-cluster-of-older too",
            dir(chosen),
            of(furthest),
            found[chosen].log.last().0.0,
            found[chosen].log.last().1.0
        )));
    }
    // What the others know as committed at the same places may be something else.
    Ok(Choice { chosen, certain: found[chosen].log.commit, given_up: Some(of(furthest)) })
}

impl Outcome {
    fn json(&self) -> Value {
        json!({
            "chosen": self.dir,
            "certainIndex": self.certain_index.0,
            "certainRevision": self.certain_revision,
            "lastIndex": self.last_index.0,
            "revision": self.revision,
            "missing": self.missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "mayBeMore": self.may_be_more,
            "olderThanAnother": self.given_up.is_some(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!("\nThe new cluster goes on with {}.\n", self.dir);
        if let Some(given_up) = &self.given_up {
            text += &format!(
                "It is older than {given_up}: what only that one holds is given up, though it may have been acknowledged.\n"
            );
        }
        text += &format!(
            "Revisions up to {} are certainly there: survivors knew the entries up to {} as committed.\n",
            self.certain_revision, self.certain_index.0
        );
        if self.certain_index < self.last_index {
            text += &format!(
                "{} entries behind them lead to revision {}. No survivor knows whether they were committed. They are kept, \
                 since clients may have been told so; a write that was never acknowledged may be among them.\n",
                self.last_index.0 - self.certain_index.0,
                self.revision
            );
        }
        let missing = self.missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        text += &match (self.missing.len(), self.may_be_more, self.given_up.is_some()) {
            (_, _, true) => String::new(),
            (0, false, _) => {
                "No member with a vote is missing: nothing that was acknowledged is lost.\n".to_owned()
            }
            (count, false, _) => format!(
                "Nothing that was acknowledged is lost: the {count} of {} voters that are missing ({missing}) were no \
                 quorum, so whatever they committed one of the survivors holds, and this one holds it too.\n",
                self.voters
            ),
            (count, true, _) => format!(
                "What only lost members held is not here and cannot be counted: the {count} of {} voters that are missing \
                 ({missing}) were a quorum by themselves, and may have acknowledged writes that no survivor has seen.\n",
                self.voters
            ),
        };
        text += "All of this holds if each directory is as its member left it, and no older copy.\n";
        text
    }
}

/// `pinion recover`: looks at the survivors, and makes a new directory if one is named.
///
/// # Errors
/// [`ToolError`], whose text says what to do. The survivors are as they were, and there is no new directory.
pub(in crate::shell) fn recover(tool: &Recover) -> Result<String, ToolError> {
    let place = tool.data_dir.as_deref().map(Place::check).transpose()?;
    let looked: Vec<Result<Found, ToolError>> = tool.dirs.iter().map(|dir| Found::look(dir)).collect();
    let mut report: String = (tool.dirs.iter().zip(&looked))
        .map(|(dir, looked)| match looked {
            Ok(found) => found.text(dir),
            Err(problem) => format!("{dir}: {}\n", crate::shell::runtime::exit::with_causes(problem)),
        })
        .collect();
    let json: Vec<Value> = (tool.dirs.iter().zip(&looked))
        .filter_map(|(dir, looked)| Some(looked.as_ref().ok()?.json(dir)))
        .collect();
    let judged = judge(tool, looked);
    let (mut held, outcome) = match judged {
        Ok(judged) => judged,
        Err(problem) => {
            logging::complain(&report);
            return Err(problem);
        }
    };
    report += &outcome.text();
    let mut shown = json!({ "directories": json, "outcome": outcome.json() });
    match place {
        Some(place) => {
            let made = make(tool, &place, &mut held)?;
            shown["made"] = json!({
                "directory": place.target.display().to_string(),
                "cluster": made.identity.cluster.to_string(),
                "member": made.identity.member.to_string(),
                "revision": made.revision,
            });
            report += &made.text(tool, &place);
        }
        None => report += "\nNothing was made: --data-dir NEW says where.\n",
    }
    Ok(match tool.format {
        Format::Json => format!("{shown}\n"),
        _ => report,
    })
}

/// What has become of the looks at all directories: the chosen one, applied to its last entry.
fn judge(tool: &Recover, looked: Vec<Result<Found, ToolError>>) -> Result<(Held, Outcome), ToolError> {
    let unusable = looked.iter().filter(|looked| looked.is_err()).count();
    let found: Vec<Found> = looked.into_iter().filter_map(Result::ok).collect();
    if 0 < unusable {
        return Err(told(format!(
            "{unusable} of {} directories cannot be used, for the reasons above. Mend that, or leave them out: a member whose \
             directory is left out counts as lost",
            tool.dirs.len()
        )));
    }
    let choice = choose(tool, &found)?;
    let survivors: BTreeSet<MemberId> = found.iter().map(Found::member).collect();
    let dir = &tool.dirs[choice.chosen];
    let mut held = Held::read(Path::new(dir), None)?;
    let log = &found[choice.chosen].log;
    if (held.last, held.commit) != (log.last(), log.commit) {
        return Err(told(format!("{dir} was changed while it was read; is a member running on it?")));
    }
    held.apply_through(choice.certain)?;
    let certain_revision = held.machine.store().current_revision();
    held.apply_through(held.last.1)?;
    let (missing, may_be_more) = lost(&held.voters, &survivors);
    let outcome = Outcome {
        dir: dir.clone(),
        certain_revision,
        revision: held.machine.store().current_revision(),
        certain_index: choice.certain,
        last_index: held.last.1,
        missing,
        voters: held.machine.cluster().voters().count(),
        may_be_more,
        given_up: choice.given_up,
    };
    Ok((held, outcome))
}

/// Where the new directory is made.
struct Place {
    target: PathBuf,
    /// Where it is before it is whole.
    aside: PathBuf,
}

impl Place {
    /// Refuses a place where there is something, before anything is read.
    fn check(target: &str) -> Result<Self, ToolError> {
        let target = PathBuf::from(target);
        let mut aside: OsString = target.clone().into();
        aside.push(UNFINISHED_SUFFIX);
        let place = Self { target, aside: PathBuf::from(aside) };
        if place.target.file_name().is_none() {
            return Err(told(format!(
                "--data-dir={}: the name of a new directory is expected",
                place.target.display()
            )));
        }
        // It is replaced by the one that is made, so not even the directory of a fresh disk will do.
        let is_nothing = match fs::read_dir(&place.target) {
            Ok(mut names) => names.next().is_none(),
            Err(_) => !place.target.exists(),
        };
        if !is_nothing {
            return Err(told(format!(
                "--data-dir={} is there already: name one that is not, or is empty and no mount point",
                place.target.display()
            )));
        }
        if place.aside.join("IDENTITY").exists() && DataDir::check_empty(&place.aside, None).is_err() {
            return Err(told(format!(
                "{0} holds the whole result of an earlier run that was ended in front of its last step: rename it to {1}, or \
                 delete it",
                place.aside.display(),
                place.target.display()
            )));
        }
        DataDir::check_empty(&place.aside, None)?;
        Ok(place)
    }

    /// Gives the directory its name.
    fn finish(&self) -> Result<(), ToolError> {
        let parent = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::rename(&self.aside, &self.target).and_then(|()| sync_dir(parent)).map_err(|error| {
            told(format!(
                "the data is whole in {}, and cannot be renamed to {}: {error}. Rename it, or delete it and run this again",
                self.aside.display(),
                self.target.display()
            ))
        })
    }
}

/// The new member.
struct Made {
    identity: IdentityFile,
    revision: i64,
    own: Member,
    /// The other members of the old cluster.
    others: Vec<Member>,
}

fn make(tool: &Recover, place: &Place, held: &mut Held) -> Result<Made, ToolError> {
    let member = held.identity.member;
    let others = held.machine.cluster().members().filter(|other| other.id != member).cloned().collect();
    let applied = held.applied();
    force_new::reduce(&mut held.machine, &mut held.recovered, applied, member, |_| Ok(()))?;
    check_format_level(held.machine.format_level(), FormatLevel::HIGHEST)
        .map_err(super::recovery::RecoveryError::from)?;
    let token = match &tool.token {
        Some(token) => token.clone(),
        None => format!("{:016x}", host::entropy().map_err(|error| told(format!("no randomness: {error}")))?),
    };
    let peer_urls = tool.peer_urls.as_ref().map(|urls| urls.iter().map(ToString::to_string).collect());
    held.machine
        .renew_cluster(member, &token, peer_urls)
        .map_err(|problem| told(format!("--initial-advertise-peer-urls: {problem}")))?;
    if 0 < tool.bump_revision {
        held.machine.raise_revision(tool.bump_revision).map_err(|revision| {
            told(format!("revision {revision} cannot be raised by {}", tool.bump_revision))
        })?;
        while !held.machine.work_slice(usize::MAX) {}
    }
    let data_dir = DataDir::begin_restore(&place.aside, None)?;
    let identity = write_data(&data_dir, &mut held.machine, member, &held.recovered.checkpoint)?;
    place.finish()?;
    let own = held.machine.cluster().member(member).expect("it is the only one").clone();
    Ok(Made { identity, revision: held.machine.store().current_revision(), own, others })
}

impl Made {
    fn text(&self, tool: &Recover, place: &Place) -> String {
        let dir = place.target.display();
        let name = |member: &Member, otherwise: &str| match member.name.as_str() {
            "" => otherwise.to_owned(),
            name => name.to_owned(),
        };
        let own_name = tool.name.clone().unwrap_or_else(|| name(&self.own, "NAME"));
        let (peer_urls, client_urls) = (self.own.peer_urls.join(","), self.own.client_urls.join(","));
        let client_urls = if client_urls.is_empty() { "CLIENT-URL".to_owned() } else { client_urls };
        let mut text = format!(
            "\n{dir} holds member {} of the new cluster {}, at revision {}.\n\nNext:\n\
             1. Delete the data directories of the old cluster, or keep them where nobody starts them. Their members are refused \
             by the new cluster, but a quorum of them would still answer clients with the old history.\n\
             2. Start the member, with its other flags as before (certificates, addresses to listen on):\n     \
             pinion --name={own_name} --data-dir={dir} --initial-advertise-peer-urls={peer_urls} \
             --advertise-client-urls={client_urls} --listen-client-urls={client_urls} --listen-peer-urls={peer_urls}\n\
             3. Add one member after the other, each with an empty data directory and --initial-cluster-state=existing, and \
             wait until it has started before the next one:\n",
            self.identity.member, self.identity.cluster, self.revision,
        );
        let lines: Vec<(String, String)> = match self.others.as_slice() {
            [] => vec![("NAME".to_owned(), "PEER-URL".to_owned())],
            others => others.iter().map(|other| (name(other, "NAME"), other.peer_urls.join(","))).collect(),
        };
        for (name, urls) in lines {
            text += &format!("     etcdctl --endpoints={client_urls} member add {name} --peer-urls={urls}\n");
        }
        text
    }
}

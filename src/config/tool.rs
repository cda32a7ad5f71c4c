//! Commands: what `pinion` does besides running a member: tools for files, and a gateway.
//!
//! A command is the first argument and no flag, so a member's command line, which has flags only, never means one.
//! Behind it flags and files come in any order. Flags that a member has too are read by the member's own rules.
//!
//! Compatibility: `snapshot restore` and `snapshot status` have etcdutl's flags and defaults.

use super::commands::SHELLS;
use super::demo::{self, Demo};
use super::doctor::{self, Doctor};
use super::gateway::{self, Gateway};
use super::grpc_proxy::{self, GrpcProxy};
use super::parse::Refused;
use super::url::Url;
use super::words::{Words, is_help};
use super::{Config, Parsed, completion, help, man, nearest};

/// What a command line asks for that begins with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// Make a member's data directory out of a snapshot.
    Restore(Box<Restore>),
    /// Tell what the survivors of a cluster hold, and make a new cluster of it.
    Recover(Box<Recover>),
    /// Tell what a snapshot holds.
    SnapshotStatus { file: String, format: Format },
    /// Tell what a data directory holds.
    Status { dir: String, wal_dir: Option<String>, format: Format },
    /// The `HashKV` of a data directory, or of a snapshot; at the current revision unless given.
    HashKv { path: String, wal_dir: Option<String>, revision: i64, format: Format },
    /// Forward connections to members.
    Gateway(Box<Gateway>),
    /// Pass calls on to members.
    GrpcProxy(Box<GrpcProxy>),
    /// Run three members for a look.
    Demo(Demo),
    /// Look at this host.
    Doctor(Doctor),
    /// Print this.
    Print(String),
}

/// `snapshot restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    pub file: String,
    /// What the flags that a member has too say of it.
    pub config: Config,
    /// Take a file without its hash, or with another one: the database of a member's directory.
    pub skip_hash_check: bool,
    /// How much higher the revision is afterwards, so that watchers and caches of later ones notice.
    pub bump_revision: u64,
}

/// `recover`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recover {
    /// The survivors' data directories.
    pub dirs: Vec<String>,
    /// Where the new member's data is made; without it the survivors are only looked at.
    pub data_dir: Option<String>,
    /// The new member's name; as before unless given.
    pub name: Option<String>,
    /// Where other members reach it; as before unless given.
    pub peer_urls: Option<Vec<Url>>,
    /// What the new cluster's id is made of besides the old one's; drawn unless given.
    pub token: Option<String>,
    /// The directory that is to be gone on with, whether or not it is the furthest.
    pub force_new_cluster: Option<String>,
    /// That one may be older than another that is given.
    pub force_older: bool,
    /// As for a restore.
    pub bump_revision: u64,
    pub format: Format,
}

/// `-w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Simple,
    Table,
    Json,
    Fields,
}

const USAGE: &str = "\
Commands, none of which needs a server:

  pinion gateway start [flags]          forwards TCP connections to members; pinion gateway --help says more
      --endpoints, --listen-addr, --retry-delay, --discovery-srv, --discovery-srv-name,
      --trusted-ca-file, --insecure-discovery
  pinion grpc-proxy start [flags]       passes calls on to members; pinion grpc-proxy --help has its flags
  pinion snapshot restore FILE [flags]  makes a data directory out of a snapshot, of etcd or of Pinion
      --name, --data-dir, --wal-dir, --initial-cluster, --initial-cluster-token,
      --initial-advertise-peer-urls     as those of the member that will start on it
      --skip-hash-check                 take a file without its hash (a copy of member/snap/db)
      --bump-revision N --mark-compacted
                                        raise the revision by N and compact everything below
  pinion recover DIR... [flags]         a majority is lost for good: tells what the data directories of the survivors hold
      --data-dir NEW                    makes there the only member of a new cluster, of the survivor whose last term, then
                                        index, is the highest; the survivors stay as they are. Without it nothing is made
      --name, --initial-advertise-peer-urls, --initial-cluster-token
                                        as for a restore; the name and the URLs are that survivor's unless given
      --bump-revision N --mark-compacted
                                        as for a restore: clients that saw writes which are lost begin anew
      --force-new-cluster DIR           goes on with this one of the directories
      --force-new-cluster-of-older      the same, though another one of them is further
  pinion snapshot status FILE           hash, revision, keys, size and version of a snapshot
  pinion status DIR [--wal-dir DIR]     what a data directory of Pinion holds
  pinion hashkv DIR|FILE [--rev N] [--wal-dir DIR]
                                        etcd's HashKV of a data directory of Pinion, or of a snapshot

  pinion demo [flags]                   three members on this machine, with data and a load, and keys to kill, freeze and
                                        bring back the leader or a follower; each gap without an accepted write in
                                        milliseconds. Nothing of it is left at the end. Without a terminal it reads words
                                        from standard input, a line each
      --port PORT                       the first member's clients come there, the others' 10 and 20 above, members one
                                        above their clients; free ports unless given
      --dir DIR                         make the temporary directory here

  pinion doctor [flags]                 looks whether this host gives a member what it needs, and says what to type where not;
                                        ends with 1 if a member could not start or not keep its promises here
      --data-dir DIR                    where the data will be; its disk is tried with small synced writes
      --cores 0-2,5                     cores that roles are to be pinned to
      --peers HOST:PORT,...             members to be, which are dialed
      --unit FILE                       write a systemd unit with cores, memory and directories that fit this host
      --apply                           change what can be changed, each change with its undo; -w json for machines

  pinion completion bash|zsh|fish       a script by which that shell completes commands and flags
  pinion man                            the manual page: pinion man | man -l -
  pinion version                        release, etcd's API version, commit and build

  -w, --write-out simple|table|json|fields
";

/// Flags of `snapshot restore` that a member has too.
const MEMBERS_OWN: [&str; 6] = [
    "name",
    "data-dir",
    "wal-dir",
    "initial-cluster",
    "initial-cluster-token",
    "initial-advertise-peer-urls",
];

/// Reads arguments (without the program's own name). None: they are no command, but a member's flags.
pub fn parse(args: &[String]) -> Option<Result<Tool, Refused>> {
    let (first, rest) = args.split_first()?;
    match (first.as_str(), rest.split_first()) {
        ("snapshot", Some((second, rest))) if second == "restore" => Some(restore(rest)),
        ("snapshot", Some((second, rest))) if second == "status" => Some(snapshot_status(rest)),
        ("snapshot", Some((second, _))) if !is_help(second) => {
            Some(Err(Refused::usage(format!("snapshot {second}: there are `restore` and `status`\n{USAGE}"))))
        }
        ("snapshot", None) => Some(Err(Refused::usage(format!("snapshot: restore or status?\n{USAGE}")))),
        ("snapshot" | "help", _) => Some(Ok(Tool::Print(USAGE.to_owned()))),
        ("recover", _) => Some(recover(rest)),
        ("status", _) => Some(status(rest)),
        ("hashkv", _) => Some(hash_kv(rest)),
        ("demo", _) => Some(demo::parse(rest).map(|demo| match demo {
            Some(demo) => Tool::Demo(demo),
            None => Tool::Print(USAGE.to_owned()),
        })),
        ("doctor", _) => Some(doctor::parse(rest).map(|doctor| match doctor {
            Some(doctor) => Tool::Doctor(doctor),
            None => Tool::Print(USAGE.to_owned()),
        })),
        ("completion", _) => Some(completion(rest)),
        ("man", None) => Some(Ok(Tool::Print(man::page()))),
        ("version", None) => Some(Ok(Tool::Print(help::version()))),
        ("gateway", _) => Some(gateway::parse(rest).map(|gateway| match gateway {
            Some(gateway) => Tool::Gateway(Box::new(gateway)),
            None => Tool::Print(gateway::USAGE.to_owned()),
        })),
        ("grpc-proxy", _) => Some(grpc_proxy::parse(rest).map(|proxy| match proxy {
            Some(proxy) => Tool::GrpcProxy(Box::new(proxy)),
            None => Tool::Print(grpc_proxy::usage()),
        })),
        _ => None,
    }
}

fn restore(args: &[String]) -> Result<Tool, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Tool::Print(USAGE.to_owned()));
    }
    let mut words = Words::read(args, &["skip-hash-check", "mark-compacted"])?;
    let skip_hash_check = words.take_flag("skip-hash-check")?;
    let bump_revision = words.take_bump()?;
    // etcd's own memory map; the state here takes what it needs.
    words.take_number("initial-memory-map-size")?;
    let mut own = Vec::new();
    for (name, value) in std::mem::take(&mut words.flags) {
        if !MEMBERS_OWN.contains(&name.as_str()) {
            let hint = nearest::flag_hint_among(&name, "snapshot restore");
            return Err(Refused::usage(format!("flag provided but not defined: -{name}{hint}")));
        }
        let value = value.ok_or_else(|| Refused::usage(format!("flag needs an argument: -{name}")))?;
        own.push(format!("--{name}={value}"));
    }
    let file = words.only("the snapshot's file")?;
    match super::parse(own, [], |_| Err("it is not read here".to_owned())) {
        Parsed::Run { config, .. } => {
            Ok(Tool::Restore(Box::new(Restore { file, config: *config, skip_hash_check, bump_revision })))
        }
        Parsed::Refused(refused) => Err(refused),
        Parsed::Print(_) | Parsed::PrintMetrics => unreachable!("no such flag was passed on"),
    }
}

fn recover(args: &[String]) -> Result<Tool, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Tool::Print(USAGE.to_owned()));
    }
    let mut words = Words::read(args, &["mark-compacted", "force-new-cluster-of-older"])?;
    let format = words.take_format()?;
    if !matches!(format, Format::Simple | Format::Json) {
        return Err(Refused::usage("--write-out: recover has simple and json".to_owned()));
    }
    if words.take("initial-cluster")?.is_some() {
        return Err(Refused::usage(
            "--initial-cluster: a recovered cluster has one member, of --name and --initial-advertise-peer-urls; others \
             are added to it when it runs"
                .to_owned(),
        ));
    }
    if words.take("wal-dir")?.is_some() {
        return Err(Refused::usage(
            "--wal-dir: the log of a survivor is read from the wal/ in its directory, and that of the new member is made \
             there; move its files before the first start to have them elsewhere"
                .to_owned(),
        ));
    }
    let name = words.take("name")?;
    if name.as_deref() == Some("") {
        return Err(Refused::usage("--name: a member needs a name".to_owned()));
    }
    let peer_urls = words.take("initial-advertise-peer-urls")?;
    let peer_urls = peer_urls.map(|text| Url::parse_list(&text)).transpose();
    let peer_urls =
        peer_urls.map_err(|error| Refused::usage(format!("--initial-advertise-peer-urls: {error}")))?;
    let (data_dir, token) = (words.take("data-dir")?, words.take("initial-cluster-token")?);
    let force_new_cluster = words.take("force-new-cluster")?;
    let force_older = words.take_flag("force-new-cluster-of-older")?;
    let bump_revision = words.take_bump()?;
    words.end("recover")?;
    let dirs = words.positional;
    if dirs.is_empty() {
        return Err(Refused::usage(format!("recover: of which data directories?\n{USAGE}")));
    }
    if let Some(forced) = &force_new_cluster
        && !dirs.contains(forced)
    {
        return Err(Refused::contradiction(format!(
            "--force-new-cluster={forced}: it is none of the directories that are given"
        )));
    }
    if force_older && force_new_cluster.is_none() {
        return Err(Refused::contradiction(
            "--force-new-cluster-of-older: which one? --force-new-cluster names it",
        ));
    }
    Ok(Tool::Recover(Box::new(Recover {
        dirs,
        data_dir,
        name,
        peer_urls,
        token,
        force_new_cluster,
        force_older,
        bump_revision,
        format,
    })))
}

fn snapshot_status(args: &[String]) -> Result<Tool, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Tool::Print(USAGE.to_owned()));
    }
    let mut words = Words::read(args, &[])?;
    let format = words.take_format()?;
    words.end("snapshot status")?;
    Ok(Tool::SnapshotStatus { file: words.only("the snapshot's file")?, format })
}

fn status(args: &[String]) -> Result<Tool, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Tool::Print(USAGE.to_owned()));
    }
    let mut words = Words::read(args, &[])?;
    let (format, wal_dir) = (words.take_format()?, words.take("wal-dir")?);
    words.end("status")?;
    Ok(Tool::Status { dir: words.only("the data directory")?, wal_dir, format })
}

fn hash_kv(args: &[String]) -> Result<Tool, Refused> {
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(Tool::Print(USAGE.to_owned()));
    }
    let mut words = Words::read(args, &[])?;
    let (format, wal_dir) = (words.take_format()?, words.take("wal-dir")?);
    let revision = words.take_number("rev")?.unwrap_or_default();
    words.end("hashkv")?;
    Ok(Tool::HashKv {
        path: words.only("the data directory or the snapshot's file")?,
        wal_dir,
        revision,
        format,
    })
}

fn completion(args: &[String]) -> Result<Tool, Refused> {
    let script = args.first().filter(|_| args.len() == 1).and_then(|shell| completion::script(shell));
    script.map(Tool::Print).ok_or_else(|| {
        Refused::usage(format!("completion: of which shell? {} are known\n{USAGE}", SHELLS.join(", ")))
    })
}

impl Words {
    /// By how much the revision is raised: `--bump-revision`, with `--mark-compacted`.
    fn take_bump(&mut self) -> Result<u64, Refused> {
        let mark_compacted = self.take_flag("mark-compacted")?;
        let bump = self.take_number("bump-revision")?.unwrap_or_default();
        let bump = u64::try_from(bump)
            .map_err(|_| Refused::usage(format!("--bump-revision={bump}: expected a number from 0 on")))?;
        if (0 < bump) != mark_compacted {
            return Err(Refused::contradiction(
                "--mark-compacted and --bump-revision go together: a higher revision helps only if the revisions below \
                 are compacted, so that watchers and caches that know of them begin anew",
            ));
        }
        Ok(bump)
    }

    fn take_format(&mut self) -> Result<Format, Refused> {
        let (short, long) = (self.take("w")?, self.take("write-out")?);
        match long.or(short).as_deref() {
            None | Some("simple") => Ok(Format::Simple),
            Some("table") => Ok(Format::Table),
            Some("json") => Ok(Format::Json),
            Some("fields") => Ok(Format::Fields),
            Some(other) => Err(Refused::usage(format!(
                "--write-out={other}: expected one of simple, table, json, fields"
            ))),
        }
    }

    /// The only argument that is no flag.
    fn only(self, what: &str) -> Result<String, Refused> {
        match <[String; 1]>::try_from(self.positional) {
            Ok([only]) => Ok(only),
            Err(others) => {
                Err(Refused::usage(format!("{} arguments instead of one, {what}\n{USAGE}", others.len())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::commands::COMMANDS;
    use crate::config::flags::{self, Support};

    fn parsed(line: &str) -> Option<Result<Tool, Refused>> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args)
    }

    fn refusal(line: &str) -> String {
        match parsed(line) {
            Some(Err(refused)) => refused.message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_members_command_line_is_no_command() {
        for line in ["", "--name=snapshot", "-h", "--data-dir status", "etcd", "restore x"] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }

    #[test]
    fn restore_takes_etcdutls_flags_in_any_order_with_the_members_defaults() {
        let line = "snapshot restore --data-dir d s.db --name=n --initial-cluster n=http://h:1,o=http://p:2 \
                    --initial-advertise-peer-urls=http://h:1 --skip-hash-check --bump-revision 7 --mark-compacted=true";
        let Some(Ok(Tool::Restore(restore))) = parsed(line) else { panic!("{:?}", parsed(line)) };
        assert_eq!((&*restore.file, restore.skip_hash_check, restore.bump_revision), ("s.db", true, 7));
        assert_eq!(restore.config.process.name, "n");
        let Some(Ok(Tool::Restore(plain))) = parsed("snapshot restore s.db") else { panic!("plain") };
        assert_eq!((&*plain.config.process.name, plain.skip_hash_check), ("default", false));
        assert_eq!(plain.config.cluster.initial_cluster_token, "etcd-cluster");
    }

    #[test]
    fn recover_looks_only_until_it_is_told_where_to_make_a_new_directory() {
        let Some(Ok(Tool::Recover(looked))) = parsed("recover a b") else {
            panic!("{:?}", parsed("recover a b"))
        };
        assert_eq!((looked.dirs.len(), looked.data_dir, looked.token), (2, None, None));
        let line = "recover a --data-dir n b --name=x --initial-advertise-peer-urls http://h:1 --force-new-cluster=b \
                    --force-new-cluster-of-older --bump-revision 9 --mark-compacted -w json c";
        let Some(Ok(Tool::Recover(made))) = parsed(line) else { panic!("{:?}", parsed(line)) };
        assert_eq!(
            (made.dirs.join(" "), made.force_older, made.bump_revision),
            ("a b c".to_owned(), true, 9)
        );
        assert_eq!((made.data_dir.as_deref(), made.force_new_cluster.as_deref()), (Some("n"), Some("b")));
        assert_eq!(made.peer_urls.unwrap()[0].to_string(), "http://h:1");
    }

    #[test]
    fn the_table_of_commands_has_what_is_parsed_and_what_help_shows() {
        for command in COMMANDS {
            let first = command.words.split(' ').next().unwrap();
            assert!(parsed(first).is_some(), "{} is no command", command.words);
            assert!(
                command.words == "help" || USAGE.contains(&format!("pinion {}", command.words)),
                "{}",
                command.words
            );
            let usage = if first == "grpc-proxy" { grpc_proxy::usage() } else { USAGE.to_owned() };
            for flag in command.flags {
                assert!(
                    usage.contains(&format!("--{flag}")),
                    "help does not show --{flag} of {}",
                    command.words
                );
                // Whatever it is refused for, it is known.
                let line = format!("{} --{flag}=1 x", command.words);
                if let Some(Err(refused)) = parsed(&line) {
                    assert!(!refused.message.contains("not defined"), "{line}: {}", refused.message);
                }
            }
        }
        let shown = USAGE.lines().filter_map(|line| line.strip_prefix("  pinion "));
        for line in shown {
            let known = COMMANDS.iter().any(|command| line.starts_with(command.words));
            assert!(known, "help shows `{line}`, which the table of commands has not");
        }
    }

    #[test]
    fn scripts_and_the_manual_name_every_flag_that_works_and_every_command() {
        let texts = SHELLS.iter().map(|shell| completion::script(shell).unwrap()).chain([man::page()]);
        for text in texts {
            let text = text.replace("\\-", "-");
            for flag in flags::all().filter(|flag| flag.support == Support::Used) {
                let forms = [format!("--{}", flag.name), format!("-l {}", flag.name)];
                assert!(forms.iter().any(|form| text.contains(form)), "{} is missing in:\n{text}", flag.name);
            }
            for word in COMMANDS.iter().flat_map(|command| command.words.split(' ')) {
                assert!(text.contains(word), "{word} is missing in:\n{text}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, words) in [
            ("snapshot", "restore or status"),
            ("snapshot save x", "snapshot save"),
            ("snapshot restore", "0 arguments instead of one"),
            ("snapshot restore a b", "2 arguments instead of one"),
            ("snapshot restore a --auto-tls=true", "-auto-tls"),
            ("snapshot restore a --bump-revision=3", "go together"),
            ("snapshot restore a --mark-compacted", "go together"),
            ("snapshot restore a --bump-revision=-3 --mark-compacted", "from 0 on"),
            ("snapshot restore a --name", "needs an argument"),
            ("snapshot restore a --initial-cluster=nonsense", "initial-cluster"),
            ("snapshot status a -w yaml", "--write-out=yaml"),
            ("recover", "of which data directories"),
            ("recover a --wal-dir w", "--wal-dir"),
            ("recover a --initial-cluster n=http://h:1", "--initial-cluster"),
            ("recover a --initial-advertise-peer-urls h", "--initial-advertise-peer-urls"),
            ("recover a --force-new-cluster b", "none of the directories"),
            ("recover a --force-new-cluster-of-older", "names it"),
            ("recover a --bump-revision=3", "go together"),
            ("recover a -w table", "simple and json"),
            ("recover a --name=", "needs a name"),
            ("recover a --heartbeat-interval=3", "-heartbeat-interval"),
            ("status", "0 arguments"),
            ("hashkv d --rev x", "--rev=x"),
            ("hashkv d --nope=1", "-nope"),
            ("hashkv d --wal-dri=1", "did you mean --wal-dir?"),
            ("snapshot restore a --bump-revison=1", "did you mean --bump-revision?"),
            ("demo 2379", "flags only"),
            ("demo --port=0", "--port=0: expected a port"),
            ("demo --port=65530", "--port=65530: expected a port"),
            ("demo --port=two", "--port=two"),
            ("demo --prot=1", "did you mean --port?"),
            ("completion", "of which shell?"),
            ("completion csh", "bash, zsh, fish"),
            ("completion bash zsh", "of which shell?"),
        ] {
            assert!(refusal(line).contains(words), "{line}: {}", refusal(line));
        }
    }
}

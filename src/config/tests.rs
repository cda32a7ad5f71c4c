//! The command line as operators type it, and what becomes of it.

use std::time::Duration;

use super::flags::{self, Support};
use super::*;

fn parse_line(args: &[&str], variables: &[(&str, &str)]) -> Parsed {
    parse_with(args, variables, "a key of this file is unknown: 1")
}

/// The same, where every file has this text.
fn parse_with(args: &[&str], variables: &[(&str, &str)], text: &str) -> Parsed {
    parse(
        args.iter().map(ToString::to_string),
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())),
        |path| match path {
            "none" => Err("No such file or directory (os error 2)".to_owned()),
            _ => Ok(text.to_owned()),
        },
    )
}

fn plain(address: &str) -> Listener {
    Listener {
        address: address.parse::<std::net::SocketAddr>().unwrap().into(),
        encryption: Encryption::None,
    }
}

#[test]
fn a_configuration_file_is_all_that_counts_and_what_it_shadows_is_told() {
    let text = "name: filed\nlisten-client-urls: http://127.0.0.1:7\nno-such: 1\n";
    for (args, variables) in [
        (
            &["--config-file=c.yaml", "--name=flagged", "--snapshot-count=7"][..],
            &[("ETCD_DATA_DIR", "d")][..],
        ),
        (
            &["--name=flagged", "--snapshot-count=7"],
            &[("ETCD_CONFIG_FILE", "c.yaml"), ("ETCD_DATA_DIR", "d")],
        ),
    ] {
        let Parsed::Run { config, warnings } = parse_with(args, variables, text) else { panic!("{args:?}") };
        assert_eq!(config.process.name, "filed");
        assert_eq!(config.process.data_dir.to_str(), Some("filed.etcd"));
        assert_eq!(config.process.checkpoint_entries, 10_000);
        assert_eq!(
            config.process.listen_client[0].address.to_string(),
            "127.0.0.1:7",
            "without --advertise-client-urls, as in etcd"
        );
        let told = warnings.join("\n");
        assert!(told.contains("ignored: --name, --snapshot-count, ETCD_DATA_DIR"), "{told}");
        assert!(told.contains("c.yaml: line 3: the key no-such is unknown"), "{told}");
    }
    for (args, text, reason) in [
        (&["--config-file=none"][..], "", "--config-file=none: No such file"),
        (&["--config-file=c"], "name: [", "--config-file=c: line"),
        (&["--config-file=c"], "heartbeat-interval: 0\n", "for heartbeat-interval in c"),
        (&["--config-file=c"], "client-transport-security: {cert-file: x}\n", "must both be present"),
        (&["--config-file=c"], "listen-client-urls: x\n", "for listen-client-urls in c"),
    ] {
        let Parsed::Refused(refused) = parse_with(args, &[], text) else { panic!("{text:?} is taken") };
        assert!(refused.message.contains(reason), "{text:?}: {refused}");
        assert_eq!(refused.exit_code, 1, "{refused}");
    }
    let Parsed::Refused(refused) = parse_with(&["--config-file=c", "--no-such"], &[], "") else { panic!() };
    assert_eq!(refused.exit_code, 2, "flags are read before they are ignored");
    assert!(matches!(parse_with(&["--config-file=none", "--version"], &[], ""), Parsed::Print(_)));
}

#[test]
fn log_rotation_needs_one_file_and_its_settings_are_read_as_etcd_reads_them() {
    let on = |json: &str| run(&["--enable-log-rotation", "--log-outputs=/tmp/x", json]).process.log.rotation;
    let all = r#"--log-rotation-config-json={"maxsize":5,"maxage":7,"maxbackups":3,"localtime":true,"compress":true}"#;
    let want = LogRotation {
        file_bytes_max: 5 << 20,
        age_days_max: Some(7),
        files_max: Some(3),
        has_local_time: true,
        is_compressed: true,
    };
    assert_eq!(on(all), Some(want));
    let plain = on("--log-rotation-config-json={}").unwrap();
    assert_eq!((plain.file_bytes_max, plain.age_days_max, plain.files_max), (100 << 20, None, None));
    assert_eq!(run(&[]).process.log.rotation, None);
    for args in [
        &["--enable-log-rotation"][..],
        &["--enable-log-rotation", "--log-outputs=/tmp/x,/tmp/y"],
        &["--enable-log-rotation", "--log-outputs=/tmp/x,stderr"],
    ] {
        assert!(refused(args).message.contains("needs one file as --log-outputs"), "{args:?}");
    }
    for json in ["{", "[]", "{\"maxsize\": -1}", "{\"maxsize\": \"5\"}", "{\"compress\": 1}"] {
        let flag = format!("--log-rotation-config-json={json}");
        assert_eq!(refused(&[&flag]).exit_code, 2, "{json}");
    }
}

fn run(args: &[&str]) -> Config {
    match parse_line(args, &[]) {
        Parsed::Run { config, .. } => *config,
        other => panic!("{args:?} gave {other:?}"),
    }
}

fn refused(args: &[&str]) -> Refused {
    match parse_line(args, &[]) {
        Parsed::Refused(refused) => refused,
        other => panic!("{args:?} gave {other:?}"),
    }
}

fn listed(config: &Config) -> &MemberUrls {
    match &config.cluster.initial_cluster {
        InitialCluster::Listed(members) => members,
        other => panic!("{other:?}"),
    }
}

fn bootstrap(config: &Config) -> Result<Bootstrap, Refused> {
    let token = &config.cluster.initial_cluster_token;
    let found = FirstMembers { members: listed(config), token, source: "--initial-cluster" };
    config.cluster.bootstrap(&config.process, found, |_, _| false)
}

/// Many compose files have it, and etcd starts.
#[test]
fn large_requests_are_taken_with_a_warning() {
    for (bytes, warnings_count) in [(10_485_760, 0), (10_485_761, 1), (52_428_800, 1), (67_108_864, 1)] {
        let line = format!("--max-request-bytes={bytes}");
        let Parsed::Run { config, warnings } = parse_line(&[&line], &[]) else { panic!("{line} is refused") };
        assert_eq!(
            (config.cluster.request_bytes_max, warnings.len()),
            (bytes, warnings_count),
            "{warnings:?}"
        );
    }
}

#[test]
fn an_advertised_wildcard_is_taken_with_a_warning() {
    for (args, warnings_count) in [
        (&["--advertise-client-urls=http://0.0.0.0:2379"][..], 1),
        (&["--advertise-client-urls=http://[::]:2379,http://localhost:2379"], 1),
        (
            &[
                "--initial-advertise-peer-urls=http://0.0.0.0:2380",
                "--initial-cluster=default=http://0.0.0.0:2380",
                "--advertise-client-urls=http://0.0.0.0:2379",
            ],
            2,
        ),
        (&["--advertise-client-urls=http://[fe80::1%25eth0]:2379"], 0),
    ] {
        let Parsed::Run { warnings, .. } = parse_line(args, &[]) else { panic!("{args:?} is refused") };
        assert_eq!(warnings.len(), warnings_count, "{args:?}: {warnings:?}");
    }
}

#[test]
fn without_flags_a_single_member_has_etcds_defaults() {
    let Config { cluster, process } = run(&[]);
    assert_eq!(process.name, "default");
    assert_eq!(process.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(process.wal_dir, None);
    assert_eq!(process.listen_client, [plain("127.0.0.1:2379")]);
    assert_eq!(process.listen_peer, [plain("127.0.0.1:2380")]);
    assert_eq!(process.max_concurrent_streams, u32::MAX);
    assert_eq!(process.metadata_bytes_max, 65_536);
    assert_eq!(process.keepalive.server_interval, Some(Duration::from_secs(7_200)));
    assert_eq!(process.compaction_batch_revisions, 500);
    assert_eq!(process.compaction_sleep, Duration::ZERO);
    assert_eq!(process.pinned_history_bytes, 256 << 20);
    assert_eq!(process.placement, Placement::Auto);
    assert_eq!(process.wal_sync, WalSync::Auto);
    assert_eq!((cluster.heartbeat_ms, cluster.election_ms, cluster.pre_vote), (100, 1_000, true));
    assert_eq!((cluster.txn_ops_max, cluster.request_bytes_max), (128, 1_572_864));
    let bootstrap = bootstrap(&Config { cluster, process }).unwrap();
    assert_eq!(bootstrap.peer_urls, ["http://localhost:2380"]);
    assert_eq!(bootstrap.token, "etcd-cluster");
}

#[test]
fn defaults_of_the_table_are_those_of_the_types() {
    use crate::types::limits;
    assert_eq!(
        flags::find("max-request-bytes").unwrap().default,
        limits::REQUEST_BYTES_MAX_DEFAULT.to_string()
    );
    assert_eq!(flags::find("max-txn-ops").unwrap().default, limits::TXN_OPS_MAX_DEFAULT.to_string());
}

#[test]
fn go_syntax_takes_one_dash_or_two_and_a_value_after_equals_or_space() {
    for args in
        [&["--name=a"][..], &["-name=a"], &["--name", "a"], &["-name", "a"], &["--name=x", "--name=a"]]
    {
        assert_eq!(run(args).process.name, "a", "{args:?}");
    }
    assert_eq!(run(&["--name", "-a"]).process.name, "-a", "a value may begin with a dash");
    assert_eq!(run(&["--initial-cluster-token=a=b"]).cluster.initial_cluster_token, "a=b");
    assert!(run(&["--pre-vote"]).cluster.pre_vote);
    assert!(!run(&["--pre-vote=F"]).cluster.pre_vote);
}

#[test]
fn watch_progress_interval_is_etcds_for_zero_and_never_shorter_than_etcds_least() {
    for (given, ms) in [("0", 600_000), ("3s", 3_000), ("100ms", 100), ("99ms", 100), ("1ns", 100)] {
        let config = run(&[&format!("--watch-progress-notify-interval={given}")]);
        assert_eq!(config.process.watch_progress_interval, Duration::from_millis(ms), "{given}");
    }
    assert_eq!(run(&[]).process.watch_progress_interval, Duration::from_secs(600));
    let old = run(&["--experimental-watch-progress-notify-interval=1s"]).process;
    assert_eq!(old.watch_progress_interval, Duration::from_secs(1));
}

#[test]
fn boolean_takes_no_value_after_a_space() {
    let refused = refused(&["--pre-vote", "false"]);
    assert_eq!((refused.exit_code, refused.message.as_str()), (1, "\"false\" is not a valid flag"));
}

#[test]
fn bad_command_line_exits_as_etcd_does() {
    for (args, exit_code, message) in [
        (&["--nope"][..], 2, "flag provided but not defined: -nope"),
        (&["---name=a"], 2, "bad flag syntax: ---name=a"),
        (&["--=a"], 2, "bad flag syntax: --=a"),
        (&["--name"], 2, "flag needs an argument: -name"),
        (&["extra"], 1, "\"extra\" is not a valid flag"),
        (&["-"], 1, "\"-\" is not a valid flag"),
        (&["--", "extra"], 1, "\"extra\" is not a valid flag"),
        (&["--experimental-nope"], 2, "flag provided but not defined: -experimental-nope"),
        (
            &["--experimental-initial-corrupt-check=maybe"],
            2,
            "invalid value \"maybe\" for --experimental-initial-corrupt-check: expected true or false",
        ),
        (
            &["--experimental-compaction-batch-limit=x"],
            2,
            "invalid value \"x\" for --experimental-compaction-batch-limit: expected a whole number",
        ),
        (&["--v2-prefix=x"], 2, "expected a path that begins with /"),
        (&["--v2-prefix=/a//b"], 2, "expected a path that begins with /"),
        (&["--experimental-enable-v2v3=/v2"], 2, "use --enable-v2 and --v2-prefix"),
        (&["--proxy=on"], 2, "--proxy=on: there is no v2 proxy"),
        (&["--discovery=http://d/token"], 2, "use --discovery-endpoints"),
        (&["--enable-pprof"], 2, "--enable-pprof=true: there is no pprof"),
        (&["--experimental-enable-distributed-tracing"], 2, "nothing is traced"),
        (&["--max-txn-ops=x"], 2, "invalid value \"x\" for --max-txn-ops: expected a whole number"),
        (&["--max-txn-ops=0"], 2, "at least 1"),
        (&["--max-txn-ops=+128"], 2, "expected a whole number"),
        (&["--max-txn-ops=08"], 2, "expected a whole number"),
        (&["--snapshot-count=99999999999999999999"], 2, "at most 18446744073709551615"),
        (&["--quota-backend-bytes=8e9"], 2, "expected a whole number"),
        (&["--max-request-bytes=67108865"], 2, "at most 67108864"),
        (&["--pre-vote=maybe"], 2, "invalid value \"maybe\" for --pre-vote: expected true or false"),
        (&["--socket-reuse-port=maybe"], 2, "expected true or false"),
        (&["--grpc-keepalive-interval=5"], 2, "is not a duration"),
        (&["--spin-before-park=1s"], 2, "at most 10ms"),
        (&["--log-level=loud"], 2, "expected one of debug, info"),
        (&["--log-outputs=systemd/journal"], 2, "not supported by Pinion yet"),
        (&["--logger=capnslog"], 2, "expected one of zap"),
        (&["--wal-sync=never"], 2, "expected one of auto, mmap, direct"),
        (&["--placement=shards=0"], 2, "for --placement: raft is not placed"),
        (&["--name="], 2, "a member needs a name"),
    ] {
        let refused = refused(args);
        assert_eq!(refused.exit_code, exit_code, "{args:?}: {refused}");
        assert!(refused.message.contains(message), "{args:?}: {refused}");
    }
}

#[test]
fn bad_url_is_refused_naming_flag_and_value() {
    let advertise = "--advertise-client-urls=http://localhost:1";
    for (flag, url, reason) in [
        ("--listen-client-urls", "localhost:2379", "URL scheme must be"),
        (
            "--listen-client-urls",
            "127.0.0.1:2379",
            "\"127.0.0.1:2379\" has none; write http://127.0.0.1:2379",
        ),
        ("--listen-client-urls", "http://localhost:99999", "a port is at most 65535"),
        ("--advertise-client-urls", "http://localhost:99999", "a port is at most 65535"),
        ("--initial-cluster", "a=http://a:99999", "a port is at most 65535"),
        ("--initial-cluster", "a=a:2380", "\"a:2380\" has none; write http://a:2380"),
        ("--listen-client-urls", "unix://", "has the path of its file"),
        ("--listen-client-urls", "http://example.com:2379", "expected IP in URL for binding"),
        ("--listen-peer-urls", "http://localhost", "host:port"),
        ("--listen-peer-urls", ",", "the list is empty"),
        ("--initial-advertise-peer-urls", "http://localhost:1/x", "must not contain a path"),
        ("--initial-cluster", "default", "is not name=url"),
        ("--initial-cluster", "default=http://localhost", "host:port"),
        ("--initial-cluster", "=http://localhost:1", "has no member name"),
        ("--initial-cluster", "a=http://a:1,b=http://a:1", "is listed twice"),
    ] {
        let refused = refused(&[advertise, &format!("{flag}={url}")]);
        assert_eq!(refused.exit_code, 2, "{flag}={url}: {refused}");
        assert!(refused.message.contains(reason), "{flag}={url}: {refused}");
        assert!(refused.message.contains(flag), "{flag}={url}: {refused}");
        assert!(refused.message.contains(url), "{flag}={url}: {refused}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (args, message) in [
        (&["--listen-client-urls=http://localhost:1"][..], "--advertise-client-urls is required"),
        (&["--election-timeout=499"], "should be at least as 5 times as --heartbeat-interval[100ms]"),
        (&["--election-timeout=50001"], "is too long"),
        (&["--heartbeat-interval=10000", "--election-timeout=49999"], "at least as 5 times"),
        (
            &["--listen-client-urls=http://0.0.0.0:2380", "--advertise-client-urls=http://localhost:2380"],
            "two listeners claim one address: 0.0.0.0:2380 and 127.0.0.1:2380",
        ),
    ] {
        let refused = refused(args);
        assert_eq!(refused.exit_code, 1, "{args:?}: {refused}");
        assert!(refused.message.contains(message), "{args:?}: {refused}");
    }
}

#[test]
fn bootstrap_wants_own_name_and_exactly_own_urls_in_the_initial_cluster() {
    for (args, message) in [
        (&["--name=a", "--initial-cluster=b=http://localhost:2380"][..], "couldn't find local name \"a\""),
        (
            &["--initial-cluster=default=http://x:1"],
            "--initial-cluster has default=http://x:1 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            &["--initial-advertise-peer-urls=http://x:1,http://y:2", "--initial-cluster=default=http://x:1"],
            "--initial-advertise-peer-urls has http://y:2 but missing from --initial-cluster=default=http://x:1",
        ),
        (&["--initial-cluster-state=existing"], "lists no other member to ask"),
        (&["--force-new-cluster"], "the data directory is empty"),
    ] {
        let refused = bootstrap(&run(args)).unwrap_err();
        assert!(refused.message.contains(message), "{args:?}: {refused}");
    }
    let config = run(&["--name=a", "--initial-advertise-peer-urls=http://y:2,http://x:1"]);
    assert_eq!(listed(&config)[0].0, "a");
    assert_eq!(bootstrap(&config).unwrap().peer_urls, ["http://x:1", "http://y:2"]);
}

#[test]
fn members_of_a_new_cluster_are_those_of_the_flag_and_this_one_is_among_them() {
    let config = run(&[
        "--initial-cluster=default=http://localhost:2380,b=http://b:2380",
        "--initial-cluster-token=t",
    ]);
    let bootstrap = super::tests::bootstrap(&config).unwrap();
    assert_eq!(bootstrap.members, [["http://localhost:2380"], ["http://b:2380"]]);
    assert_eq!(bootstrap.peer_urls, ["http://localhost:2380"]);
    let others: Vec<String> = bootstrap.others.iter().map(ToString::to_string).collect();
    assert_eq!((bootstrap.state, others), (InitialClusterState::New, vec!["http://b:2380".to_owned()]));
    let stranger = run(&["--initial-cluster=a=http://a:2380,b=http://b:2380"]);
    assert!(super::tests::bootstrap(&stranger).is_err());
}

#[test]
fn every_missing_flag_is_refused_by_name_and_accepted_with_its_default() {
    let mut missing_count = 0;
    for flag in flags::all() {
        // Those that ask for nothing were among them once.
        missing_count += usize::from(matches!(flag.support, Support::Missing { .. } | Support::Moot { .. }));
        let Support::Missing { harmless, because } = flag.support else { continue };
        for value in std::iter::once(&flag.default).chain(harmless) {
            run(&[&format!("--{}={value}", flag.name)]);
        }
        let refused = refused(&[&format!("--{}=definitely-not-default", flag.name)]);
        assert_eq!(refused.exit_code, 2);
        assert!(refused.message.contains(&format!("--{}=", flag.name)), "{refused}");
        assert!(refused.message.contains(because), "{refused}");
    }
    assert!(missing_count > 30, "{missing_count}");
}

/// What the charts and units of Bitnami, kubeadm, Kubespray, etcd-operator and many compose files set, as
/// variables, without asking for anything that is missing. etcd 3.5.30 starts with each of them.
#[test]
fn setting_that_asks_for_nothing_missing_starts_with_a_warning_that_names_it() {
    for (variable, value) in [
        ("ETCD_MAX_SNAPSHOTS", "10"),
        ("ETCD_MAX_SNAPSHOTS", "0"),
        ("ETCD_MAX_WALS", "0"),
        ("ETCD_MAX_WALS", "0x10"),
        ("ETCD_INITIAL_ELECTION_TICK_ADVANCE", "false"),
        ("ETCD_INITIAL_ELECTION_TICK_ADVANCE", "F"),
        ("ETCD_BACKEND_BBOLT_FREELIST_TYPE", "array"),
        ("ETCD_BACKEND_BATCH_INTERVAL", "1m30s"),
        ("ETCD_BACKEND_BATCH_INTERVAL", "-1s"),
        ("ETCD_BACKEND_BATCH_LIMIT", "-1"),
        ("ETCD_SOCKET_REUSE_ADDRESS", "true"),
        ("ETCD_RAFT_READ_TIMEOUT", "10s"),
        ("ETCD_SNAPSHOT_COUNT", "0"),
        ("ETCD_LOG_OUTPUTS", "stderr,stdout"),
        ("ETCD_V2_DEPRECATION", "not-yet"),
        ("ETCD_CLIENT_CERT_FILE", "client.pem"),
        ("ETCD_LOG_ROTATION_CONFIG_JSON", "{\"maxsize\": 10}"),
        ("ETCD_DISTRIBUTED_TRACING_SERVICE_NAME", "kv"),
        ("ETCD_DOWNGRADE_CHECK_TIME", "10s"),
        ("ETCD_BOOTSTRAP_DEFRAG_THRESHOLD_MEGABYTES", "100"),
    ] {
        let Parsed::Run { warnings, .. } = parse_line(&[], &[(variable, value)]) else {
            panic!("{variable}={value} is refused");
        };
        assert!(
            matches!(&warnings[..], [one] if one.starts_with(&format!("{variable}={value}"))),
            "{warnings:?}"
        );
        let flag = variable["ETCD_".len()..].to_ascii_lowercase().replace('_', "-");
        run(&[&format!("--{flag}={value}")]);
    }
}

#[test]
fn every_moot_flag_takes_its_default_in_silence_and_no_nonsense() {
    for flag in flags::all() {
        let Support::Moot { words, .. } = flag.support else { continue };
        let line = format!("--{}={}", flag.name, flag.default);
        let Parsed::Run { warnings, .. } = parse_line(&[&line], &[]) else { panic!("{line} is refused") };
        assert!(warnings.is_empty(), "{warnings:?}");
        if flag.kind != flags::Kind::Text || !words.is_empty() {
            let refused = refused(&[&format!("--{}=nonsense", flag.name)]);
            assert!(refused.exit_code == 2 && refused.message.contains("invalid value"), "{refused}");
        }
    }
}

#[test]
fn http_has_the_clients_addresses_unless_it_is_given_its_own() {
    let process = run(&[]).process;
    assert!(process.listen_client_http.is_empty() && process.listen_metrics.is_empty());
    assert_eq!((process.web.origins, process.web.hosts), (vec!["*".to_owned()], vec!["*".to_owned()]));
    assert!(process.web.serves_gateway);
    let process = run(&[
        "--listen-client-http-urls=http://127.0.0.1:7",
        "--listen-metrics-urls=http://127.0.0.1:8,http://localhost:8",
        "--cors=http://a, http://b",
        "--host-whitelist=",
        "--enable-grpc-gateway=false",
    ])
    .process;
    assert_eq!(process.listen_client_http, [plain("127.0.0.1:7")]);
    assert_eq!(process.listen_metrics, [plain("127.0.0.1:8")]);
    assert_eq!(process.web.origins, ["http://a", "http://b"]);
    assert!(process.web.hosts.is_empty() && !process.web.serves_gateway);
    let twice = refused(&["--listen-metrics-urls=http://localhost:2379"]);
    assert!(twice.message.contains("two listeners claim one address"), "{twice}");
}

/// As `--flag=${VARIABLE}` of a compose file gives it.
#[test]
fn empty_text_asks_for_nothing() {
    let ours =
        ["--metrics=", "--auth-token=", "--listen-metrics-urls=", "--cert-file=", "--tls-min-version="];
    assert_eq!(run(&ours), run(&["--log-level="]));
    assert!(refused(&["--max-wals="]).message.contains("expected a whole number"));
    assert!(refused(&["--client-cert-auth="]).message.contains("expected true or false"));
    assert_eq!(run(&["--listen-client-urls=", "--advertise-client-urls="]), run(&[]));
    let listen = |more: &[&str]| {
        let both = ["--listen-client-urls=http://127.0.0.1:7", "--advertise-client-urls=http://127.0.0.1:7"];
        run(&[&both, more].concat()).process.listen_client
    };
    assert_eq!(listen(&["--listen-client-urls="]), [plain("127.0.0.1:7")]);
}

#[test]
fn numbers_and_levels_are_read_in_every_spelling_that_go_takes() {
    let process = run(&["--snapshot-count=0x10", "--quota-backend-bytes=-1_000", "--log-level=WARN"]).process;
    assert_eq!((process.checkpoint_entries, process.quota_bytes), (16, -1_000));
    assert_eq!(process.log.level, LogLevel::Warn);
    assert_eq!(run(&["--snapshot-count=0"]).process.checkpoint_entries, 10_000);
    assert_eq!(run(&["--max-concurrent-streams=0"]).process.max_concurrent_streams, u32::MAX);
    run(&["--auto-compaction-retention=0h0m", "--log-outputs=stderr,stderr"]);
    assert!(refused(&["--log-level=Warn"]).message.contains("expected one of debug, info"));
    assert!(
        refused(&["--log-outputs=stderr,"]).message.contains("expected default, stderr, stdout or a file")
    );
}

#[test]
fn auto_compaction_retention_is_read_as_etcd_reads_it() {
    let policy = |args: &[&str]| run(args).process.auto_compaction;
    let periodic = |seconds| Some(AutoCompaction::Periodic(Duration::from_secs(seconds)));
    for (text, want) in [
        ("0", None),
        ("", None),
        ("0s", None),
        ("1", periodic(3_600)),
        ("+12", periodic(43_200)),
        ("08", periodic(28_800)),
        ("30m", periodic(1_800)),
        ("1h30m", periodic(5_400)),
        ("2562047", periodic(2_562_047 * 3_600)),
    ] {
        assert_eq!(policy(&[&format!("--auto-compaction-retention={text}")]), want, "{text}");
    }
    let revisions = |text: &str| {
        policy(&["--auto-compaction-mode=revision", &format!("--auto-compaction-retention={text}")])
    };
    assert_eq!(revisions("1000"), Some(AutoCompaction::Revision(1_000)));
    assert_eq!(revisions("0"), None);
    // etcd's arithmetic, and surely a mistake.
    assert_eq!(revisions("5m"), Some(AutoCompaction::Revision(300_000_000_000)));
    let variables = [("ETCD_AUTO_COMPACTION_MODE", "revision"), ("ETCD_AUTO_COMPACTION_RETENTION", "5m")];
    let Parsed::Run { warnings, .. } = parse_line(&[], &variables) else { panic!("refused") };
    assert!(matches!(&warnings[..], [one] if one.contains("300000000000 of them are kept")), "{warnings:?}");
    for text in ["-1", "-1h", "1x", "0x10", "1_000", "2562048", "99999999999999999999", "5 m"] {
        let refused = refused(&[&format!("--auto-compaction-retention={text}")]);
        assert!(refused.message.contains("--auto-compaction-retention"), "{text}: {refused}");
    }
    for mode in ["", "size", "Periodic"] {
        let refused = refused(&[&format!("--auto-compaction-mode={mode}")]);
        assert!(refused.message.contains("expected one of periodic, revision"), "{mode}: {refused}");
    }
}

#[test]
fn older_name_does_what_the_new_one_does_and_says_so() {
    let taken = |args: &[&str], variables: &[(&str, &str)]| match parse_line(args, variables) {
        Parsed::Run { config, warnings } => (*config, warnings),
        other => panic!("{args:?} {variables:?} gave {other:?}"),
    };
    for flag in flags::all() {
        let (line, today) = match flag.support {
            Support::Renamed { to } => {
                // Another than the default, and one that is granted.
                let value = match to {
                    "compaction-batch-limit" | "max-learners" | "snapshot-catchup-entries" => "7",
                    "corrupt-check-time" | "compaction-sleep-interval" => "7s",
                    "compact-hash-check-time" | "watch-progress-notify-interval" => "7s",
                    "memory-mlock" => "true",
                    "log-outputs" => "stdout",
                    _ => flags::find(to).unwrap().default,
                };
                (format!("--{}={value}", flag.name), format!("--{to}={value}"))
            }
            Support::StandsFor { to, text } => (format!("--{}", flag.name), format!("--{to}={text}")),
            Support::Gate(gate) => (format!("--{}", flag.name), format!("--feature-gates={gate}=true")),
            _ => continue,
        };
        let (config, warnings) = taken(&[&line], &[]);
        assert_eq!(config, run(&[&today]), "{line}");
        assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
        assert!(warnings[0].contains(&format!("is an older name; write {today}")), "{line}: {warnings:?}");
        let (_, text) = line.split_once('=').unwrap_or(("", "true"));
        assert_eq!(taken(&[], &[(&flag.variable(), text)]).0, config, "{line}");
    }
    // Today's name wins, and an argument over a variable.
    let old = "--experimental-compaction-batch-limit=7";
    let batch = |(config, _): (Config, Vec<String>)| config.process.compaction_batch_revisions;
    assert_eq!(batch(taken(&[old, "--compaction-batch-limit=9"], &[])), 9);
    assert_eq!(batch(taken(&["--compaction-batch-limit=9", old], &[])), 9);
    assert_eq!(batch(taken(&[old], &[("ETCD_COMPACTION_BATCH_LIMIT", "9")])), 7);
    let variable = [("ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT", "7")];
    let (config, warnings) = taken(&["--compaction-batch-limit=9"], &variable);
    assert_eq!(config.process.compaction_batch_revisions, 9);
    assert_eq!(
        warnings,
        ["ETCD_EXPERIMENTAL_COMPACTION_BATCH_LIMIT is unused: shadowed by --compaction-batch-limit"]
    );
    let gates = |args: &[&str]| taken(args, &[]).0.process.features;
    let both = ["--experimental-initial-corrupt-check", "--experimental-compact-hash-check-enabled"];
    assert_eq!(gates(&both), FeatureGates { initial_corrupt_check: true, compact_hash_check: true });
    assert_eq!(
        gates(&[both[0], "--feature-gates=InitialCorruptCheck=false"]),
        FeatureGates::default(),
        "today's name wins"
    );
    assert_eq!(gates(&["--experimental-initial-corrupt-check=false"]), FeatureGates::default());
    assert_eq!(run(&["--debug=false"]), run(&[]));
    assert_eq!(run(&["--debug", "--log-level=warn"]).process.log.level, LogLevel::Warn);
}

/// What etcd 3.4.23 and 3.5.30 print with `--help`, of both the names that are not 3.7's.
#[test]
fn every_flag_of_etcd_3_4_and_3_5_is_known() {
    for name in [
        "debug",
        "discovery",
        "discovery-proxy",
        "enable-v2",
        "experimental-backend-bbolt-freelist-type",
        "experimental-bootstrap-defrag-threshold-megabytes",
        "experimental-compact-hash-check-enabled",
        "experimental-compact-hash-check-time",
        "experimental-compaction-batch-limit",
        "experimental-compaction-sleep-interval",
        "experimental-corrupt-check-time",
        "experimental-distributed-tracing-address",
        "experimental-distributed-tracing-instance-id",
        "experimental-distributed-tracing-sampling-rate",
        "experimental-distributed-tracing-service-name",
        "experimental-downgrade-check-time",
        "experimental-enable-distributed-tracing",
        "experimental-enable-lease-checkpoint",
        "experimental-enable-lease-checkpoint-persist",
        "experimental-enable-v2v3",
        "experimental-initial-corrupt-check",
        "experimental-memory-mlock",
        "experimental-peer-skip-client-san-verification",
        "experimental-snapshot-catchup-entries",
        "experimental-stop-grpc-service-on-defrag",
        "experimental-txn-mode-write-with-shared-buffer",
        "experimental-warning-apply-duration",
        "experimental-warning-unary-request-duration",
        "experimental-watch-progress-notify-interval",
        "log-output",
        "log-package-levels",
        "proxy",
        "proxy-dial-timeout",
        "proxy-failure-wait",
        "proxy-read-timeout",
        "proxy-refresh-interval",
        "proxy-write-timeout",
    ] {
        assert!(flags::find(name).is_some(), "{name}");
    }
}

#[test]
fn table_of_the_docs_is_what_the_binary_prints() {
    let Parsed::Print(table) = parse_line(&["--help-markdown"], &[]) else { panic!("no table") };
    // UPDATE_EXPECT=1 writes it.
    expect_test::expect_file!["../../tuning/FLAGS.md"].assert_eq(&table);
    for flag in flags::all() {
        assert!(table.contains(&format!("| `--{}` |", flag.name)), "{}", flag.name);
    }
}

#[test]
fn unknown_variable_is_told_and_ignored() {
    let variables = [("ETCD_NO_SUCH_THING", "true"), ("PINION_ENABLE_V2", "true"), ("ETCDCTL_API", "3")];
    let Parsed::Run { warnings, .. } = parse_line(&[], &variables) else { panic!("refused") };
    assert_eq!(
        warnings,
        [
            "unrecognized environment variable ETCD_NO_SUCH_THING",
            "unrecognized environment variable PINION_ENABLE_V2",
        ]
    );
}

#[test]
fn empty_parts_of_the_initial_cluster_are_passed_over() {
    let text = "--initial-cluster=,default=http://localhost:2380,, \n ,b=http://b:2380,";
    let plain = run(&["--initial-cluster=default=http://localhost:2380,b=http://b:2380"]);
    assert_eq!(run(&[text]), plain);
    let nobody = bootstrap(&run(&["--initial-cluster=,"])).unwrap_err();
    assert!(nobody.message.contains("couldn't find local name \"default\""), "{nobody}");
    for (list, reason) in [
        ("a=b=http://localhost:1", "URL scheme must be"),
        ("a=http://a:1,b", "is not name=url"),
        ("a=http://a:1,b=", "URL scheme must be"),
        ("a=http://a:1;b=http://b:1", "must not contain a path"),
        ("a=http://a:1,a=http://a:1", "is listed twice"),
        ("a=http://a:1/", "must not contain a path"),
    ] {
        let refused = refused(&[&format!("--initial-cluster={list}")]);
        assert!(refused.message.contains(reason), "{list}: {refused}");
    }
}

/// `existing` compares the list with the members that there are; what this one advertises is not asked.
#[test]
fn joining_member_may_advertise_another_url_than_it_is_listed_with() {
    let line = [
        "--initial-advertise-peer-urls=http://elsewhere:2380",
        "--initial-cluster=default=http://b:1,default=http://a:1,c=http://c:1",
    ];
    assert!(
        bootstrap(&run(&line)).unwrap_err().message.contains("missing from --initial-advertise-peer-urls")
    );
    let plan = bootstrap(&run(&[&line[..], &["--initial-cluster-state=existing"]].concat())).unwrap();
    assert_eq!(plan.peer_urls, ["http://a:1", "http://b:1"]);
}

#[test]
fn boolean_asking_for_a_missing_feature_is_refused_however_it_is_spelled() {
    for args in [&["--enable-pprof"][..], &["-enable-pprof=T"]] {
        assert!(refused(args).message.contains("there is no"), "{args:?}");
    }
    run(&["--enable-pprof=False", "--corrupt-check-time=0ms", "--enable-grpc-gateway=0"]);
}

#[test]
fn low_latency_changes_three_defaults_and_whatever_is_given_wins() {
    let timing = |args: &[&str]| {
        let Config { cluster, process } = run(args);
        (cluster.heartbeat_ms, cluster.election_ms, process.spin_before_park)
    };
    let us = Duration::from_micros;
    assert_eq!(timing(&["--low-latency"]), (10, 100, us(200)));
    assert_eq!(timing(&["--low-latency=false"]), (100, 1_000, us(30)));
    // Wherever it stands, and even where what is given is the usual default.
    assert_eq!(timing(&["--election-timeout=1000", "--low-latency"]), (10, 1_000, us(200)));
    assert_eq!(timing(&["--low-latency", "--heartbeat-interval=20"]), (20, 100, us(200)));
    assert_eq!(timing(&["--low-latency", "--spin-before-park=0"]), (10, 100, Duration::ZERO));
    let mut everything_else = run(&["--low-latency"]);
    everything_else.cluster = ClusterConfig { low_latency: false, ..everything_else.cluster };
    (everything_else.cluster.heartbeat_ms, everything_else.cluster.election_ms) = (100, 1_000);
    everything_else.process.spin_before_park = us(30);
    assert_eq!(everything_else, run(&[]));
    let refused = refused(&["--low-latency", "--heartbeat-interval=100"]);
    assert_eq!(refused.exit_code, 1);
    assert!(refused.message.contains("--election-timeout[100ms]"), "{refused}");
    assert!(refused.message.contains("--low-latency sets"), "{refused}");
}

#[test]
fn low_latency_comes_from_its_variable_too_and_a_variable_wins_over_it() {
    let Parsed::Run { config, warnings } =
        parse_line(&[], &[("PINION_LOW_LATENCY", "true"), ("ETCD_ELECTION_TIMEOUT", "250")])
    else {
        panic!("refused");
    };
    assert_eq!((config.cluster.heartbeat_ms, config.cluster.election_ms), (10, 250));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(refused(&["--low-latency=maybe"]).message.contains("expected true or false"));
    for (name, value) in flags::LOW_LATENCY {
        let flag = flags::find(name).unwrap();
        assert_ne!(flag.default, *value, "{name}: the profile says nothing new");
    }
}

#[test]
fn variable_is_read_refused_and_beaten_like_its_flag() {
    let Parsed::Run { config, warnings } = parse_line(
        &["--name=flag"],
        &[
            ("ETCD_NAME", "variable"),
            ("ETCD_MAX_TXN_OPS", "7"),
            ("ETCD_DATA_DIR", ""),
            ("ETCD_CERT_FILE", ""),
            ("ETCD_NOPE", "1"),
            ("ETCDCTL_API", "3"),
            ("ETCD_VERSION", "v3.5.0"),
            ("PINION_WAL_SYNC", "direct"),
            ("PINION_SYNC", "direct"),
            ("PATH", "/bin"),
        ],
    ) else {
        panic!("refused");
    };
    assert_eq!(config.process.name, "flag");
    assert_eq!(config.process.data_dir.to_str(), Some("flag.etcd"), "an empty variable is unset");
    assert_eq!(config.cluster.txn_ops_max, 7);
    assert_eq!(config.process.wal_sync, WalSync::Direct);
    assert_eq!(
        warnings,
        [
            "environment variable ETCD_VERSION is ignored",
            "recognized environment variable ETCD_NAME, but unused: shadowed by flag --name",
            "unrecognized environment variable ETCD_NOPE",
            "unrecognized environment variable PINION_SYNC",
        ]
    );
    for (variable, value, message) in [
        ("ETCD_ENABLE_PPROF", "true", "ETCD_ENABLE_PPROF=true: there is no pprof"),
        ("ETCD_MAX_TXN_OPS", "x", "invalid value \"x\" for ETCD_MAX_TXN_OPS"),
        ("PINION_WAL_SYNC", "x", "invalid value \"x\" for PINION_WAL_SYNC"),
    ] {
        let Parsed::Refused(refused) = parse_line(&[], &[(variable, value)]) else {
            panic!("{variable}={value} was taken");
        };
        assert!(refused.message.contains(message), "{refused}");
    }
}

#[test]
fn flag_without_effect_in_etcd_has_none_here() {
    assert_eq!(run(&["--snapshot", "--v", "--peer-election-timeout=7", "--force=false"]), run(&[]));
}

#[test]
fn help_tells_every_flag_that_is_used_and_names_every_other() {
    let Parsed::Print(help) = parse_line(&["--help"], &[]) else { panic!("no help") };
    for flag in flags::all() {
        match flag.support {
            Support::Used => {
                assert!(help.contains(&format!("  --{}", flag.name)), "{}", flag.name);
                assert!(flag.help.len() > 10, "{} has no help", flag.name);
            }
            _ => assert!(help.contains(flag.name), "{}", flag.name),
        }
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100));
    assert_eq!(parse_line(&["-h"], &[]), Parsed::Print(help));
}

#[test]
fn version_names_ours_and_the_api() {
    let Parsed::Print(version) = parse_line(&["--version"], &[]) else { panic!("no version") };
    let ours = format!("pinion {}\netcd API version: 3.7.1\nGit SHA: ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&ours) && version.lines().count() == 4, "{version}");
}

#[test]
fn table_has_no_name_twice() {
    for (slot, flag) in flags::all().enumerate() {
        assert!(!flags::all().take(slot).any(|other| other.name == flag.name), "{}", flag.name);
    }
}

#[test]
fn feature_gates_are_read_as_etcd_reads_them_and_what_is_missing_is_refused_by_name() {
    let gates = |text: &str| run(&[&format!("--feature-gates={text}")]).process.features;
    let (none, both) =
        (FeatureGates::default(), FeatureGates { initial_corrupt_check: true, compact_hash_check: true });
    assert_eq!(run(&[]).process.features, none);
    assert_eq!(gates("CompactHashCheck=true, InitialCorruptCheck=T,"), both);
    assert_eq!(gates("InitialCorruptCheck=true,InitialCorruptCheck=false"), none, "the last one counts");
    assert_eq!(gates("LeaseCheckpoint=true,FastLeaseKeepAlive=false,AllAlpha=false,AllBeta=true"), none);
    for (text, word) in [
        ("Nonsense=true", "unrecognized feature gate: Nonsense"),
        ("InitialCorruptCheck", "missing bool value for InitialCorruptCheck"),
        ("InitialCorruptCheck=yes", "invalid value of InitialCorruptCheck=yes"),
        ("AllAlpha=true", "AllAlpha=true is not supported"),
        ("PriorityRequest=true", "PriorityRequest=true is not supported"),
    ] {
        let refused = refused(&[&format!("--feature-gates={text}")]);
        assert!(refused.exit_code == 2 && refused.message.contains(word), "{refused}");
    }
}

#[test]
fn data_is_compared_as_often_as_was_asked_and_of_compactions_only_with_the_gate() {
    let process = run(&[]).process;
    assert_eq!((process.corrupt_check_interval, process.compact_hash_check_interval), (None, None));
    let minute = Some(Duration::from_secs(60));
    assert_eq!(run(&["--corrupt-check-time=1m"]).process.corrupt_check_interval, minute);
    let open = "--feature-gates=CompactHashCheck=true";
    assert_eq!(run(&[open]).process.compact_hash_check_interval, minute);
    assert_eq!(run(&["--compact-hash-check-time=1m"]).process.compact_hash_check_interval, None);
    assert!(refused(&[open, "--compact-hash-check-time=0"]).message.contains("greater than 0"));
    assert!(refused(&["--corrupt-check-time=-1s"]).message.contains("--corrupt-check-time"));
}

#[test]
fn quota_is_etcds_default_for_zero_and_none_when_negative() {
    let quota = |args: &[&str]| run(args).process.quota_bytes;
    assert_eq!(quota(&[]), 2_147_483_648);
    assert_eq!(quota(&["--quota-backend-bytes=0"]), 2_147_483_648);
    assert_eq!(quota(&["--quota-backend-bytes=8589934592"]), 8_589_934_592);
    assert_eq!(quota(&["--quota-backend-bytes=-1"]), -1);
    assert!(refused(&["--quota-backend-bytes=2GiB"]).message.contains("--quota-backend-bytes"));
}

/// What discovery by a service needs.
const SERVICE: [&str; 2] = ["--discovery-endpoints=10.0.0.1:2379,http://d:1", "--discovery-token=t"];

fn with_service(more: &[&'static str]) -> Vec<&'static str> {
    [&SERVICE, more].concat()
}

#[test]
fn members_are_found_in_one_way_only() {
    let srv = "--discovery-srv=example.com";
    for args in [
        &[srv, SERVICE[0], SERVICE[1]][..],
        &[srv, "--initial-cluster=default=http://localhost:2380"],
        &[SERVICE[0], SERVICE[1], "--initial-cluster=default=http://localhost:2380"],
    ] {
        let refused = refused(args);
        assert!(refused.exit_code == 1 && refused.message.contains("multiple discovery"), "{refused}");
    }
    for one in SERVICE {
        assert!(refused(&[one]).message.contains("both --discovery-endpoints and --discovery-token"));
    }
    let variables = [("ETCD_DISCOVERY_SRV", "example.com"), ("ETCD_DISCOVERY_SRV_NAME", "b")];
    let Parsed::Run { config, .. } = parse_line(&[], &variables) else { panic!("refused") };
    let (domain, service_suffix) = ("example.com".to_owned(), "b".to_owned());
    assert_eq!(config.cluster.initial_cluster, InitialCluster::Srv(SrvDiscovery { domain, service_suffix }));
}

#[test]
fn domain_and_its_suffix_can_always_be_asked_for() {
    let long = format!("--discovery-srv={}a", "a.".repeat(120));
    let suffix = format!("--discovery-srv-name={}", "b".repeat(47));
    for (args, message) in [
        (&["--discovery-srv=a..b"][..], "expected a domain name"),
        (&["--discovery-srv=."], "expected a domain name"),
        (&["--discovery-srv=a b"], "expected a domain name"),
        (&[&long], "expected a domain name"),
        (&["--discovery-srv=a", "--discovery-srv-name=b.c"], "at most 46"),
        (&["--discovery-srv=a", &suffix], "at most 46"),
        (&["--discovery-srv-name=b"], "no --discovery-srv names a domain"),
    ] {
        assert!(refused(args).message.contains(message), "{args:?}");
    }
    run(&["--discovery-srv=example.com."]);
}

#[test]
fn discovery_service_is_read_with_its_defaults_and_its_user() {
    let service = |args: &[&'static str]| match run(&with_service(args)).cluster.initial_cluster {
        InitialCluster::Service(service) => *service,
        other => panic!("{other:?}"),
    };
    let read = service(&[]);
    let seconds = Duration::from_secs;
    assert_eq!((read.dial_timeout, read.request_timeout), (seconds(2), seconds(5)));
    assert_eq!((read.keepalive_time, read.keepalive_timeout), (Some(seconds(2)), seconds(6)));
    assert_eq!(read.endpoints.iter().map(Url::authority).collect::<Vec<_>>(), ["10.0.0.1:2379", "d:1"]);
    assert_eq!((read.token.as_str(), read.credentials), ("t", None));
    assert_eq!(service(&["--discovery-keepalive-time=0"]).keepalive_time, None);
    let pair = |args: &[&'static str]| {
        let credentials = service(args).credentials.unwrap();
        assert!(!format!("{credentials:?}").contains("secret"), "a password is not printed");
        (credentials.user, credentials.password)
    };
    let wanted = |user: &str| (user.to_owned(), "se:cret".to_owned());
    assert_eq!(pair(&["--discovery-user=u:se:cret"]), wanted("u"));
    assert_eq!(pair(&["--discovery-user=u:v", "--discovery-password=se:cret"]), wanted("u:v"));
}

#[test]
fn bad_discovery_flags_are_refused_and_no_password_is_shown() {
    for (args, message) in [
        (&["--discovery-endpoints=a:1,", "--discovery-token=t"][..], "must not contain empty endpoints"),
        (&["--discovery-endpoints=unix:///a/", "--discovery-token=t"], "has the path of its file"),
        (&["--discovery-endpoints=a", "--discovery-token=t"], "host:port"),
        (&["--discovery-endpoints=a:1", "--discovery-token=a/../b"], "part of a key"),
        (&["--discovery-endpoints=a:1", "--discovery-token=/a"], "part of a key"),
        (&["--discovery-dial-timeout=0"], "must be greater than 0"),
        (&["--discovery-request-timeout=x"], "is not a duration"),
        (&["--discovery-password=hidden"], "no --discovery-user"),
        (&["--discovery-user=u"], "ETCD_DISCOVERY_PASSWORD"),
        (&["--discovery-user=:hidden"], "ETCD_DISCOVERY_PASSWORD"),
        (&["--discovery-fallback=retry"], "expected one of exit, proxy"),
        (&["--discovery-cert=c", "--discovery-endpoints=a:1", "--discovery-token=t"], "must both be present"),
    ] {
        let refused = refused(args);
        assert!(refused.message.contains(message), "{args:?}: {refused}");
        assert!(!refused.message.contains("hidden"), "{refused}");
    }
    let existing = run(&with_service(&["--initial-cluster-state=existing"]));
    let refused = existing.cluster.check_empty().unwrap_err();
    assert!(refused.message.contains("discovery URL should not be set when joining"), "{refused}");
    assert!(run(&["--discovery-srv=a", "--initial-cluster-state=existing"]).cluster.check_empty().is_ok());
}

#[test]
fn listed_urls_that_lead_to_the_advertised_ones_are_this_member() {
    let config = run(&["--initial-advertise-peer-urls=http://10.0.0.1:1"]);
    let members = vec![("default".to_owned(), Url::parse_list("http://m1.example.com:1").unwrap())];
    let plan = |is_same: bool| {
        let found = FirstMembers { members: &members, token: "t", source: "--discovery-srv=example.com" };
        config.cluster.bootstrap(&config.process, found, |_, _| is_same)
    };
    // The id follows from what all members read, not from what this one advertises.
    assert_eq!(plan(true).unwrap().peer_urls, ["http://m1.example.com:1"]);
    assert!(
        plan(false).unwrap_err().message.starts_with("--discovery-srv=example.com has default=http://m1")
    );
}

//! What each member has for itself: its name, its directories, its addresses, its machine.
//!
//! Invariants of every value that `validate` passed: both listener lists can be bound, and no two
//! listeners of this process claim the same address.

use std::path::PathBuf;
use std::time::Duration;

use super::address::Address;
use super::auth::AuthConfig;
use super::auto_compaction::AutoCompaction;
use super::features::FeatureGates;
use super::file::{Scalar, scalars};
use super::listener::{Encryption, Listener};
use super::parse::{Refused, Settings};
use super::placement::Placement;
use super::tls::TlsConfig;
use super::url::Url;
use super::value::{self, NumberError};
use crate::types::FormatLevel;
use crate::types::node_path::is_node;

/// What `--max-request-metadata-bytes` may be: below, ordinary clients would be refused; above, 32
/// connections could hold a shard's memory for unfinished requests.
const METADATA_BYTES_MIN: u32 = 8 * 1024;
/// Longest `--v2-prefix`: it is a part of every path.
const V2_PREFIX_BYTES_MAX: usize = 1024;

pub const METADATA_BYTES_LIMIT: u32 = 8 * 1024 * 1024;

/// May differ between members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    pub name: String,
    pub data_dir: PathBuf,
    /// The log's own directory; `None` is inside `data_dir`.
    pub wal_dir: Option<PathBuf>,
    pub listen_client: Vec<Listener>,
    /// HTTP has these addresses for itself, and the others gRPC. Empty: both share the others.
    pub listen_client_http: Vec<Listener>,
    /// Health and metrics have these for themselves, besides the clients' addresses.
    pub listen_metrics: Vec<Listener>,
    pub listen_peer: Vec<Listener>,
    pub tls: TlsConfig,
    /// Share those addresses with other processes that ask for the same.
    pub socket_reuse_port: bool,
    pub advertise_client_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    /// As given, the default spelt out; not positive is none.
    pub quota_bytes: i64,
    pub max_concurrent_streams: u32,
    pub metadata_bytes_max: u32,
    pub keepalive: Keepalive,
    pub web: WebConfig,
    /// A checkpoint is due after so many applied log entries (groups of requests), ...
    pub checkpoint_entries: u64,
    /// ... or after so many bytes of log, whichever is first.
    pub checkpoint_bytes: u64,
    /// Compacted history that lists under way may hold.
    pub pinned_history_bytes: u64,
    /// Entries behind a checkpoint that stay in the log for other members.
    pub catch_up_entries: u64,
    pub compaction_batch_revisions: u32,
    pub compaction_sleep: Duration,
    /// History that the leader keeps of its own accord; None: all, until somebody compacts.
    pub auto_compaction: Option<AutoCompaction>,
    pub auth: AuthConfig,
    /// A quiet watcher that asked for it hears this often how far it has come.
    pub watch_progress_interval: Duration,
    /// Requests that take so long are logged.
    pub slow_after: Duration,
    /// The leader compares the members' data this often.
    pub corrupt_check_interval: Option<Duration>,
    /// The same for what the last compaction left; needs its gate.
    pub compact_hash_check_interval: Option<Duration>,
    pub features: FeatureGates,
    pub log: LogConfig,
    pub placement: Placement,
    pub wal_sync: WalSync,
    /// The highest format level that this member lets the cluster write.
    pub format_level_max: FormatLevel,
    /// Calls are timed, method by method.
    pub has_extensive_metrics: bool,
    /// Segments of a key by which its load is counted; 0: by none.
    pub load_prefix_depth: usize,
    /// Nothing that was touched is swapped out.
    pub lock_memory: bool,
    /// How long an idle executor polls before it sleeps.
    pub spin_before_park: Duration,
}

/// HTTP/2 pings, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Clients may ping this often.
    pub client_min_time: Duration,
    /// The server pings a connection that was idle so long; `None` is never.
    pub server_interval: Option<Duration>,
    /// A connection is closed when a ping stays unanswered so long.
    pub server_timeout: Duration,
}

/// Who may ask by HTTP, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebConfig {
    /// Origins whose scripts may read answers; empty or a `*` among them: all.
    pub origins: Vec<String>,
    /// Names by which this host may be asked without TLS; empty or a `*` among them: any.
    pub hosts: Vec<String>,
    /// Hosts of `--advertise-client-urls`, by which the dashboard may be asked, too.
    pub own_hosts: Vec<String>,
    /// Calls may come as JSON.
    pub serves_gateway: bool,
    /// Where the root of the v2 API is, without a slash at its end; `None`: there is no v2 API.
    pub v2_root: Option<String>,
}

/// What is logged, how, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    /// One or more, each once.
    pub outputs: Vec<LogOutput>,
    /// Then the only output is a file.
    pub rotation: Option<LogRotation>,
}

/// `--log-level`. etcd's `panic` and `fatal` are read as `Error`: there is nothing above it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
    /// For people where standard error is a terminal, JSON elsewhere.
    Fitting,
}

/// `--log-outputs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// A file, which is appended to.
    Path(PathBuf),
}

/// `--wal-sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalSync {
    /// Measured at the first start on this disk.
    Auto,
    Mmap,
    Direct,
}

/// Spinning longer than this saves no wake-up that anyone could notice.
const SPIN_MAX: Duration = Duration::from_millis(10);

/// etcd's, for `--watch-progress-notify-interval=0`.
const WATCH_PROGRESS_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// etcd's: each time is a message to each watcher.
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);

/// etcd's, for `--quota-backend-bytes=0`.
const QUOTA_DEFAULT: i64 = 2 << 30;

/// etcd's, for `--snapshot-count=0`.
const CHECKPOINT_ENTRIES_DEFAULT: u64 = 10_000;

/// A checkpoint writes the whole state: more often than once a MiB of log it would do nothing else.
const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;

impl ProcessConfig {
    pub(super) fn read(settings: &Settings) -> Result<Self, Refused> {
        let name = settings.text("name").to_owned();
        if name.is_empty() {
            return Err(settings.invalid("name", "a member needs a name"));
        }
        let data_dir = match settings.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let wal_dir = Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let is_told = settings.is_given("advertise-client-urls");
        // etcd does not ask it of a file.
        if settings.is_given("listen-client-urls") && !is_told && !settings.is_of_file() {
            // A default would tell clients an address that nobody listens on.
            return Err(Refused::contradiction(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ));
        }
        Ok(Self {
            name,
            data_dir,
            wal_dir,
            listen_client: listeners(settings, "listen-client-urls")?,
            listen_client_http: more_listeners(settings, "listen-client-http-urls")?,
            listen_metrics: more_listeners(settings, "listen-metrics-urls")?,
            listen_peer: listeners(settings, "listen-peer-urls")?,
            tls: TlsConfig::read(settings)?,
            socket_reuse_port: settings.boolean("socket-reuse-port")?,
            advertise_client_urls: settings.urls("advertise-client-urls")?,
            initial_advertise_peer_urls: settings.urls("initial-advertise-peer-urls")?,
            quota_bytes: quota(settings)?,
            max_concurrent_streams: match settings.number_u32("max-concurrent-streams", 0, u32::MAX)? {
                0 => u32::MAX,
                streams => streams,
            },
            metadata_bytes_max: settings.number_u32(
                "max-request-metadata-bytes",
                METADATA_BYTES_MIN,
                METADATA_BYTES_LIMIT,
            )?,
            keepalive: Keepalive {
                client_min_time: settings.duration("grpc-keepalive-min-time")?,
                server_interval: non_zero(settings.duration("grpc-keepalive-interval")?),
                server_timeout: non_zero(settings.duration("grpc-keepalive-timeout")?)
                    .unwrap_or(Duration::from_secs(20)),
            },
            web: WebConfig {
                origins: words(settings.text("cors")),
                hosts: words(settings.text("host-whitelist")),
                own_hosts: settings.urls("advertise-client-urls")?.iter().map(Url::host).collect(),
                serves_gateway: settings.boolean("enable-grpc-gateway")?,
                v2_root: v2_root(settings)?,
            },
            checkpoint_entries: match settings.number("snapshot-count", 0, u64::MAX)? {
                0 => CHECKPOINT_ENTRIES_DEFAULT,
                entries => entries,
            },
            checkpoint_bytes: settings.number("checkpoint-bytes", CHECKPOINT_BYTES_MIN, u64::MAX)?,
            pinned_history_bytes: settings.number("pinned-history-bytes", 0, u64::MAX)?,
            catch_up_entries: settings.number("snapshot-catchup-entries", 0, u64::MAX)?,
            compaction_batch_revisions: match settings.number_u32("compaction-batch-limit", 0, u32::MAX)? {
                0 => 500,
                revisions => revisions,
            },
            compaction_sleep: settings.duration("compaction-sleep-interval")?,
            auto_compaction: AutoCompaction::read(settings)?,
            auth: AuthConfig::read(settings)?,
            // etcd raises a shorter one to the least too, rather than refuse it.
            slow_after: settings.duration("warning-unary-request-duration")?,
            watch_progress_interval: non_zero(settings.duration("watch-progress-notify-interval")?)
                .map_or(WATCH_PROGRESS_DEFAULT, |interval| interval.max(WATCH_PROGRESS_MIN)),
            corrupt_check_interval: non_zero(settings.duration("corrupt-check-time")?),
            compact_hash_check_interval: compact_hash_check(settings)?,
            features: FeatureGates::read(settings)?,
            log: LogConfig::read(settings)?,
            placement: Placement::parse(settings.text("placement"))
                .map_err(|reason| settings.invalid("placement", &reason))?,
            wal_sync: settings.word(
                "wal-sync",
                &[("auto", WalSync::Auto), ("mmap", WalSync::Mmap), ("direct", WalSync::Direct)],
            )?,
            format_level_max: FormatLevel(settings.number_u32(
                "format-level-max",
                FormatLevel::LOWEST.0,
                FormatLevel::HIGHEST.0,
            )?),
            has_extensive_metrics: settings
                .word("metrics", &[("", false), ("basic", false), ("extensive", true)])?,
            load_prefix_depth: settings.number_u32("load-prefix-depth", 0, 16)? as usize,
            lock_memory: settings.boolean("memory-mlock")?,
            spin_before_park: spin(settings)?,
        })
    }

    pub(super) fn validate(&self) -> Result<(), Refused> {
        let lists = [&self.listen_client, &self.listen_client_http, &self.listen_metrics, &self.listen_peer];
        let listeners = lists.into_iter().flatten().map(|listener| &listener.address);
        let listeners: Vec<&Address> = listeners.collect();
        for (slot, a) in listeners.iter().enumerate() {
            for b in &listeners[..slot] {
                if a.overlaps(b) {
                    return Err(Refused::contradiction(format!(
                        "two listeners claim one address: {b} and {a} (--listen-client-urls, --listen-client-http-urls, \
                         --listen-metrics-urls, --listen-peer-urls)"
                    )));
                }
            }
        }
        self.tls.validate(&self.for_clients(), &self.listen_metrics, &self.listen_peer)
    }

    fn for_clients(&self) -> Vec<&Listener> {
        self.listen_client.iter().chain(&self.listen_client_http).collect()
    }

    /// What is taken as etcd takes it, and most likely not what was meant.
    pub(super) fn warnings(&self, settings: &Settings) -> Vec<String> {
        let told = [
            ("--advertise-client-urls", "client", &self.advertise_client_urls),
            ("--initial-advertise-peer-urls", "member", &self.initial_advertise_peer_urls),
        ];
        let mut warnings = self.tls.warnings(settings, &self.for_clients(), &self.listen_peer);
        warnings.extend(self.auth.warnings());
        for (flag, who, urls) in told {
            for url in urls.iter().filter(|url| url.is_unspecified()) {
                warnings.push(format!(
                    "{flag} has {url}: a {who} on another host that is told this address ends up at itself; \
                     give one that leads to this host"
                ));
            }
        }
        warnings
    }
}

impl LogConfig {
    fn read(settings: &Settings) -> Result<Self, Refused> {
        settings.word("logger", &[("zap", ())])?;
        Ok(Self {
            level: log_level(settings)?,
            format: settings.word(
                "log-format",
                &[("json", LogFormat::Json), ("console", LogFormat::Console), ("", LogFormat::Fitting)],
            )?,
            outputs: log_outputs(settings)?,
            rotation: LogRotation::read(settings)?,
        })
    }
}

/// zap reads a level in small letters or in capitals, and an empty one as info.
fn log_level(settings: &Settings) -> Result<LogLevel, Refused> {
    let words = [
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
        ("dpanic", LogLevel::Error),
        ("panic", LogLevel::Error),
        ("fatal", LogLevel::Error),
    ];
    let text = settings.text("log-level");
    if text.is_empty() {
        return Ok(LogLevel::Info);
    }
    match words.iter().find(|(word, _)| word.to_ascii_uppercase() == text) {
        Some((_, level)) => Ok(*level),
        None => settings.word("log-level", &words),
    }
}

/// `--log-rotation-config-json`, of which an absent key has etcd's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    /// A file that would grow beyond it becomes an old one.
    pub file_bytes_max: u64,
    /// Days that old files stay; None: for ever.
    pub age_days_max: Option<u32>,
    /// How many stay; None: all.
    pub files_max: Option<u32>,
    /// In old files' names: this host's time instead of UTC.
    pub has_local_time: bool,
    /// Old files are compressed.
    pub is_compressed: bool,
}

impl LogRotation {
    /// etcd's, for a `maxsize` of 0.
    const FILE_MIB_DEFAULT: u32 = 100;

    fn read(settings: &Settings) -> Result<Option<Self>, Refused> {
        let name = "log-rotation-config-json";
        let fields = scalars(settings.text(name)).map_err(|reason| settings.invalid(name, &reason))?;
        let (mut mib, mut days, mut files) = (0, 0, 0);
        let (mut has_local_time, mut is_compressed) = (false, false);
        for (key, scalar) in fields {
            let number = || match scalar {
                Scalar::Integer(number) => {
                    let number = u32::try_from(number).ok();
                    number.ok_or_else(|| settings.invalid(name, &format!("{key} is out of range")))
                }
                _ => Err(settings.invalid(name, &format!("{key} is no whole number"))),
            };
            let boolean = || match scalar {
                Scalar::Bool(value) => Ok(value),
                _ => Err(settings.invalid(name, &format!("{key} is neither true nor false"))),
            };
            match key.as_str() {
                "maxsize" => mib = number()?,
                "maxage" => days = number()?,
                "maxbackups" => files = number()?,
                "localtime" => has_local_time = boolean()?,
                "compress" => is_compressed = boolean()?,
                // As etcd's reader of JSON does.
                _ => {}
            }
        }
        if !settings.boolean("enable-log-rotation")? {
            return Ok(None);
        }
        if !matches!(log_outputs(settings)?[..], [LogOutput::Path(_)]) {
            return Err(Refused::contradiction(format!(
                "{} needs one file as --log-outputs, and nothing else",
                settings.source("enable-log-rotation")
            )));
        }
        let mib = if mib == 0 { Self::FILE_MIB_DEFAULT } else { mib };
        let bound = |number: u32| (number != 0).then_some(number);
        Ok(Some(Self {
            file_bytes_max: u64::from(mib) << 20,
            age_days_max: bound(days),
            files_max: bound(files),
            has_local_time,
            is_compressed,
        }))
    }
}

/// Where the log is to go: one place or more, each once.
fn log_outputs(settings: &Settings) -> Result<Vec<LogOutput>, Refused> {
    let name = "log-outputs";
    let mut outputs = Vec::new();
    for word in settings.text(name).split(',') {
        let output = match word {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "" => return Err(settings.invalid(name, "expected default, stderr, stdout or a file")),
            // etcd's word; as a path it would become a file that nobody looks for.
            "systemd/journal" => {
                return Err(
                    settings.invalid(name, "not supported by Pinion yet; systemd reads stderr by itself")
                );
            }
            path => LogOutput::Path(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

/// What is taken, but not as it is written.
pub(super) fn remarks(settings: &Settings) -> Result<Vec<String>, Refused> {
    let mut remarks = Vec::new();
    if settings.number("snapshot-count", 0, u64::MAX)? == 0 {
        let source = settings.source("snapshot-count");
        remarks.push(format!("{source}=0 stands for the default, {CHECKPOINT_ENTRIES_DEFAULT}"));
    }
    remarks.extend(AutoCompaction::remark(settings)?);
    let rotation = "log-rotation-config-json";
    if settings.is_given(rotation) && !settings.boolean("enable-log-rotation")? {
        let (source, text) = (settings.source(rotation), settings.text(rotation));
        remarks
            .push(format!("{source}={text} has no effect: no log is rotated without --enable-log-rotation"));
    }
    if 1 < log_outputs(settings)?.len() {
        let (source, text) = (settings.source("log-outputs"), settings.text("log-outputs"));
        remarks.push(format!(
            "{source}={text}: each has every line, and a reader of all of them has it as often"
        ));
    }
    Ok(remarks)
}

fn listeners(settings: &Settings, name: &str) -> Result<Vec<Listener>, Refused> {
    let mut listeners = Vec::<Listener>::new();
    for url in settings.urls(name)? {
        let address = url.bind_addr().map_err(|error| settings.invalid(name, &error.to_string()))?;
        let encryption = if url.is_tls() { Encryption::Tls } else { Encryption::None };
        // `localhost` and `127.0.0.1` are two URLs and one address.
        match listeners.iter_mut().find(|known| known.address == address) {
            Some(known) if known.encryption == encryption => {}
            Some(_) if name == "listen-peer-urls" => {
                return Err(settings.invalid(name, &format!("{address} is either encrypted or not")));
            }
            Some(known) => known.encryption = Encryption::Either,
            None => listeners.push(Listener { address, encryption }),
        }
    }
    Ok(listeners)
}

/// The same for what has no default.
fn more_listeners(settings: &Settings, name: &str) -> Result<Vec<Listener>, Refused> {
    if settings.text(name).is_empty() { Ok(Vec::new()) } else { listeners(settings, name) }
}

/// The words of a list with commas.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Where v2's root is, if there is v2.
fn v2_root(settings: &Settings) -> Result<Option<String>, Refused> {
    let prefix = settings.text("v2-prefix");
    let root = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_path = root.is_empty() || is_node(root.as_bytes());
    if !prefix.starts_with('/') || !is_path || V2_PREFIX_BYTES_MAX < prefix.len() {
        let expected =
            "expected a path that begins with /, without empty segments, `.` and `..`, of 1024 bytes at most";
        return Err(settings.invalid("v2-prefix", expected));
    }
    Ok(settings.boolean("enable-v2")?.then(|| root.to_owned()))
}

fn spin(settings: &Settings) -> Result<Duration, Refused> {
    let spin = settings.duration("spin-before-park")?;
    if spin > SPIN_MAX {
        return Err(settings.invalid("spin-before-park", "at most 10ms"));
    }
    Ok(spin)
}

fn quota(settings: &Settings) -> Result<i64, Refused> {
    let name = "quota-backend-bytes";
    match value::parse_signed(settings.text(name)) {
        Ok(0) => Ok(QUOTA_DEFAULT),
        Ok(bytes) => Ok(bytes),
        Err(NumberError::Syntax) => Err(settings.invalid(name, "expected a whole number")),
        Err(NumberError::TooLarge) => Err(settings.invalid(name, &format!("at most {}", i64::MAX))),
    }
}

fn compact_hash_check(settings: &Settings) -> Result<Option<Duration>, Refused> {
    let name = "compact-hash-check-time";
    let interval = settings.duration(name)?;
    if interval.is_zero() {
        // etcd's rule: it is switched off by its gate.
        return Err(settings.invalid(name, "must be greater than 0"));
    }
    Ok(FeatureGates::read(settings)?.compact_hash_check.then_some(interval))
}

fn non_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

//! `grpc-proxy start`: where clients come, and to whom their calls are passed on.
//!
//! A member does with its clients all that a proxy does, so that half of its flags is read by the member's own rules
//! (`front`), under their names there. One table (`proxy_flags`) has all of them.
//!
//! Compatibility: etcd's flags and defaults. What is not built is refused by name when it is asked for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::parse::Refused;
use super::proxy_flags::{FLAGS, Flag, Kind, Use};
use super::value::parse_duration;
use super::words::{Words, is_help};
use super::{Config, PairFiles, Parsed, REQUEST_BYTES_MAX_LIMIT, Security, Url};

/// A proxy's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcProxy {
    /// How clients are met: what a member would do with its own.
    pub front: Config,
    /// At least one.
    pub endpoints: Vec<Url>,
    /// How endpoints with TLS are dialed.
    pub security: Security,
    /// After so long without a byte an endpoint is pinged; None: as is usual here.
    pub dial_keepalive_time: Option<Duration>,
    pub dial_keepalive_timeout: Duration,
    pub permit_without_stream: bool,
    /// Of a request.
    pub send_bytes_max: u32,
    /// Of an answer.
    pub receive_bytes_max: u32,
    /// Where clients are told to come; empty: members tell where they are themselves.
    pub advertise_client_url: String,
    /// Where proxies register, and for how many seconds.
    pub registry: Option<(String, i64)>,
    /// No answer to a read is older than an earlier one.
    pub ordering: bool,
}

/// Endpoints at most.
const ENDPOINTS_MAX: usize = 64;

/// What `--help` shows.
pub(super) fn usage() -> String {
    let mut text = "\
pinion grpc-proxy start [flags]: passes calls on to the members of a cluster, of Pinion or of etcd.

Clients come to --listen-addr by gRPC, as JSON under /v3/ and for /version, /health, /metrics, /proxy/health and
/proxy/metrics. Their calls go to the --endpoints in turns, with the token that they show and the time that they have; what
only reads is asked elsewhere when a member fails. Who may do what is judged by the members.
With systemd: Type=notify. SIGTERM and SIGINT let calls under way finish.

"
    .to_owned();
    for Flag { name, kind, default, used, about } in FLAGS {
        let value = match kind {
            Kind::Text => " text",
            Kind::Bool => "",
            Kind::Number => " number",
            Kind::Duration => " duration",
        };
        let about = match used {
            Use::Refused(why) => format!("refused: {why} ({about})"),
            Use::Own | Use::Front(_) => (*about).to_owned(),
        };
        writeln!(text, "  --{name}{value}\n        {about} [{default}]").expect("a text takes all");
    }
    text.push_str("\nExample: pinion grpc-proxy start --endpoints=m1.example.com:2379,m2.example.com:2379\n");
    text
}

/// Reads what stands behind `grpc-proxy`. None: the usage is asked for.
pub(super) fn parse(args: &[String]) -> Result<Option<GrpcProxy>, Refused> {
    let rest = match args.split_first() {
        None => return Err(Refused::usage(format!("grpc-proxy: there is `start`\n{}", usage()))),
        Some((first, _)) if is_help(first) => return Ok(None),
        Some((first, rest)) if first == "start" => rest,
        Some((first, _)) => {
            return Err(Refused::usage(format!("grpc-proxy {first}: there is `start`\n{}", usage())));
        }
    };
    if rest.iter().any(|arg| is_help(arg)) {
        return Ok(None);
    }
    let alone: Vec<&str> =
        FLAGS.iter().filter(|flag| flag.kind == Kind::Bool).map(|flag| flag.name).collect();
    let mut words = Words::read(rest, &alone)?;
    for flag in FLAGS {
        if let Use::Refused(why) = flag.used {
            refuse_if_given(&mut words, flag, why)?;
        }
    }
    let endpoints = read_endpoints(&mut words)?;
    let (dial_keepalive_time, dial_keepalive_timeout) = (
        take_duration(&mut words, "dial-keepalive-time", "0s")?,
        take_duration(&mut words, "dial-keepalive-timeout", "20s")?,
    );
    let permit_without_stream = words.take_flag("permit-without-stream")?;
    let ordering = words.take_flag("experimental-serializable-ordering")?;
    let send_bytes_max = take_bytes(&mut words, "max-send-bytes", 1_572_864)?;
    let receive_bytes_max = take_bytes(&mut words, "max-recv-bytes", i64::from(i32::MAX))?;
    let advertise_client_url =
        words.take("advertise-client-url")?.unwrap_or_else(|| "127.0.0.1:23790".to_owned());
    let registry = read_registry(&mut words, &advertise_client_url)?;
    let (security, has_tls) = read_security(&mut words)?;
    let endpoints = endpoints
        .iter()
        .map(|endpoint| address(endpoint, has_tls).map_err(|error| invalid("endpoints", &error)))
        .collect::<Result<Vec<Url>, Refused>>()?;
    let front = read_front(&mut words, send_bytes_max)?;
    words.end("grpc-proxy start")?;
    if let Some(word) = words.positional.first() {
        return Err(Refused::usage(format!(
            "grpc-proxy start takes flags only, and there is {word:?}\n{}",
            usage()
        )));
    }
    Ok(Some(GrpcProxy {
        front,
        endpoints,
        security,
        dial_keepalive_time: Some(dial_keepalive_time).filter(|time| !time.is_zero()),
        dial_keepalive_timeout,
        permit_without_stream,
        send_bytes_max,
        receive_bytes_max,
        advertise_client_url,
        registry,
        ordering,
    }))
}

fn refuse_if_given(words: &mut Words, flag: &Flag, why: &str) -> Result<(), Refused> {
    let asks = match flag.kind {
        Kind::Bool => words.take_flag(flag.name)?.then(|| "true".to_owned()),
        Kind::Number => {
            words.take_number(flag.name)?.filter(|number| *number != 0).map(|number| number.to_string())
        }
        Kind::Duration => {
            let text = words.take(flag.name)?;
            let is_none = |text: &String| parse_duration(text).is_ok_and(|duration| duration.is_zero());
            text.filter(|text| !is_none(text))
        }
        Kind::Text => words.take(flag.name)?.filter(|text| !text.is_empty()),
    };
    match asks {
        Some(value) => Err(Refused::usage(format!("--{}={value}: {why}", flag.name))),
        None => Ok(()),
    }
}

fn read_endpoints(words: &mut Words) -> Result<Vec<String>, Refused> {
    let text = words.take("endpoints")?.unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let endpoints: Vec<String> =
        text.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()).map(str::to_owned).collect();
    match endpoints.len() {
        0 => Err(Refused::usage("--endpoints: no endpoints found")),
        1..=ENDPOINTS_MAX => Ok(endpoints),
        count => Err(Refused::usage(format!(
            "--endpoints: {count} endpoints, at most {ENDPOINTS_MAX} are possible"
        ))),
    }
}

/// Where proxies register: both flags or neither.
fn read_registry(words: &mut Words, advertised: &str) -> Result<Option<(String, i64)>, Refused> {
    let prefix = words.take("resolver-prefix")?.unwrap_or_default();
    let ttl_s = words.take_number("resolver-ttl")?.unwrap_or_default();
    let refused = |message: String| Err(Refused::contradiction(message));
    match (prefix.is_empty(), ttl_s) {
        (true, ..1) => Ok(None),
        (true, _) => refused(format!(
            "invalid resolver-prefix {prefix:?}: --resolver-ttl={ttl_s} needs --resolver-prefix"
        )),
        (false, ..1) => {
            refused(format!("invalid resolver-ttl {ttl_s}: --resolver-prefix={prefix} needs --resolver-ttl"))
        }
        (false, _) if advertised.is_empty() => {
            refused(format!("invalid advertise-client-url {advertised:?}: it is what is registered"))
        }
        (false, _) => Ok(Some((prefix, ttl_s))),
    }
}

/// How members are dialed, and whether anything was said about TLS.
fn read_security(words: &mut Words) -> Result<(Security, bool), Refused> {
    let mut file =
        |name| words.take(name).map(|path| path.filter(|path| !path.is_empty()).map(PathBuf::from));
    let (cert, key, cacert) = (file("cert")?, file("key")?, file("cacert")?);
    let believes_anybody = words.take_flag("insecure-skip-tls-verify")?;
    let has_tls = cert.is_some() || key.is_some() || cacert.is_some();
    let pair = match (cert, key) {
        (Some(certificate), Some(key)) => Some(PairFiles { certificate, key }),
        (None, None) => None,
        _ => {
            return Err(Refused::contradiction(
                "--cert and --key go together: a certificate is shown by its key",
            ));
        }
    };
    let flags = "--cert, --key, --cacert";
    Ok((Security { pair, trusted_ca: cacert, believes_anybody, ..Security::none(flags) }, has_tls))
}

/// What the member's rules say of the rest.
fn read_front(words: &mut Words, send_bytes_max: u32) -> Result<Config, Refused> {
    let listen = words.take("listen-addr")?.unwrap_or_else(|| "127.0.0.1:23790".to_owned());
    let data_dir = words.take("data-dir")?.unwrap_or_else(|| "default.proxy".to_owned());
    let is_debug = words.take_flag("debug")?;
    let mut front = Vec::new();
    let mut has_tls = false;
    for flag in FLAGS {
        let Use::Front(name) = flag.used else { continue };
        let value = match flag.kind {
            Kind::Bool => words.take_flag(flag.name)?.to_string(),
            _ => match words.take(flag.name)? {
                Some(value) => value,
                None => flag.default.to_owned(),
            },
        };
        has_tls |= match flag.name {
            "cert-file" | "key-file" => !value.is_empty(),
            "auto-tls" => value == "true",
            _ => false,
        };
        if !value.is_empty() {
            front.push(format!("--{name}={value}"));
        }
    }
    let scheme = if has_tls { "https" } else { "http" };
    let host = match listen.strip_prefix("localhost:") {
        // No name has an address before somebody is asked for it, but for this one.
        Some(port) => format!("127.0.0.1:{port}"),
        None if listen.starts_with(':') => format!("0.0.0.0{listen}"),
        None => listen,
    };
    let request_bytes_max = send_bytes_max.min(REQUEST_BYTES_MAX_LIMIT);
    front.extend([
        format!("--listen-client-urls={scheme}://{host}"),
        format!("--advertise-client-urls={scheme}://{host}"),
        format!("--data-dir={data_dir}"),
        format!("--max-request-bytes={request_bytes_max}"),
    ]);
    if is_debug {
        front.push("--log-level=debug".to_owned());
    }
    match super::parse(front, [], |_| Err("it is not read here".to_owned())) {
        Parsed::Run { config, .. } => Ok(*config),
        Parsed::Refused(refused) => Err(Refused {
            message: refused.message.replace("--listen-client-urls", "--listen-addr"),
            ..refused
        }),
        Parsed::Print(_) | Parsed::PrintMetrics => unreachable!("no such flag was passed on"),
    }
}

/// An endpoint, whose scheme may be left out.
fn address(text: &str, has_tls: bool) -> Result<Url, String> {
    let url = match text.contains("://") {
        true => text.to_owned(),
        false => format!("{}://{text}", if has_tls { "https" } else { "http" }),
    };
    Url::parse(&url).map_err(|error| error.to_string())
}

fn take_duration(words: &mut Words, name: &str, default: &str) -> Result<Duration, Refused> {
    let text = words.take(name)?.unwrap_or_else(|| default.to_owned());
    parse_duration(&text).map_err(|error| invalid(name, &error))
}

fn take_bytes(words: &mut Words, name: &str, default: i64) -> Result<u32, Refused> {
    let bytes = words.take_number(name)?.unwrap_or(default);
    match u32::try_from(bytes) {
        Ok(bytes @ 1..=0x7fff_ffff) => Ok(bytes),
        _ => Err(invalid(name, &format!("{bytes}: expected a number from 1 to 2147483647"))),
    }
}

fn invalid(name: &str, error: &str) -> Refused {
    Refused::usage(format!("--{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Encryption, LogLevel};

    fn parsed(line: &str) -> Result<GrpcProxy, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&args) {
            Ok(Some(proxy)) => Ok(proxy),
            Ok(None) => panic!("{line} is no cry for help"),
            Err(refused) => Err(refused.message),
        }
    }

    #[test]
    fn defaults_are_etcds() {
        let plain = parsed("start").unwrap();
        let process = &plain.front.process;
        assert_eq!(plain.endpoints[0].to_string(), "http://127.0.0.1:2379");
        assert_eq!(process.listen_client[0].address.to_string(), "127.0.0.1:23790");
        assert_eq!(process.listen_client[0].encryption, Encryption::None);
        assert_eq!((plain.send_bytes_max, plain.receive_bytes_max), (1_572_864, 0x7fff_ffff));
        assert_eq!(process.keepalive.client_min_time, Duration::from_secs(5));
        assert_eq!(process.max_concurrent_streams, u32::MAX);
        assert_eq!((plain.dial_keepalive_time, plain.ordering), (None, false));
        assert_eq!(plain.advertise_client_url, "127.0.0.1:23790");
    }

    #[test]
    fn flags_of_either_side_reach_that_side() {
        let told = parsed(
            "start --endpoints=a:1,http://b:2,unix:///run/m.sock --listen-addr :4 --cert-file c --key-file=k \
             --trusted-ca-file ca --cert cc --key kk --cacert aa --insecure-skip-tls-verify --tls-min-version TLS1.3 \
             --metrics-addr http://127.0.0.1:5 --grpc-keepalive-min-time=1s --max-send-bytes 7 --debug \
             --dial-keepalive-time=3s --permit-without-stream --data-dir d --experimental-serializable-ordering --resolver-prefix=p --resolver-ttl=5 --namespace= --enable-pprof=false",
        )
        .unwrap();
        let endpoints: Vec<_> = told.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["https://a:1", "http://b:2", "unix:///run/m.sock"]);
        let process = &told.front.process;
        assert_eq!(process.listen_client[0].encryption, Encryption::Tls);
        assert_eq!(process.listen_metrics.len(), 1);
        assert_eq!(process.tls.client.pair.as_ref().unwrap().certificate, PathBuf::from("c"));
        assert!(process.tls.client.asks_for_certificates());
        assert_eq!((process.log.level, process.data_dir.clone()), (LogLevel::Debug, PathBuf::from("d")));
        assert_eq!(told.security.pair.as_ref().unwrap().key, PathBuf::from("kk"));
        assert_eq!(told.registry, Some(("p".to_owned(), 5)));
        assert!(told.ordering && told.security.believes_anybody && told.security.trusted_ca.is_some());
        assert_eq!((told.send_bytes_max, told.dial_keepalive_time), (7, Some(Duration::from_secs(3))));
    }

    #[test]
    fn what_makes_no_sense_or_is_not_built_is_refused_by_name() {
        for (line, words) in [
            ("", "there is `start`"),
            ("stop", "grpc-proxy stop"),
            ("start --endpoints=a", "host:port"),
            ("start --endpoints=,", "no endpoints found"),
            ("start --listen-addr=a", "--listen-addr"),
            ("start --cert=c", "go together"),
            ("start --resolver-prefix=p", "invalid resolver-ttl 0"),
            ("start --resolver-prefix=p --resolver-ttl=-1", "invalid resolver-ttl -1"),
            ("start --resolver-ttl=5", "invalid resolver-prefix \"\""),
            (
                "start --resolver-prefix=p --resolver-ttl=5 --advertise-client-url=",
                "invalid advertise-client-url",
            ),
            ("start --cert-file=c", "key-file"),
            ("start --max-send-bytes=0", "--max-send-bytes"),
            ("start --max-recv-bytes=9999999999", "--max-recv-bytes"),
            ("start --dial-keepalive-time=soon", "--dial-keepalive-time"),
            ("start --nonsense=1", "-nonsense"),
            ("start 127.0.0.1:2379", "flags only"),
        ] {
            let refusal = parsed(line).unwrap_err();
            assert!(refusal.contains(words), "{line}: {refusal}");
        }
        for flag in FLAGS.iter().filter(|flag| matches!(flag.used, Use::Refused(_))) {
            let value = match flag.kind {
                Kind::Bool => "true",
                Kind::Duration => "3s",
                Kind::Text | Kind::Number => "3",
            };
            let refusal = parsed(&format!("start --{}={value}", flag.name)).unwrap_err();
            assert!(refusal.starts_with(&format!("--{}={value}: ", flag.name)), "{refusal}");
        }
    }

    #[test]
    fn every_flag_is_read_by_somebody() {
        for flag in FLAGS {
            let default = if flag.default.is_empty() { String::new() } else { format!("={}", flag.default) };
            let line = match (flag.kind, flag.default.is_empty()) {
                (_, true) => format!("start --{}=", flag.name),
                _ => format!("start --{}{default}", flag.name),
            };
            assert!(parsed(&line).is_ok(), "{line}: {:?}", parsed(&line));
            assert!(usage().contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
    }
}

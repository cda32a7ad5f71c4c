//! Where proxies register, so that clients find all of them: a key for each under `--resolver-prefix`, for as long as its
//! proxy renews a lease.
//!
//! Bounds: a list of `PROXIES_MAX`; what is no registration in it is passed over.
//! Compatibility: keys and values of etcd's gRPC naming, so proxies of both kinds find each other.

use std::time::Duration;

use serde_json::{Value, json};

use super::Upstream;
use crate::pb::etcdserverpb as pb;
use crate::rpc::{Method, Status, status};

/// Of a question.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a registration was lost, or could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Proxies that are listed.
const PROXIES_MAX: i64 = 1000;

/// A proxy, as its clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) struct Advertised {
    pub name: String,
    pub url: String,
}

/// Under which prefix, and for how many seconds after the last renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) struct Registry {
    pub prefix: String,
    pub ttl_s: i64,
}

/// The value of a registration.
fn value(own: &Advertised) -> String {
    let metadata = json!({ "name": own.name }).to_string();
    json!({ "Op": 0, "Addr": own.url, "Metadata": metadata }).to_string()
}

/// Who has registered with this value. None: it is no registration.
fn read(value: &[u8]) -> Option<Advertised> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let url = value.get("Addr")?.as_str()?.to_owned();
    let name = match value.get("Metadata") {
        // A text in which there is JSON, by etcd's proxy; an object by whoever writes it so.
        Some(Value::String(text)) => serde_json::from_str::<Value>(text).ok(),
        Some(other) => Some(other.clone()),
        None => None,
    };
    let name = name.and_then(|name| name.get("name")?.as_str().map(str::to_owned));
    Some(Advertised { name: name.unwrap_or_default(), url })
}

impl Upstream {
    /// The proxies that are registered.
    ///
    /// # Errors
    /// What the member says that is asked.
    pub(in crate::shell) async fn proxies(&self, registry: &Registry) -> Result<Vec<Advertised>, Status> {
        let key = format!("{}/", registry.prefix).into_bytes();
        let mut range_end = key.clone();
        // Behind a slash comes a digit.
        *range_end.last_mut().expect("a slash") += 1;
        let request = pb::RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            limit: PROXIES_MAX,
            ..Default::default()
        };
        let found: pb::RangeResponse = self.ask(Method::Range, &request, PATIENCE).await?;
        Ok(found.kvs.iter().filter_map(|kv| read(&kv.value)).collect())
    }

    /// Keeps a proxy registered, for ever. `on_lease` hears of each lease that is made for it.
    pub(in crate::shell) async fn stay_registered(
        &self,
        registry: &Registry,
        own: &Advertised,
        on_lease: impl Fn(i64),
    ) {
        loop {
            match self.register(registry, own, &on_lease).await {
                Ok(lost) => {
                    tracing::warn!(key = own.url, lost, "the registration of this proxy is made anew")
                }
                Err(status) => {
                    tracing::warn!(key = own.url, reason = %status.message, "this proxy cannot be registered");
                }
            }
            glommio::timer::sleep(PAUSE).await;
        }
    }

    /// Registers, and renews until that is lost; why it was.
    async fn register(
        &self,
        registry: &Registry,
        own: &Advertised,
        on_lease: &impl Fn(i64),
    ) -> Result<String, Status> {
        let grant = pb::LeaseGrantRequest { ttl: registry.ttl_s, id: 0 };
        let granted: pb::LeaseGrantResponse = self.ask(Method::LeaseGrant, &grant, PATIENCE).await?;
        on_lease(granted.id);
        let key = format!("{}/{}", registry.prefix, own.url);
        let put = pb::PutRequest {
            key: key.clone().into(),
            value: value(own).into(),
            lease: granted.id,
            ..Default::default()
        };
        let _: pb::PutResponse = self.ask(Method::Put, &put, PATIENCE).await?;
        tracing::info!(key, lease = granted.id, ttl_s = granted.ttl, "this proxy is registered");
        let ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(1).max(1));
        let mut failed = 0;
        loop {
            glommio::timer::sleep(ttl / 3).await;
            let renewal = pb::LeaseKeepAliveRequest { id: granted.id };
            let patience = PATIENCE.min(ttl / 3);
            let renewed =
                self.ask_first::<pb::LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &renewal, patience);
            match renewed.await {
                Ok(renewed) if 0 < renewed.ttl => failed = 0,
                Ok(_) => return Ok("its lease has ended".to_owned()),
                Err(status) => {
                    failed += 1;
                    if 3 <= failed {
                        return Ok(format!("its lease could not be renewed: {}", status.message));
                    }
                }
            }
        }
    }

    /// Takes a registration back.
    pub(in crate::shell) async fn deregister(&self, lease: i64) {
        let revoke = pb::LeaseRevokeRequest { id: lease };
        match self.ask::<pb::LeaseRevokeResponse>(Method::LeaseRevoke, &revoke, PAUSE).await {
            Ok(_) => tracing::info!(lease, "this proxy is registered no more"),
            Err(gone) if gone == status::LEASE_NOT_FOUND => {}
            // It ends by itself.
            Err(status) => {
                tracing::warn!(lease, reason = %status.message, "the registration ends with its lease")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_etcds_and_what_is_none_is_passed_over() {
        let own = Advertised { name: "host \"a\"".into(), url: "127.0.0.1:23790".into() };
        let text = value(&own);
        let read_back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read_back["Op"], 0);
        assert_eq!(read_back["Metadata"], json!({"name": "host \"a\""}).to_string());
        assert_eq!(read(text.as_bytes()), Some(own));
        let etcds = br#"{"Op":0,"Addr":"h:1","Metadata":"{\"name\":\"vm\"}"}"#;
        assert_eq!(read(etcds), Some(Advertised { name: "vm".into(), url: "h:1".into() }));
        let bare = br#"{"Op":0,"Addr":"h:1","Metadata":null}"#;
        assert_eq!(read(bare), Some(Advertised { name: String::new(), url: "h:1".into() }));
        for bad in [&b""[..], b"{", b"[]", b"{\"Addr\":7}", b"{\"Op\":0}", b"\xff"] {
            assert_eq!(read(bad), None, "{}", bad.escape_ascii());
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(deep.as_bytes()), None);
    }
}

//! Where the names in URLs lead, asked of the system's resolver, which may take minutes.
//!
//! Each name is looked up on a thread of its own, so a name whose servers are silent holds up no other.
//! Callers of one name share its lookup and have a deadline each. A lookup that outlives its callers goes on
//! alone; its answer is kept for whoever asks next. The last good addresses of a name are kept too, and are
//! given when it cannot be looked up in time: a name service that is away does not cut off a member whose
//! address has not changed.
//!
//! Bounds: `LOOKUPS_MAX` threads at a time, one a name; `NAMES_MAX` names are remembered, each with
//! `ADDRESSES_KEPT_MAX` addresses.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;

use super::within::within;
use crate::config::Url;
use crate::shell::runtime::wake::Broadcast;

/// Lookups at a time; a cluster has a few names.
const LOOKUPS_MAX: usize = 64;

/// How long a caller waits for a name whose last good addresses are known.
const KNOWN_PATIENCE: Duration = Duration::from_millis(200);

/// Names whose addresses are kept; when there are more, all are forgotten.
const NAMES_MAX: usize = 1024;

/// Addresses of one name that a caller is given. The next caller gets the next ones, so that one of many that is
/// right is found in the end.
const ADDRESSES_MAX: usize = 8;

/// Addresses of one name that are kept.
const ADDRESSES_KEPT_MAX: usize = 128;

/// Asks the system's resolver on a thread of its own and gives its answer to `on_found`, on that thread.
///
/// # Errors
/// When no thread can be started.
pub(in crate::shell) fn start_lookup(
    authority: String,
    on_found: impl FnOnce(io::Result<Vec<SocketAddr>>) + Send + 'static,
) -> io::Result<()> {
    let look = move || {
        let found = look_up(&authority);
        on_found(found.map(|found| found.take(ADDRESSES_KEPT_MAX).collect()));
    };
    std::thread::Builder::new().name("resolver".to_owned()).spawn(look).map(|_handle| ())
}

/// The addresses behind `host:port`, as a URL has it.
fn look_up(authority: &str) -> io::Result<impl Iterator<Item = SocketAddr> + use<>> {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        // An address of IPv6 comes here when it has a zone, which is the name of a link.
        Some((host, port)) => {
            let port: u16 = port.parse().map_err(io::Error::other)?;
            (host.replacen("%25", "%", 1).as_str(), port).to_socket_addrs()
        }
        None => authority.to_socket_addrs(),
    }
}

/// One lookup, between its thread and this executor.
#[derive(Debug, Default)]
struct Lookup {
    answer: OnceLock<io::Result<Vec<SocketAddr>>>,
    waker: AtomicWaker,
}

impl Lookup {
    async fn answered(&self) -> &io::Result<Vec<SocketAddr>> {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.answer.get().is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.answer.get().expect("it is there")
    }
}

/// A lookup under way, and how it ended.
#[derive(Debug, Default)]
struct Shared {
    outcome: RefCell<Option<Result<Vec<SocketAddr>, String>>>,
    done: Broadcast,
}

/// Names as URLs have them, `host:port`, and where they led last.
pub(in crate::shell) type KnownAddresses = BTreeMap<String, Vec<SocketAddr>>;

/// The names of one executor.
#[derive(Debug, Default)]
pub(in crate::shell) struct Resolver {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The last good addresses.
    known: RefCell<KnownAddresses>,
    /// A look-up has told something that `known` did not have, and nobody has asked for it since.
    has_news: Cell<bool>,
    /// Moves on with every answer that was cut.
    turn: Cell<usize>,
    under_way: RefCell<BTreeMap<String, Rc<Shared>>>,
}

impl Resolver {
    /// Names that led somewhere earlier.
    pub(in crate::shell) fn knowing(known: KnownAddresses) -> Self {
        Self { inner: Rc::new(Inner { known: RefCell::new(known), ..Inner::default() }) }
    }

    /// Where all names led last, when a look-up has changed it since this was asked.
    pub(in crate::shell) fn take_news(&self) -> Option<KnownAddresses> {
        self.inner.has_news.take().then(|| self.inner.known.borrow().clone())
    }

    /// The addresses behind a URL, at least one: those of a lookup that ends in time, else the last good
    /// ones.
    ///
    /// # Errors
    /// When there are neither.
    pub(in crate::shell) async fn resolve(
        &self,
        url: &Url,
        patience: Duration,
    ) -> io::Result<Vec<SocketAddr>> {
        let authority = url.authority();
        if let Ok(address) = authority.parse() {
            return Ok(vec![address]);
        }
        // Who has an address to try does not wait long for a better one.
        let is_known = self.inner.known.borrow().contains_key(&authority);
        let patience = if is_known { patience.min(KNOWN_PATIENCE) } else { patience };
        let error = match within(patience, self.look_up(&authority)).await {
            Ok(addresses) => return Ok(self.some_of(addresses)),
            Err(error) => error,
        };
        match self.inner.known.borrow().get(&authority) {
            Some(known) => {
                tracing::debug!(name = authority, %error, addresses = ?known, "using the last good addresses");
                Ok(self.some_of(known.clone()))
            }
            None => Err(error),
        }
    }

    /// As many as a caller tries, each time others.
    fn some_of(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        if ADDRESSES_MAX < addresses.len() {
            let turn = self.inner.turn.get();
            self.inner.turn.set(turn.wrapping_add(1));
            let first = turn.wrapping_mul(ADDRESSES_MAX) % addresses.len();
            addresses.rotate_left(first);
            addresses.truncate(ADDRESSES_MAX);
        }
        addresses
    }

    async fn look_up(&self, authority: &str) -> io::Result<Vec<SocketAddr>> {
        let under_way = self.inner.under_way.borrow().get(authority).cloned();
        let shared = match under_way {
            Some(shared) => shared,
            None => self.start(authority)?,
        };
        loop {
            if let Some(outcome) = &*shared.outcome.borrow() {
                return outcome.clone().map_err(io::Error::other);
            }
            shared.done.rung().await;
        }
    }

    fn start(&self, authority: &str) -> io::Result<Rc<Shared>> {
        if LOOKUPS_MAX <= self.inner.under_way.borrow().len() {
            return Err(io::Error::other("too many names are being looked up"));
        }
        let lookup = Arc::<Lookup>::default();
        let asked = Arc::clone(&lookup);
        start_lookup(authority.to_owned(), move |found| {
            asked.answer.set(found).expect("only this thread answers, and once");
            asked.waker.wake();
        })?;
        let shared = Rc::<Shared>::default();
        self.inner.under_way.borrow_mut().insert(authority.to_owned(), Rc::clone(&shared));
        let (inner, name, told) = (Rc::clone(&self.inner), authority.to_owned(), Rc::clone(&shared));
        glommio::spawn_local(async move {
            let outcome = match lookup.answered().await {
                Ok(found) if found.is_empty() => Err("the name has no address".to_owned()),
                Ok(found) => Ok(found.clone()),
                Err(error) => Err(error.to_string()),
            };
            inner.under_way.borrow_mut().remove(&name);
            if let Ok(found) = &outcome {
                let mut known = inner.known.borrow_mut();
                if NAMES_MAX <= known.len() {
                    known.clear();
                }
                let as_set = |addresses: &[SocketAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
                // Servers of names give the same addresses in another order each time.
                let is_same = known.get(&name).is_some_and(|known| as_set(known) == as_set(found));
                inner.has_news.set(inner.has_news.get() || !is_same);
                known.insert(name, found.clone());
            }
            told.outcome.replace(Some(outcome));
            told.done.ring();
        })
        .detach();
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn on_executor<T>(work: impl Future<Output = T>) -> T {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(work)
    }

    fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
        let url = Url::parse(text).unwrap();
        on_executor(async { Resolver::default().resolve(&url, PATIENCE).await })
    }

    #[test]
    fn numbers_need_no_lookup_and_names_get_one() {
        assert_eq!(resolve("http://127.0.0.1:5").unwrap(), ["127.0.0.1:5".parse().unwrap()]);
        assert_eq!(resolve("http://[::1]:5").unwrap(), ["[::1]:5".parse().unwrap()]);
        let found = resolve("http://localhost:7").unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        resolve("http://no_such-name.invalid:1").unwrap_err();
    }

    #[test]
    fn a_lookup_that_hangs_holds_up_no_other_name_and_its_own_goes_by_the_last_good_addresses() {
        on_executor(async {
            let resolver = Resolver::default();
            let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
            let hanging = |name: &str| {
                resolver.inner.under_way.borrow_mut().insert(name.to_owned(), Rc::default());
            };
            hanging("dead.invalid:1");
            hanging("lost.invalid:1");
            resolver.inner.known.borrow_mut().insert("dead.invalid:1".to_owned(), vec![address]);
            let ask = async |name: &str| {
                let url = Url::parse(&format!("http://{name}")).unwrap();
                resolver.resolve(&url, Duration::from_millis(20)).await
            };
            assert_eq!(ask("dead.invalid:1").await.unwrap(), [address]);
            assert_eq!(ask("lost.invalid:1").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let url = Url::parse("http://localhost:7").unwrap();
            assert!(!resolver.resolve(&url, PATIENCE).await.unwrap().is_empty());
        });
    }

    #[test]
    fn a_name_with_many_addresses_leads_to_a_few_at_a_time_and_to_all_of_them_in_the_end() {
        let resolver = Resolver::default();
        let many: Vec<SocketAddr> =
            (0..100).map(|last| SocketAddr::new([10, 0, 0, last].into(), 7)).collect();
        let mut seen = std::collections::BTreeSet::new();
        for _caller in 0..100_usize.div_ceil(ADDRESSES_MAX) {
            let some = resolver.some_of(many.clone());
            assert_eq!(some.len(), ADDRESSES_MAX);
            seen.extend(some);
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(
            resolver.some_of(many[..8].to_vec()),
            many[..8],
            "a few are always all given, in their order"
        );
    }

    #[test]
    fn callers_of_one_name_share_its_lookup() {
        on_executor(async {
            let resolver = Resolver::default();
            let address: SocketAddr = "127.0.0.1:7".parse().unwrap();
            let shared = Rc::<Shared>::default();
            resolver.inner.under_way.borrow_mut().insert("shared.invalid:7".to_owned(), Rc::clone(&shared));
            let url = Url::parse("http://shared.invalid:7").unwrap();
            let callers = future::zip(resolver.resolve(&url, PATIENCE), resolver.resolve(&url, PATIENCE));
            let answer = async {
                shared.outcome.replace(Some(Ok(vec![address])));
                shared.done.ring();
            };
            let ((one, other), ()) = future::zip(callers, answer).await;
            assert_eq!((one.unwrap(), other.unwrap()), (vec![address], vec![address]));
        });
    }

    #[test]
    fn the_zone_of_an_address_is_a_link_of_this_host() {
        let found: Vec<SocketAddr> =
            look_up(&Url::parse("http://[fe80::1%25lo]:7").unwrap().authority()).unwrap().collect();
        let [SocketAddr::V6(address)] = found[..] else { panic!("{found:?}") };
        assert_eq!((address.ip().to_string().as_str(), address.port()), ("fe80::1", 7));
        assert_ne!(address.scope_id(), 0, "the number of the link");
        assert!(look_up("[fe80::1%25no-such-link]:7").is_err());
    }
}

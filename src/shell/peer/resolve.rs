//! Names in peer URLs, looked up where it may block.
//!
//! The system's resolver may wait for seconds, so it runs on a thread of its own, which starts with
//! the first name. Numbers never get there. Lookups queue behind each other; a caller has a deadline.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use crate::config::Url;

/// Lookups that may wait for the thread; there are at most a few for each member.
const QUEUE_MAX: usize = 256;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

#[derive(Debug)]
struct Lookup {
    /// `host:port`
    authority: String,
    answer: OnceLock<io::Result<Vec<SocketAddr>>>,
    waker: AtomicWaker,
}

/// The way to the thread.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    thread: RefCell<Option<SyncSender<Arc<Lookup>>>>,
}

impl Resolver {
    /// The addresses behind a URL, at least one.
    pub(super) async fn resolve(&self, url: &Url) -> io::Result<Vec<SocketAddr>> {
        let authority = url.authority();
        if let Ok(address) = authority.parse() {
            return Ok(vec![address]);
        }
        let lookup = Arc::new(Lookup { authority, answer: OnceLock::new(), waker: AtomicWaker::new() });
        self.ask(Arc::clone(&lookup))?;
        poll_fn(|cx| {
            lookup.waker.register(cx.waker());
            if lookup.answer.get().is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        match lookup.answer.get().expect("it is there") {
            Ok(addresses) if addresses.is_empty() => Err(io::Error::other("the name has no address")),
            Ok(addresses) => Ok(addresses.clone()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn ask(&self, lookup: Arc<Lookup>) -> io::Result<()> {
        let mut thread = self.thread.borrow_mut();
        if thread.is_none() {
            let (sender, lookups) = sync_channel::<Arc<Lookup>>(QUEUE_MAX);
            // Ends when the resolver is dropped and what it was asked is answered.
            std::thread::Builder::new().name("peer-resolver".to_owned()).spawn(move || {
                while let Ok(lookup) = lookups.recv() {
                    // Whoever asked may have given up; then nobody else knows the lookup.
                    if Arc::strong_count(&lookup) == 1 {
                        continue;
                    }
                    let found = lookup.authority.to_socket_addrs();
                    let answer = found.map(|found| found.take(ADDRESSES_MAX).collect());
                    lookup.answer.set(answer).expect("only this thread answers, and once");
                    lookup.waker.wake();
                }
            })?;
            *thread = Some(sender);
        }
        match thread.as_ref().expect("started above").try_send(lookup) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(io::Error::other("too many names wait for the resolver")),
            Err(TrySendError::Disconnected(_)) => Err(io::Error::other("the resolver's thread has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
        block_on(Resolver::default().resolve(&Url::parse(text).unwrap()))
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
}

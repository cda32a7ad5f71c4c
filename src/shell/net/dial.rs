//! Connections that this process opens: the one way out, for peers, for a join, for discovery.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use glommio::net::TcpStream;

use super::resolve::{KnownAddresses, Resolver};
use super::stream::Stream;
use crate::config::Url;

/// Opens connections.
#[derive(Debug)]
pub(in crate::shell) struct Dialer {
    resolver: Resolver,
    /// Bounds each lookup of a name, and each connection.
    patience: Duration,
}

impl Dialer {
    pub(in crate::shell) fn new(patience: Duration) -> Self {
        Self::knowing(KnownAddresses::new(), patience)
    }

    /// One that knows where names led earlier.
    pub(in crate::shell) fn knowing(known: KnownAddresses, patience: Duration) -> Self {
        Self { resolver: Resolver::knowing(known), patience }
    }

    /// See [`Resolver::take_news`].
    pub(in crate::shell) fn take_news(&self) -> Option<KnownAddresses> {
        self.resolver.take_news()
    }

    /// The addresses behind a URL, at least one.
    ///
    /// # Errors
    /// When the name leads nowhere, or nobody says where in time.
    pub(in crate::shell) async fn addresses(&self, url: &Url) -> io::Result<Vec<SocketAddr>> {
        self.resolver.resolve(url, self.patience).await
    }

    /// A connection to one address.
    ///
    /// # Errors
    /// When it is refused, or not there in time.
    pub(in crate::shell) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let socket = TcpStream::connect_timeout(address, self.patience).await.map_err(io::Error::from)?;
        Ok(Stream::from(socket))
    }

    /// Goes through the addresses of a URL until `greet` likes what answers.
    ///
    /// # Errors
    /// The last one's.
    pub(in crate::shell) async fn dial<T, E: From<io::Error>>(
        &self,
        url: &Url,
        mut greet: impl AsyncFnMut(Stream) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut failure = io::Error::other("the name has no address").into();
        for address in self.addresses(url).await? {
            let greeted = match self.connect(address).await {
                Ok(stream) => greet(stream).await,
                Err(error) => Err(error.into()),
            };
            match greeted {
                Ok(greeted) => return Ok(greeted),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn next_address_is_tried_when_one_refuses_or_is_not_liked() {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let dialer = Dialer::new(Duration::from_secs(5));
            let liked = dialer.dial(&url, async |stream| stream.remote()).await.unwrap();
            assert_eq!(liked, listener.local_addr().unwrap());
            let disliked = dialer.dial(&url, async |_| Err::<(), _>(io::Error::other("a stranger"))).await;
            assert_eq!(disliked.unwrap_err().to_string(), "a stranger");
            drop(listener);
            let refused = dialer.dial(&url, async |stream| stream.remote()).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}

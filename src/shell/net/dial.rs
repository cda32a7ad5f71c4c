//! Connections that this process opens: the one way out, for peers, for a join, for discovery.

use std::io;
use std::time::Duration;

use glommio::net::TcpStream;

use super::resolve::{KnownAddresses, Resolver};
use super::socket_file;
use super::stream::Stream;
use super::tls::TlsConnector;
use crate::config::{Address, Url};

/// Opens connections.
#[derive(Debug)]
pub(in crate::shell) struct Dialer {
    resolver: Resolver,
    /// None: https leads nowhere.
    tls: Option<TlsConnector>,
    /// Bounds each lookup of a name, and each connection.
    patience: Duration,
}

impl Dialer {
    pub(in crate::shell) fn new(patience: Duration, tls: Option<TlsConnector>) -> Self {
        Self::knowing(KnownAddresses::new(), patience, tls)
    }

    /// One that knows where names led earlier.
    pub(in crate::shell) fn knowing(
        known: KnownAddresses,
        patience: Duration,
        tls: Option<TlsConnector>,
    ) -> Self {
        Self { resolver: Resolver::knowing(known), tls, patience }
    }

    /// See [`Resolver::take_news`].
    pub(in crate::shell) fn take_news(&self) -> Option<KnownAddresses> {
        self.resolver.take_news()
    }

    /// The addresses behind a URL, at least one.
    ///
    /// # Errors
    /// When the name leads nowhere, or nobody says where in time.
    pub(in crate::shell) async fn addresses(&self, url: &Url) -> io::Result<Vec<Address>> {
        if let Some(path) = url.socket_path() {
            return Ok(vec![Address::Socket(path.into())]);
        }
        let found = self.resolver.resolve(url, self.patience).await?;
        Ok(found.into_iter().map(Address::Ip).collect())
    }

    /// A connection to one address of a URL, encrypted if the URL says so.
    ///
    /// # Errors
    /// When it is refused, or not there in time, or not believed.
    pub(in crate::shell) async fn connect(&self, url: &Url, address: &Address) -> io::Result<Stream> {
        let stream = match address {
            Address::Ip(ip) => {
                let socket = TcpStream::connect_timeout(*ip, self.patience).await;
                Stream::from(socket.map_err(io::Error::from)?)
            }
            Address::Socket(path) => Stream::of_unix(socket_file::connect(path)?),
        };
        if !url.is_tls() {
            return Ok(stream);
        }
        let Some(tls) = &self.tls else {
            return Err(io::Error::other("TLS is not spoken here"));
        };
        // Its flights are small, and each waits for the other's.
        stream.set_nodelay()?;
        // In a box: a handshake is large, and most connections have none.
        Box::pin(tls.connect(url, stream)).await.map_err(io::Error::other)
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
            let greeted = match self.connect(url, &address).await {
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
    use crate::shell::net::Remote;

    #[test]
    fn next_address_is_tried_when_one_refuses_or_is_not_liked() {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let dialer = Dialer::new(Duration::from_secs(5), None);
            let liked = dialer.dial(&url, async |stream| stream.remote()).await.unwrap();
            assert_eq!(liked, Remote::Ip(listener.local_addr().unwrap()));
            let disliked = dialer.dial(&url, async |_| Err::<(), _>(io::Error::other("a stranger"))).await;
            assert_eq!(disliked.unwrap_err().to_string(), "a stranger");
            drop(listener);
            let refused = dialer.dial(&url, async |stream| stream.remote()).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}

//! Looking names up.

mod flight;

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;

use flight::Flights;

/// What turns a host's name into addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, a name, in the order in which they are to be dialled.
    ///
    /// Not bounded in time: the caller's deadline is.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver (`getaddrinfo`), on a bounded number of threads; clones share them.
///
/// Of one name there is one look-up at a time, and all who ask meanwhile hear its answer: a name whose
/// server never answers holds one thread, however many dials wait for it. Names under one domain, of
/// which there can be any number, hold a quarter of the threads at most. Nobody's giving up ends a
/// look-up that others wait for.
#[derive(Clone)]
pub struct SystemResolver {
    flights: Arc<Flights>,
}

impl SystemResolver {
    /// Look-ups that run at a time.
    pub const MAX_LOOKUPS: usize = 64;
    /// Those among them of names under one domain.
    pub const MAX_OF_A_DOMAIN: usize = Self::MAX_LOOKUPS / 4;

    /// How long a look-up waits for a thread.
    pub const PATIENCE: Duration = Duration::from_millis(500);

    /// A resolver with threads of its own. Where none is free for a look-up within [`Self::PATIENCE`], it
    /// fails as [`io::ErrorKind::ResourceBusy`]: the name's own server was not even asked.
    pub fn new() -> Self {
        Self::with(look_up)
    }

    /// The same around another `look_up`, which may block its thread. For tests.
    pub fn with(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::with_patience(look_up, Self::PATIENCE)
    }

    /// One whose look-ups wait for a thread as long as whoever asks.
    pub fn patient() -> Self {
        Self::with_patience(look_up, Duration::MAX)
    }

    fn with_patience(
        look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
        patience: Duration,
    ) -> Self {
        Self {
            flights: Arc::new(Flights::new(
                Self::MAX_LOOKUPS,
                Self::MAX_OF_A_DOMAIN,
                patience,
                Box::new(look_up),
            )),
        }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let (flights, host) = (Arc::clone(&self.flights), host.to_owned());
        Box::pin(async move { flights.join(&host).answer().await })
    }
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect())
}

#[cfg(test)]
mod tests;

//! Name look-ups: a trait, and the system resolver behind a single-flight group.

mod single_flight;

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;

use single_flight::SingleFlight;

/// Resolves host names to addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, a name, in the order to dial them.
    ///
    /// Has no timeout of its own; the caller applies the deadline.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver (`getaddrinfo`), on a bounded number of threads; clones share them.
///
/// Look-ups are single-flight: concurrent calls for one name share one look-up and its result, so a
/// name whose server never answers holds one thread. A domain can have any number of names, so a
/// bulkhead limits the names under one domain to a quarter of the threads. Cancelling one caller
/// does not cancel the look-up for the others.
#[derive(Clone)]
pub struct SystemResolver {
    group: Arc<SingleFlight>,
}

impl SystemResolver {
    /// The concurrency limit of all look-ups.
    pub const MAX_LOOKUPS: usize = 64;
    /// The concurrency limit of look-ups under one domain.
    pub const MAX_OF_A_DOMAIN: usize = Self::MAX_LOOKUPS / 4;

    /// How long a look-up waits for a free thread.
    pub const PATIENCE: Duration = Duration::from_millis(500);

    /// A resolver with its own threads. A look-up fails with a
    /// [`Shortage`](super::Shortage) if no thread is free within [`Self::PATIENCE`], or if the
    /// process lacks what a look-up needs.
    pub fn new() -> Self {
        Self::with(look_up)
    }

    /// A resolver that calls `look_up`, which may block its thread. For tests.
    pub fn with(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::with_patience(look_up, Self::PATIENCE)
    }

    /// A resolver whose look-ups wait for a free thread until the caller gives up.
    pub fn patient() -> Self {
        Self::with_patience(look_up, Duration::MAX)
    }

    fn with_patience(
        look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
        patience: Duration,
    ) -> Self {
        Self {
            group: Arc::new(SingleFlight::new(
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
        let (group, host) = (Arc::clone(&self.group), host.to_owned());
        Box::pin(async move { group.join(&host).result().await })
    }
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    // `ToSocketAddrs` needs a port. The caller adds the checked one.
    Ok((host, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect())
}

#[cfg(test)]
mod tests;

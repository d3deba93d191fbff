//! Looking names up.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

/// What turns a host's name into addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, a name, in the order in which they are to be dialled.
    ///
    /// Not bounded in time: the caller's deadline is.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver (`getaddrinfo`), on a bounded number of threads.
#[derive(Clone)]
pub struct SystemResolver {
    permits: Arc<Semaphore>,
    look_up: Arc<LookUp>,
}

/// A look-up that blocks its thread.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl SystemResolver {
    /// Look-ups that run at a time.
    pub const MAX_LOOKUPS: usize = 16;

    /// A resolver with a pool of look-ups of its own; clones share it.
    pub fn new() -> Self {
        Self::with(Arc::new(look_up))
    }

    fn with(look_up: Arc<LookUp>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(Self::MAX_LOOKUPS)),
            look_up,
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
        let Self { permits, look_up } = self.clone();
        let host = host.to_owned();
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            tokio::task::spawn_blocking(move || {
                // The permit goes with the thread: no deadline ends a getaddrinfo, and a thread
                // that nobody waits for any more still counts.
                let _permit = permit;
                look_up(&host)
            })
            .await
            .map_err(io::Error::other)?
        })
    }
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::{Arc, Mutex, mpsc},
    };

    use futures_util::FutureExt;

    use super::{Resolve, SystemResolver};

    #[tokio::test]
    async fn a_lookup_keeps_its_permit_until_it_ends_even_if_nobody_waits_for_it() {
        let (end, ends) = mpsc::channel::<()>();
        let ends = Mutex::new(ends);
        let resolver = SystemResolver::with(Arc::new(move |_| {
            ends.lock().unwrap().recv().unwrap();
            Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
        }));
        for _ in 0..SystemResolver::MAX_LOOKUPS {
            // Begun and given up, as by an attempt whose deadline passes.
            assert!(resolver.resolve("slow.example").now_or_never().is_none());
        }
        assert_eq!(resolver.permits.available_permits(), 0);
        let mut waiting = resolver.resolve("next.example");
        assert!((&mut waiting).now_or_never().is_none());

        for _ in 0..=SystemResolver::MAX_LOOKUPS {
            end.send(()).unwrap();
        }
        assert_eq!(waiting.await.unwrap(), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[tokio::test]
    async fn the_system_knows_a_literal() {
        let addresses = SystemResolver::new().resolve("127.0.0.1").await.unwrap();
        assert_eq!(addresses, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
}

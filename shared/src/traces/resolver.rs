//! Looks up the collector's name, on a thread that the end of the process does not wait for.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread, vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::oneshot;
use tower_service::Service;

/// One look-up at a time: getaddrinfo can hang, and no deadline ends it.
///
/// The runtime's own threads for blocking calls would hold up the end of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    is_busy: Arc<AtomicBool>,
}

/// The one look-up that may run. Also over if its thread can't be started.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(is_busy: Arc<AtomicBool>) -> Option<Self> {
        let was_busy = is_busy.swap(true, Ordering::AcqRel);
        // Not by `then_some`, which makes the turn, and so ends the other's, in any case.
        if was_busy { None } else { Some(Self(is_busy)) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let is_busy = Arc::clone(&self.is_busy);
        Box::pin(async move {
            let Some(turn) = Turn::take(is_busy) else {
                return Err(io::Error::other("the look-up before it has no answer yet"));
            };
            let (sender, receiver) = oneshot::channel();
            let look_up = move || {
                // The port is the connector's.
                let found = (name.as_str(), 0).to_socket_addrs();
                drop(turn);
                let _ = sender.send(found); // the timeout was faster
            };
            thread::Builder::new()
                .name("traces-resolver".to_owned())
                .spawn(look_up)?;
            receiver.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicBool};

    use tower_service::Service as _;

    use super::{Resolver, Turn};

    #[tokio::test]
    async fn one_name_is_looked_up_at_a_time_and_the_next_one_after_it() {
        let is_busy = Arc::new(AtomicBool::new(false));
        let mut resolver = Resolver {
            is_busy: Arc::clone(&is_busy),
        };
        let hanging = Turn::take(Arc::clone(&is_busy)).unwrap();
        for _ in 0..2 {
            let refused = resolver.call("localhost".parse().unwrap()).await;
            assert!(refused.unwrap_err().to_string().contains("no answer yet"));
        }
        drop(hanging);
        for _ in 0..2 {
            let found = resolver.call("localhost".parse().unwrap()).await.unwrap();
            assert!(found.into_iter().all(|addr| addr.ip().is_loopback()));
        }
    }
}

//! The listener for callbacks: on both addresses of `localhost`, or on one given address.

use std::{
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::Service};
use storm_shared::server::{ConnectionMetrics, Limits, listen, serve};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long open connections may take to finish after the run.
const DRAIN: Duration = Duration::from_secs(1);

/// How many ports are tried to find one that is free on both addresses of localhost.
const FREE_PORT_TRIES: u32 = 8;

/// An address to listen on. Port 0 picks a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// 127.0.0.1, and `::1` if the host has it, on the same port.
    Localhost(u16),
    /// One address.
    Exact(SocketAddr),
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let localhost = text
            .strip_prefix("localhost:")
            .and_then(|port| port.parse().ok());
        let exact = || text.parse().ok().map(Self::Exact);
        localhost
            .map(Self::Localhost)
            .or_else(exact)
            .ok_or_else(|| {
                "it must be localhost:PORT or ADDRESS:PORT, such as 127.0.0.1:8001 or [::1]:8001"
                    .to_owned()
            })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Exact(address) => address.fmt(f),
        }
    }
}

/// Bound sockets that are not served yet. The kernel already queues connections.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    addr: ListenAddr,
}

impl Listener {
    /// Binds every address of `addr`.
    ///
    /// # Errors
    /// An address is in use, or does not belong to this host. A missing `::1` is not an error.
    pub fn bind(addr: ListenAddr) -> Result<Self> {
        match addr {
            ListenAddr::Exact(address) => {
                let socket = listen(address).with_context(|| advice(address))?;
                let addr = ListenAddr::Exact(socket.local_addr()?);
                Ok(Self {
                    sockets: vec![socket],
                    addr,
                })
            }
            ListenAddr::Localhost(port) => Self::bind_localhost(port),
        }
    }

    fn bind_localhost(port: u16) -> Result<Self> {
        // The kernel picks a port that is free on one address; it may be in use on the other.
        let tries = if port == 0 { FREE_PORT_TRIES } else { 1 };
        // The last try is outside the loop: its error is the result.
        for _ in 1..tries {
            if let Ok(listener) = Self::bind_both(port) {
                return Ok(listener);
            }
        }
        Self::bind_both(port)
    }

    fn bind_both(port: u16) -> Result<Self> {
        let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let first = listen(first).with_context(|| advice(first))?;
        let port = first.local_addr()?.port();
        let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let sockets = match listen(second) {
            Ok(socket) => vec![first, socket],
            // Another program on this address would get the callbacks that are sent to it.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| advice(second));
            }
            // The host has no `::1`, or no IPv6 at all.
            Err(_) => vec![first],
        };
        Ok(Self {
            sockets,
            addr: ListenAddr::Localhost(port),
        })
    }

    /// The address, with the port that was bound.
    pub fn addr(&self) -> ListenAddr {
        self.addr
    }

    /// The URL of `path` here, as seen from this host.
    pub fn url(&self, path: &str) -> String {
        match self.addr {
            ListenAddr::Exact(address) if !address.ip().is_unspecified() => {
                format!("http://{address}{path}")
            }
            // The unspecified address is not a destination; localhost reaches this socket.
            ListenAddr::Exact(address) => format!("http://localhost:{}{path}", address.port()),
            ListenAddr::Localhost(port) => format!("http://localhost:{port}{path}"),
        }
    }

    /// Serves every socket until the returned guard is dropped.
    pub fn serve<S>(self, service: &S) -> DropGuard
    where
        S: Service<Request<Incoming>, Response = Response<Full<bytes::Bytes>>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let stop = CancellationToken::new();
        let limits = Limits {
            drain_timeout: DRAIN,
            ..Limits::default()
        };
        for socket in self.sockets {
            tokio::spawn(serve(
                socket,
                service.clone(),
                limits,
                ConnectionMetrics::default(),
                stop.clone().cancelled_owned(),
            ));
        }
        stop.drop_guard()
    }
}

fn advice(address: SocketAddr) -> String {
    format!(
        "can't listen on {address} for callbacks; stop the program that listens there, or set \
         --listen to another address (the callback URL follows it unless --callback-url is set)"
    )
}

#[cfg(test)]
mod tests {
    use super::{ListenAddr, Listener};

    #[test]
    fn an_address_without_a_port_is_refused_with_what_is_accepted() {
        for text in [
            "localhost",
            "127.0.0.1",
            "localhost:65536",
            "example.org:80",
            "",
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err();
            assert!(error.contains("localhost:PORT"), "{text}: {error}");
        }
        assert_eq!("localhost:8001".parse(), Ok(ListenAddr::Localhost(8001)));
        assert_eq!(
            "[::1]:0".parse(),
            Ok(ListenAddr::Exact("[::1]:0".parse().unwrap()))
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_the_option_to_change() {
        let taken = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let ListenAddr::Exact(address) = taken.addr() else {
            panic!("not an exact address")
        };
        for again in [
            ListenAddr::Exact(address),
            ListenAddr::Localhost(address.port()),
        ] {
            let error = format!("{:#}", Listener::bind(again).unwrap_err());
            assert!(
                error.contains(&address.to_string()) && error.contains("--listen"),
                "{error}"
            );
            assert!(!error.contains('\n'));
        }
    }

    #[tokio::test]
    async fn the_url_has_the_port_that_was_bound() {
        let any = Listener::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let ListenAddr::Exact(address) = any.addr() else {
            panic!("not an exact address")
        };
        assert_ne!(address.port(), 0);
        assert_eq!(
            any.url("/webhook"),
            format!("http://localhost:{}/webhook", address.port())
        );
    }
}

//! Shortages of our own: what a worker can lack for an attempt.

use std::{
    error::Error,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use thiserror::Error;

use super::detail::causes;

/// Why an attempt could not be made, with no fault of the receiver's. It says nothing about the
/// receiver, and costs the job no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Shortage {
    /// The concurrency limit of name look-ups was reached.
    #[error("concurrency limit of name look-ups reached")]
    LookUps,
    /// The process, or the host, may open no more files and sockets.
    #[error("no file descriptor is free")]
    Descriptors,
    /// Every local port for connections to the receiver's address is in use.
    #[error("no local port is free")]
    Ports,
    /// The kernel has no memory or buffers left for a socket.
    #[error("out of memory or network buffers")]
    Memory,
    /// No thread could be started.
    #[error("no thread can be started")]
    Threads,
    /// The answer had to wait for room in the memory budget, and its sender did not.
    #[error("MEMORY_BUDGET is full of the bodies of other jobs")]
    Budget,
}

/// A look-up that failed with fewer free descriptors than this counts as one that had none: the
/// resolver needs a few at a time, and others are opened and closed meanwhile.
const FEW: u64 = 16;

impl Shortage {
    /// Every shortage.
    pub const ALL: [Self; 6] = [
        Self::LookUps,
        Self::Descriptors,
        Self::Ports,
        Self::Memory,
        Self::Threads,
        Self::Budget,
    ];

    /// The stable name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LookUps => "look_ups_busy",
            Self::Descriptors => "no_descriptor",
            Self::Ports => "no_port",
            Self::Memory => "no_memory",
            Self::Threads => "no_thread",
            Self::Budget => "memory_budget_full",
        }
    }

    /// The shortage that `error`, or one of its causes, tells of.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = causes(error);
        causes.find_map(|cause| {
            let known = cause.downcast_ref::<Self>().copied();
            known.or_else(|| Self::of_code(cause.downcast_ref()?))
        })
    }

    /// The shortage behind a failure to connect to `address`.
    pub(super) fn of_connect(error: &io::Error, address: SocketAddr) -> Option<Self> {
        Self::of(error).or_else(|| match Errno::from_io_error(error)? {
            // The limits of the routing cache, connect(2), and of epoll, epoll_ctl(2).
            Errno::AGAIN | Errno::NOSPC => Some(Self::Memory),
            Errno::ADDRNOTAVAIL => Self::of_ports(address),
            _ => None,
        })
    }

    /// The shortage behind a failed look-up. Without descriptors, the system's resolver reports
    /// that it does not know the name.
    pub(super) fn of_look_up(error: &io::Error) -> Option<Self> {
        Self::of(error).or_else(|| match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            Ok(socket) => {
                // It has the lowest free number, so at least that many are in use.
                let in_use = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
                let limit = getrlimit(Resource::Nofile).current?;
                (in_use.saturating_add(FEW) >= limit).then_some(Self::Descriptors)
            }
            Err(error) => Self::of(&error),
        })
    }

    fn of_code(error: &io::Error) -> Option<Self> {
        Some(match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Self::Descriptors,
            Errno::NOMEM | Errno::NOBUFS => Self::Memory,
            _ => return None,
        })
    }

    /// A shortage of ports, if this host has an address to connect to `address` from. A host
    /// without IPv6 has none, and fails with the same code. UDP tells them apart: it has its own
    /// ports, and connecting sends nothing.
    fn of_ports(address: SocketAddr) -> Option<Self> {
        let unspecified: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let connected = UdpSocket::bind(unspecified).and_then(|socket| socket.connect(address));
        match connected {
            Ok(()) => Some(Self::Ports),
            Err(error) => Self::of(&error),
        }
    }
}

impl From<Shortage> for io::Error {
    fn from(shortage: Shortage) -> Self {
        Self::new(ErrorKind::ResourceBusy, shortage)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{SocketAddr, SocketAddrV6},
    };

    use rustix::io::Errno;

    use super::Shortage;

    fn failed(code: Errno) -> io::Error {
        io::Error::from_raw_os_error(code.raw_os_error())
    }

    #[test]
    fn what_we_lack_is_told_from_what_the_receiver_does() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        for (code, shortage) in [
            (Errno::MFILE, Some(Shortage::Descriptors)),
            (Errno::NFILE, Some(Shortage::Descriptors)),
            (Errno::NOBUFS, Some(Shortage::Memory)),
            (Errno::NOMEM, Some(Shortage::Memory)),
            (Errno::NOSPC, Some(Shortage::Memory)),
            (Errno::AGAIN, Some(Shortage::Memory)),
            (Errno::ADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::CONNREFUSED, None),
            (Errno::CONNRESET, None),
            (Errno::HOSTUNREACH, None),
            (Errno::NETUNREACH, None),
            (Errno::TIMEDOUT, None),
            (Errno::ACCESS, None),
            (Errno::PERM, None),
        ] {
            let found = Shortage::of_connect(&failed(code), address);
            assert_eq!(found, shortage, "{code:?}");
        }
    }

    #[test]
    fn an_address_that_this_host_cannot_send_from_is_no_shortage_of_ports() {
        // With a zone that no interface has.
        let zone = SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, 0xffff);
        let error = failed(Errno::ADDRNOTAVAIL);
        assert_eq!(Shortage::of_connect(&error, zone.into()), None);
    }

    #[test]
    fn a_shortage_is_found_behind_other_errors_and_a_name_without_one_is_no_shortage() {
        let inner = io::Error::other(failed(Errno::MFILE));
        assert_eq!(Shortage::of(&inner), Some(Shortage::Descriptors));
        let shared = io::Error::from(Shortage::Threads);
        assert_eq!(Shortage::of(&shared), Some(Shortage::Threads));
        let unknown = io::Error::other("no such name");
        assert_eq!(Shortage::of_look_up(&unknown), None);
    }
}

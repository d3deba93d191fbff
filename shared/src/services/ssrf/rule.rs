//! The rules by which callbacks are refused.

use std::fmt;

/// Why a callback may not go where its URL leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// "This network" or no address at all: `0.0.0.0/8`, `::`.
    Unspecified,
    /// This host: `127.0.0.0/8`, `::1`.
    Loopback,
    /// Somebody's own network: RFC 1918, and IPv6's unique local addresses.
    Private,
    /// Between a provider and its customers (carrier-grade NAT): `100.64.0.0/10`.
    Shared,
    /// This link, where clouds put their metadata services: `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// Examples in texts.
    Documentation,
    /// Laboratories: `198.18.0.0/15`.
    Benchmarking,
    /// Protocols of the network itself: IETF assignments, AS112, AMT, 6to4, Teredo.
    Special,
    /// Groups of hosts.
    Multicast,
    /// Everything that was never given out: `240.0.0.0/4`, and IPv6 outside `2000::/3`.
    Reserved,
    /// A cloud's metadata service at an address that looks public.
    Metadata,
    /// A net that `CALLBACK_DENY` names.
    Denied,
    /// A port that `CALLBACK_PORTS` leaves out: by default, those at which no HTTP is spoken.
    Port,
}

impl Rule {
    /// The rule's stable name, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::LinkLocal => "link_local",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Special => "special",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Metadata => "metadata",
            Self::Denied => "denied",
            Self::Port => "port",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

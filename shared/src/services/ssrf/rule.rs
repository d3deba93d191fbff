//! The rules of the SSRF policy.

use std::fmt;

/// A rule that refuses a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// "This network" and the unspecified address: `0.0.0.0/8`, `::`.
    Unspecified,
    /// Loopback, the worker's own host: `127.0.0.0/8`, `::1`.
    Loopback,
    /// Private networks: RFC 1918, and IPv6 unique local addresses (RFC 4193).
    Private,
    /// Shared address space of carrier-grade NAT (RFC 6598): `100.64.0.0/10`.
    Shared,
    /// Link-local, where clouds serve instance metadata: `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// Reserved for documentation.
    Documentation,
    /// Benchmarking of network devices (RFC 2544): `198.18.0.0/15`.
    Benchmarking,
    /// Protocol assignments: IETF, AS112, AMT, 6to4, Teredo.
    Special,
    /// Multicast.
    Multicast,
    /// Not allocated: `240.0.0.0/4`, and IPv6 outside `2000::/3`.
    Reserved,
    /// A cloud's metadata service at an address that looks public.
    Metadata,
    /// A network on the deny list (`CALLBACK_DENY`).
    Denied,
    /// A port that `CALLBACK_PORTS` does not list. By default, a port where no HTTP is spoken.
    Port,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 13] = [
        Self::Unspecified,
        Self::Loopback,
        Self::Private,
        Self::Shared,
        Self::LinkLocal,
        Self::Documentation,
        Self::Benchmarking,
        Self::Special,
        Self::Multicast,
        Self::Reserved,
        Self::Metadata,
        Self::Denied,
        Self::Port,
    ];

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

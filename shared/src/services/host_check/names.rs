//! The hosts that a service without tokens answers to.

use std::net::Ipv4Addr;

use thiserror::Error;
use url::Host;

use crate::list;

/// The host names of `API_HOSTS`, beside which `localhost`, the names under it and all IP addresses
/// are served. The default has no names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames(Vec<String>);

/// An entry is no host name. It has the entry's number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "entry {0}: expected a host name without scheme, port and path, such as api.example.com; IP \
     addresses need no entry"
)]
pub struct HostNameError(usize);

/// The longest name that DNS can have, in characters.
const MAX_LENGTH: usize = 253;

impl HostNames {
    /// Parses host names, separated by commas or white space. Case and a trailing dot are ignored.
    ///
    /// # Errors
    /// The first entry that is no host name.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let entries = list::entries(text).unwrap_or_default();
        let names = (1..).zip(entries).map(|(number, entry)| {
            let name = without_dot(entry);
            is_name(name)
                .then(|| name.to_owned())
                .ok_or(HostNameError(number))
        });
        names.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `host` is served: a name of this list, `localhost` or a name under it, or an IP
    /// address. No web page of another machine has one of these as the host of its own URL.
    pub(super) fn serve(&self, host: &str) -> bool {
        let host = without_dot(host);
        host.starts_with('[')
            || host.parse::<Ipv4Addr>().is_ok()
            || is_localhost(host)
            || self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
            // Browsers and curl write 127.1 as 127.0.0.1; other clients send it as it was typed.
            || matches!(Host::parse(host), Ok(Host::Ipv4(_)))
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn is_localhost(name: &str) -> bool {
    // Names under localhost lead to loopback addresses, and nobody can register one (RFC 6761,
    // section 6.3).
    let label = name.rsplit('.').next().unwrap_or_default();
    label.eq_ignore_ascii_case("localhost")
}

/// Labels of letters, digits, hyphens and underscores, separated by dots.
fn is_name(text: &str) -> bool {
    let is_of_a_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| !label.is_empty() && label.chars().all(is_of_a_label);
    text.len() <= MAX_LENGTH && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::{HostNameError, HostNames};

    #[test]
    fn localhost_and_every_ip_address_are_served_in_every_spelling() {
        let names = HostNames::default();
        for host in [
            "localhost",
            "LOCALHOST.",
            "api.localhost",
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "192.168.1.5",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[2001:db8::1]",
        ] {
            assert!(names.serve(host), "{host}");
        }
    }

    #[test]
    fn a_name_is_served_if_api_hosts_contains_it() {
        let names = HostNames::parse(" api, API.example.com.\n worker_1").unwrap();
        for host in ["api", "API", "api.", "api.example.com", "Worker_1"] {
            assert!(names.serve(host), "{host}");
        }
        for host in [
            "example.com",
            "x.api.example.com",
            "apii",
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
            "api..",
            ".",
        ] {
            assert!(!names.serve(host), "{host}");
        }
    }

    #[test]
    fn an_entry_that_is_no_host_name_is_refused_by_its_number() {
        assert_eq!(HostNames::parse(" , "), Ok(HostNames::default()));
        for (text, number) in [
            ("http://api", 1),
            ("api:8000", 1),
            ("api/", 1),
            ("a,b,*.c", 3),
            ("*", 1),
            ("a..b", 1),
            (".", 1),
            ("[::1]", 1),
            ("b\u{fc}ro.example", 1),
        ] {
            assert_eq!(HostNames::parse(text), Err(HostNameError(number)), "{text}");
        }
        assert!(HostNames::parse(&"a".repeat(254)).is_err());
    }
}

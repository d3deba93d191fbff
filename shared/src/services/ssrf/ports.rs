//! The ports that callbacks may reach (`CALLBACK_PORTS`).

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::list;

/// The ports that callbacks may reach: `CALLBACK_PORTS`.
///
/// The default is every port except those that browsers block. A service that listens there and
/// speaks another protocol, such as SMTP, could interpret parts of a request as its own commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Option<Vec<RangeInclusive<u16>>>);

/// Why a text is not a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortsError {
    /// Neither a port nor a range of ports.
    #[error(
        "`{0}` is not a port; expected nothing, or ports (1 to 65535) and ranges, separated by \
         commas or white space, such as `443,8443,9000-9100`"
    )]
    NotAPort(String),
    /// Commas without a port. To accept them would allow every port.
    #[error("it contains only separators; leave it empty for the default")]
    OnlySeparators,
}

/// The "bad ports" of the Fetch standard (WHATWG), as of August 2025. Sorted for binary search.
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

impl Ports {
    /// Parses ports and ranges, separated by commas or white space. Callbacks may reach exactly
    /// these. An empty text is the default.
    ///
    /// # Errors
    /// The first entry that is neither a port nor a range of ports.
    pub fn parse(text: &str) -> Result<Self, PortsError> {
        let entries = list::entries(text).ok_or(PortsError::OnlySeparators)?;
        if entries.is_empty() {
            return Ok(Self::default());
        }
        // Even a bad port, if it is named: the operator knows what listens there.
        let ranges = entries.into_iter().map(parse_range);
        Ok(Self(Some(ranges.collect::<Result<_, _>>()?)))
    }

    /// All ports.
    pub(super) fn every() -> Self {
        Self(Some(vec![1..=u16::MAX]))
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        match &self.0 {
            Some(ranges) => ranges.iter().any(|range| range.contains(&port)),
            None => BAD_PORTS.binary_search(&port).is_err(),
        }
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = parse_port(first).zip(parse_port(last));
    range
        .filter(|(first, last)| first <= last)
        .map(|(first, last)| first..=last)
        .ok_or_else(|| PortsError::NotAPort(text.to_owned()))
}

/// Accepts digits only: `u16::from_str` would also accept a leading `+`.
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::{BAD_PORTS, Ports};

    #[test]
    fn the_bad_ports_are_sorted_for_binary_search() {
        assert!(BAD_PORTS.is_sorted());
    }

    #[test]
    fn exactly_the_listed_ports_and_ranges_are_allowed() {
        let ports = Ports::parse(" 443, 25 9000-9100,65535-65535,").unwrap();
        for port in [443, 25, 9000, 9050, 9100, 65535] {
            assert!(ports.contains(port), "{port}");
        }
        for port in [0, 1, 80, 442, 444, 8999, 9101, 65534] {
            assert!(!ports.contains(port), "{port}");
        }
        for all in ["1-65535", "1-1024,1025-65535"] {
            let ports = Ports::parse(all).unwrap();
            assert!((1..=u16::MAX).all(|port| ports.contains(port)) && !ports.contains(0));
        }
    }

    #[test]
    fn text_that_is_neither_a_port_nor_a_range_is_rejected() {
        for text in [
            "0",
            "65536",
            "-1",
            "+443",
            "443-",
            "-443",
            "443-442",
            "0-443",
            "1-2-3",
            ",",
            "443 - 444",
            "443;80",
            "https",
            "443:",
            "0x50",
            "٤٤٣",
            "*",
        ] {
            assert!(Ports::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Ports::parse("80,443-80").unwrap_err().to_string(),
            "`443-80` is not a port; expected nothing, or ports (1 to 65535) and ranges, \
             separated by commas or white space, such as `443,8443,9000-9100`"
        );
    }
}

//! What `CALLBACK_PORTS` may say.

use std::ops::RangeInclusive;

use thiserror::Error;

/// The ports that callbacks may reach: `CALLBACK_PORTS`.
///
/// The default is every port but those that browsers refuse to speak HTTP to, for what listens
/// there could take a request for something of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Option<Vec<RangeInclusive<u16>>>);

/// A text that names no ports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no port; accepted are comma-separated ports from 1 to 65535 and ranges of them, such \
     as `443,8443,9000-9100`, or nothing"
)]
pub struct PortsError(String);

/// The "bad ports" of the Fetch standard (WHATWG), as of its change of August 2025, ascending.
const NOT_HTTP: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

impl Ports {
    /// Reads ports and ranges between commas: exactly these are reached. An empty text is the
    /// default.
    ///
    /// # Errors
    /// Something that is no port and no range of ports.
    pub fn parse(text: &str) -> Result<Self, PortsError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let ranges = text.split(',').map(str::trim).map(parse_range);
        Ok(Self(Some(ranges.collect::<Result<_, _>>()?)))
    }

    pub(super) fn contain(&self, port: u16) -> bool {
        match &self.0 {
            Some(ranges) => ranges.iter().any(|range| range.contains(&port)),
            None => NOT_HTTP.binary_search(&port).is_err(),
        }
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = parse_port(first).zip(parse_port(last));
    range
        .filter(|(first, last)| first <= last)
        .map(|(first, last)| first..=last)
        .ok_or_else(|| PortsError(text.to_owned()))
}

/// Digits alone: a number's own parser also takes a `+`.
fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::{NOT_HTTP, Ports};

    #[test]
    fn the_list_is_in_the_order_in_which_it_is_searched() {
        assert!(NOT_HTTP.is_sorted());
    }

    #[test]
    fn exactly_the_ports_and_ranges_that_are_named_are_reached() {
        let ports = Ports::parse(" 443, 25 ,9000-9100,65535-65535").unwrap();
        for port in [443, 25, 9000, 9050, 9100, 65535] {
            assert!(ports.contain(port), "{port}");
        }
        for port in [0, 1, 80, 442, 444, 8999, 9101, 65534] {
            assert!(!ports.contain(port), "{port}");
        }
        for all in ["1-65535", "1-1024,1025-65535"] {
            let ports = Ports::parse(all).unwrap();
            assert!((1..=u16::MAX).all(|port| ports.contain(port)) && !ports.contain(0));
        }
    }

    #[test]
    fn what_is_no_port_and_no_range_is_refused() {
        for text in [
            "0", "65536", "-1", "+443", "443-", "-443", "443-442", "0-443", "1-2-3", "443,",
            ",443", "443;80", "https", "4 43", "443:", "0x50", "٤٤٣", "*",
        ] {
            assert!(Ports::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Ports::parse("80,443-80").unwrap_err().to_string(),
            "`443-80` is no port; accepted are comma-separated ports from 1 to 65535 and ranges of \
             them, such as `443,8443,9000-9100`, or nothing"
        );
    }
}

//! The rate limit of a client.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use thiserror::Error;

/// A number of requests per window: `RATE_LIMIT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The number of requests.
    pub requests: NonZeroU32,
    /// The window: a second, a minute or an hour.
    pub window: Duration,
}

/// The text is not a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected nothing, or 1 to {} requests per s, m or h, such as 100/s or 6000/m",
    RateLimit::MAX_REQUESTS
)]
pub struct RateLimitError;

impl RateLimit {
    /// The most requests in a window.
    pub const MAX_REQUESTS: u32 = 1_000_000;
}

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (requests, unit) = text.split_once('/').ok_or(RateLimitError)?;
        let window = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(RateLimitError),
        };
        if !requests.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RateLimitError); // `parse` would accept a leading `+`.
        }
        let requests = requests.parse().map_err(|_| RateLimitError)?;
        let requests = NonZeroU32::new(requests).filter(|n| n.get() <= Self::MAX_REQUESTS);
        requests
            .map(|requests| Self { requests, window })
            .ok_or(RateLimitError)
    }
}

#[cfg(test)]
mod tests {
    use super::{RateLimit, RateLimitError};

    #[test]
    fn a_limit_is_a_number_per_second_minute_or_hour() {
        for (text, requests, seconds) in [("100/s", 100, 1), ("6000/m", 6000, 60), ("1/h", 1, 3600)]
        {
            let limit: RateLimit = text.parse().unwrap();
            assert_eq!(limit.requests.get(), requests);
            assert_eq!(limit.window.as_secs(), seconds);
        }
    }

    #[test]
    fn any_other_text_is_rejected() {
        for text in [
            "",
            "100",
            "0/s",
            "-1/s",
            "+1/s",
            "1/d",
            "1/S",
            "1 /s",
            "1/s/s",
            "1.5/s",
            "1000001/s",
        ] {
            assert_eq!(text.parse::<RateLimit>(), Err(RateLimitError), "{text}");
        }
    }
}

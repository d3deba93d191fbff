//! How often one client may ask, and what an answer tells of that: the fields of draft-ietf-httpapi-ratelimit-headers-10.

use std::time::Duration;

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use storm_shared::services::access::RateLimit;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// One client's requests: so many at once, and then as they come back, evenly.
pub struct Limiter<C: Clock = DefaultClock> {
    bucket: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    clock: C,
    policy: HeaderValue,
    /// How long one request takes to come back.
    interval: Duration,
}

/// How a limit stood when a request came.
#[derive(Clone, Debug)]
pub struct Standing {
    policy: HeaderValue,
    remaining: u32,
    /// How long until there is one more.
    wait: Duration,
}

impl Limiter {
    /// With all its requests left.
    pub fn new(limit: RateLimit) -> Self {
        Self::with_clock(limit, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(limit: RateLimit, clock: C) -> Self {
        let RateLimit { requests, window } = limit;
        let interval = window / requests.get();
        let quota = Quota::with_period(interval)
            .unwrap_or_else(|| unreachable!("a second has room for all that a limit allows"))
            .allow_burst(requests);
        Self {
            bucket: RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware(),
            clock,
            policy: field(&format!("\"default\";q={requests};w={}", window.as_secs())),
            interval,
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// There is none left.
    pub fn admit(&self) -> Result<Standing, Standing> {
        let standing = |remaining, wait| Standing {
            policy: self.policy.clone(),
            remaining,
            wait,
        };
        match self.bucket.check() {
            Ok(state) => Ok(standing(state.remaining_burst_capacity(), self.interval)),
            Err(not_until) => Err(standing(0, not_until.wait_time_from(self.clock.now()))),
        }
    }
}

impl Standing {
    /// Writes it into an answer's head.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let (remaining, seconds) = (self.remaining, self.seconds());
        headers.insert(POLICY, self.policy.clone());
        let limit = format!("\"default\";r={remaining};t={seconds}");
        headers.insert(LIMIT, field(&limit));
    }

    /// Whole seconds until there is one more: never too few.
    pub(crate) fn seconds(&self) -> u64 {
        self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)
    }
}

/// A structured field of our own making: ASCII that can be seen.
fn field(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| unreachable!("{text} is a field's value"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use warp::http::HeaderMap;

    use super::{Limiter, Standing};

    fn limiter(limit: &str) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock(limit.parse().unwrap(), clock.clone());
        (limiter, clock)
    }

    /// The two fields.
    fn told(standing: &Standing) -> [String; 2] {
        let mut headers = HeaderMap::new();
        standing.tell(&mut headers);
        ["ratelimit-policy", "ratelimit"].map(|name| headers[name].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_may_ask_as_often_as_its_limit_says_and_again_when_that_comes_back() {
        let (limiter, clock) = limiter("3/m");
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.admit().unwrap().remaining, remaining);
        }
        let refused = limiter.admit().unwrap_err();
        assert_eq!((refused.remaining, refused.seconds()), (0, 20));
        clock.advance(Duration::from_millis(18_500));
        assert_eq!(limiter.admit().unwrap_err().seconds(), 2);
        clock.advance(Duration::from_millis(1500));
        assert!(limiter.admit().is_ok());
        assert!(limiter.admit().is_err());
        clock.advance(Duration::from_hours(1));
        for _ in 0..3 {
            assert!(limiter.admit().is_ok());
        }
        assert!(limiter.admit().is_err());
    }

    #[test]
    fn the_fields_tell_the_policy_what_is_left_and_when_there_is_more() {
        let (limiter, _clock) = limiter("100/s");
        let policy = r#""default";q=100;w=1"#;
        let admitted = limiter.admit().unwrap();
        assert_eq!(told(&admitted), [policy, r#""default";r=99;t=1"#]);
        for _ in 1..100 {
            limiter.admit().unwrap();
        }
        let refused = limiter.admit().unwrap_err();
        assert_eq!(told(&refused), [policy, r#""default";r=0;t=1"#]);
    }

    #[test]
    fn the_greatest_limits_can_be_kept() {
        for limit in ["1000000/s", "1000000/h", "1/h"] {
            assert!(limiter(limit).0.admit().is_ok(), "{limit}");
        }
    }
}

//! The rate limiter of one tenant, a token bucket, and its header fields
//! (draft-ietf-httpapi-ratelimit-headers-10).

use std::time::Duration;

use governor::{
    RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};
use storm_shared::services::access::RateLimit;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// One tenant's token bucket. It starts full and refills at a constant rate.
pub struct Limiter<C: Clock = DefaultClock> {
    // One atomic word: no lock for a request, and no task that refills it.
    bucket: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    clock: C,
    policy: HeaderValue,
    /// The time in which the bucket refills by one request.
    interval: Duration,
}

/// The state of a rate limit after a request.
#[derive(Clone, Debug)]
pub struct Quota {
    policy: HeaderValue,
    remaining: u32,
    /// The time until the bucket has refilled by one request.
    wait: Duration,
}

impl Limiter {
    /// A full bucket.
    pub fn new(limit: RateLimit) -> Self {
        Self::with_clock(limit, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(limit: RateLimit, clock: C) -> Self {
        let RateLimit { requests, window } = limit;
        let interval = window / requests.get();
        #[expect(
            clippy::expect_used,
            reason = "a window is at least 1 s, and a limit at most 1,000,000"
        )]
        let rate = governor::Quota::with_period(interval)
            .expect("the interval is not zero")
            .allow_burst(requests);
        Self {
            bucket: RateLimiter::direct_with_clock(rate, clock.clone()).with_middleware(),
            clock,
            // The quoted name is the policy's: it links the two fields.
            policy: field(&format!("\"default\";q={requests};w={}", window.as_secs())),
            interval,
        }
    }

    /// Takes one request from the bucket.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn admit(&self) -> Result<Quota, Quota> {
        let quota = |remaining, wait| Quota {
            policy: self.policy.clone(),
            remaining,
            wait,
        };
        match self.bucket.check() {
            Ok(state) => Ok(quota(state.remaining_burst_capacity(), self.interval)),
            Err(not_until) => Err(quota(0, not_until.wait_time_from(self.clock.now()))),
        }
    }
}

impl Quota {
    /// Writes the `RateLimit` and `RateLimit-Policy` fields.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        let (remaining, seconds) = (self.remaining, self.seconds());
        headers.insert(POLICY, self.policy.clone());
        let limit = format!("\"default\";r={remaining};t={seconds}");
        headers.insert(LIMIT, field(&limit));
    }

    /// Whole seconds until one more request is allowed, rounded up.
    pub(crate) fn seconds(&self) -> u64 {
        // Rounded down, a client that waits as told would be refused again.
        self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)
    }
}

#[expect(
    clippy::expect_used,
    reason = "only numbers are inserted into the fields"
)]
fn field(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII is a valid header value")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use warp::http::HeaderMap;

    use super::{Limiter, Quota};

    fn limiter(limit: &str) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::with_clock(limit.parse().unwrap(), clock.clone());
        (limiter, clock)
    }

    /// `RateLimit-Policy` and `RateLimit`.
    fn fields(quota: &Quota) -> [String; 2] {
        let mut headers = HeaderMap::new();
        quota.write_to(&mut headers);
        ["ratelimit-policy", "ratelimit"].map(|name| headers[name].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_may_burst_up_to_its_limit_and_then_waits_for_the_refill() {
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
    fn the_header_fields_give_the_policy_the_remaining_requests_and_the_reset_time() {
        let (limiter, _clock) = limiter("100/s");
        let policy = r#""default";q=100;w=1"#;
        let admitted = limiter.admit().unwrap();
        assert_eq!(fields(&admitted), [policy, r#""default";r=99;t=1"#]);
        for _ in 1..100 {
            limiter.admit().unwrap();
        }
        let refused = limiter.admit().unwrap_err();
        assert_eq!(fields(&refused), [policy, r#""default";r=0;t=1"#]);
    }

    #[test]
    fn the_smallest_and_the_largest_limits_are_accepted() {
        for limit in ["1000000/s", "1000000/h", "1/h"] {
            assert!(limiter(limit).0.admit().is_ok(), "{limit}");
        }
    }
}

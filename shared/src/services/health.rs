//! Whether the database and Redis answer: what `/healthz` says of both services.

use std::{borrow::Cow, fmt::Display, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tracing::debug;

use super::{
    queue::Queue,
    store::{Store, Trouble},
};

/// The two words for what is well.
pub(crate) const OK: &str = "ok";
pub(crate) const NONE: &str = "none";

/// How long each check may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The body of `/healthz`: `status`, and then what each check found, under its name.
#[derive(Clone, Debug)]
pub struct Health {
    checks: Vec<(&'static str, CheckResult)>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// All is well.
    Ok,
    /// There is no such thing here, and none is needed.
    None,
    /// What is wrong, in a few words.
    Failing(Cow<'static, str>),
}

impl Health {
    /// Asks both at the same time. Where there is no queue, Redis is `none`, which is well.
    pub async fn check(store: &Store, queue: Option<&Queue>) -> Self {
        let redis = async {
            match queue {
                Some(queue) => verdict("redis", queue.check(), |_| None).await,
                None => CheckResult::None,
            }
        };
        let database = verdict("database", store.check(), |refusal| match refusal {
            Some(error) => error.trouble(),
            None => store.trouble(), // what the writer is struggling with
        });
        let (database, redis) = tokio::join!(database, redis);
        Self {
            checks: vec![("database", database), ("redis", redis)],
        }
    }

    /// The same with one more check, which has been made elsewhere.
    pub fn with(mut self, name: &'static str, verdict: CheckResult) -> Self {
        self.checks.push((name, verdict));
        self
    }

    /// Whether all is well: 200 or 503.
    pub fn is_ok(&self) -> bool {
        !self.checks.iter().any(|(_, verdict)| verdict.is_failing())
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.checks.len()))?;
        map.serialize_entry("status", if self.is_ok() { OK } else { "unavailable" })?;
        for (name, verdict) in &self.checks {
            map.serialize_entry(name, verdict.as_str())?;
        }
        map.end()
    }
}

impl CheckResult {
    fn is_failing(&self) -> bool {
        matches!(self, Self::Failing(_))
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Ok => OK,
            Self::None => NONE,
            Self::Failing(what) => what,
        }
    }
}

/// `trouble` names the trouble behind a check's error, or behind its silence, if it is known. The error
/// itself is for the log: it can name paths and addresses.
async fn verdict<E: Display>(
    what: &'static str,
    check: impl Future<Output = Result<(), E>>,
    trouble: impl FnOnce(Option<&E>) -> Option<Trouble>,
) -> CheckResult {
    let checked = tokio::time::timeout(DEADLINE, check).await;
    let (refusal, otherwise) = match &checked {
        Ok(Ok(())) => return CheckResult::Ok,
        Ok(Err(error)) => {
            debug!(what, %error, "a health check failed");
            (Some(error), Cow::from("unreachable"))
        }
        Err(_) => (
            None,
            format!("no answer within {} s", DEADLINE.as_secs()).into(),
        ),
    };
    CheckResult::Failing(trouble(refusal).map_or(otherwise, |trouble| trouble.as_str().into()))
}

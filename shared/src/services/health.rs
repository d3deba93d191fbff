//! Health checks of the database and Redis, for the `/healthz` of both services, and the answer to
//! their `/livez`.

use std::{borrow::Cow, fmt::Display, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tracing::debug;

use super::{
    queue::{Queue, RedisTrouble},
    store::{Connections, OwnerId, Pauses, Store, StoreError, Trouble},
};

/// The two results that count as healthy.
pub(crate) const OK: &str = "ok";
pub(crate) const NONE: &str = "none";

/// What `/healthz` shows of pauses, and only while there are some. They are no checks.
pub(crate) const PAUSED: &str = "paused";
pub(crate) const PAUSED_ORIGINS: &str = "paused_origins";

/// What `/healthz` shows of a database on a server, which is no check either.
pub(crate) const CONNECTIONS: &str = "database_connections";

/// What the `/healthz` of a worker shows: the id under which it claims, which is no check.
pub(crate) const OWNER: &str = "owner";

/// The status of a service of which a check fails.
pub(super) const UNAVAILABLE: &str = "unavailable";

/// The result of the check of a database that is not open yet.
pub(super) const NOT_OPEN_YET: &str = "not open yet";

/// Deadline of each check.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);

/// The body of `/livez`: an answer at all is the check.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Alive {
    status: &'static str,
}

impl Alive {
    /// The process runs.
    #[expect(
        clippy::new_without_default,
        reason = "a default value says nothing about a process"
    )]
    pub const fn new() -> Self {
        Self { status: "alive" }
    }
}

/// The body of `/healthz`: `status`, then the result of each check under its name.
#[derive(Clone, Debug)]
pub struct Health {
    checks: Vec<(&'static str, CheckResult)>,
    /// Whether everything is paused, which is no fault.
    paused: bool,
    /// How many origins are.
    paused_origins: usize,
    /// The pool of connections to the database's server, if it has one.
    connections: Option<Connections>,
    /// The id under which a worker claims now.
    owner: Option<OwnerId>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Healthy.
    Ok,
    /// Not configured, and not needed.
    None,
    /// Unhealthy, with a short description.
    Failing(Cow<'static, str>),
}

impl Health {
    /// Runs both checks concurrently. Without a queue, Redis is `none`, which is healthy.
    pub async fn check(store: &Store, queue: Option<&Queue>) -> Self {
        // Concurrently, so that both fit into one deadline.
        let (database, redis) = tokio::join!(check_database(store), check_redis(queue),);
        Self {
            checks: vec![("database", database), ("redis", redis)],
            paused: false,
            paused_origins: 0,
            connections: store.connections(),
            owner: None,
        }
    }

    /// The answer while the database is not open yet, which is unhealthy.
    pub fn starting() -> Self {
        let database = CheckResult::Failing(NOT_OPEN_YET.into());
        Self {
            checks: vec![("database", database)],
            paused: false,
            paused_origins: 0,
            connections: None,
            owner: None,
        }
    }

    /// Adds the result of a check that was made elsewhere.
    pub fn with(mut self, name: &'static str, result: CheckResult) -> Self {
        self.checks.push((name, result));
        self
    }

    /// Shows what operators have paused. It leaves the status as it is.
    pub fn showing(mut self, pauses: &Pauses) -> Self {
        self.paused = pauses.everything;
        self.paused_origins = pauses.origins.len();
        self
    }

    /// Shows the id under which a worker claims.
    pub fn of_owner(mut self, owner: OwnerId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Whether all checks are healthy: 200 or 503.
    pub fn is_ok(&self) -> bool {
        !self.checks.iter().any(|(_, result)| result.is_failing())
    }
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let status = if self.is_ok() { OK } else { UNAVAILABLE };
        let mut map = serialize_checks(status, &self.checks, serializer)?;
        if let Some(owner) = self.owner {
            map.serialize_entry(OWNER, &owner.to_string())?;
        }
        if let Some(connections) = &self.connections {
            map.serialize_entry(CONNECTIONS, connections)?;
        }
        if self.paused {
            map.serialize_entry(PAUSED, &true)?;
        }
        if self.paused_origins > 0 {
            map.serialize_entry(PAUSED_ORIGINS, &self.paused_origins)?;
        }
        map.end()
    }
}

/// An object of `status` and the result of each check under its name.
pub(super) fn serialize<S: Serializer>(
    status: &str,
    checks: &[(&'static str, CheckResult)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serialize_checks(status, checks, serializer)?.end()
}

fn serialize_checks<S: Serializer>(
    status: &str,
    checks: &[(&'static str, CheckResult)],
    serializer: S,
) -> Result<S::SerializeMap, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("status", status)?;
    for (name, result) in checks {
        map.serialize_entry(name, result.as_str())?;
    }
    Ok(map)
}

impl CheckResult {
    pub(super) fn is_failing(&self) -> bool {
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

/// The result of a check of `store`, within the deadline.
pub(super) async fn check_database(store: &Store) -> CheckResult {
    let trouble = |error: Option<&StoreError>| match error {
        Some(error) => error.trouble().map(Trouble::as_str),
        None => store.trouble().map(Trouble::as_str), // it timed out; the writer may know why
    };
    run_check("database", store.check(), trouble).await
}

/// Asks Redis, and adds what this process's own tasks have met: they use more commands than the
/// check, on connections of their own.
pub(super) async fn check_redis(queue: Option<&Queue>) -> CheckResult {
    let Some(queue) = queue else {
        return CheckResult::None;
    };
    let met = || queue.status().trouble().map(RedisTrouble::as_str);
    let checked = run_check("redis", queue.check(), |error| match error {
        Some(error) => Some(RedisTrouble::from(error).as_str()),
        None => met(), // it timed out; a task may know why
    });
    match checked.await {
        CheckResult::Ok => met().map_or(CheckResult::Ok, |met| CheckResult::Failing(met.into())),
        failing => failing,
    }
}

/// Runs a check within the deadline. `trouble` names the cause behind an error, or behind a timeout
/// (`None`), if it is known. The error itself is only logged: it can name paths and addresses.
async fn run_check<E: Display>(
    what: &'static str,
    check: impl Future<Output = Result<(), E>>,
    trouble: impl FnOnce(Option<&E>) -> Option<&'static str>,
) -> CheckResult {
    // An orchestrator's probe needs an answer even if the database or Redis hangs.
    let checked = tokio::time::timeout(DEADLINE, check).await;
    let (error, fallback) = match &checked {
        Ok(Ok(())) => return CheckResult::Ok,
        // `debug`: the store and the queue log an outage themselves, once.
        Ok(Err(error)) => {
            debug!(what, %error, "a health check failed");
            (Some(error), Cow::from("unreachable"))
        }
        Err(_) => (
            None,
            format!("no answer within {} s", DEADLINE.as_secs()).into(),
        ),
    };
    CheckResult::Failing(trouble(error).map_or(fallback, Cow::from))
}

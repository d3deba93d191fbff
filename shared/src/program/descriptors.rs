//! The limit of open files (`ulimit -n`), and what a service does with it.
//!
//! Every connection, file and socket needs a file descriptor. Where the limit is below what the
//! settings allow, the bounds shrink to it: a client past a bound gets its 503, and a job waits in
//! the database. Without that, `accept` and `connect` would fail, and clients would wait without an
//! answer.

use std::fs;

use thiserror::Error;
use tracing::{debug, warn};

use crate::{
    config::Settings,
    services::{queue, store},
};

/// Descriptors for what is open for a moment only: the files of a name look-up, a certificate file,
/// connections that are being closed.
const SPARE: usize = 6;

/// What a process has open at its start where the system cannot tell: the three standard streams,
/// and those of the runtime and of the signal handlers.
const USUAL_START: usize = 12;

/// How a service spends descriptors on what its settings bound.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorBudget {
    /// The listeners of the service.
    pub listeners: fn(&Settings) -> usize,
    /// The most descriptors that the bounds of these settings allow.
    pub wanted: fn(&Settings) -> usize,
    /// Lowers these bounds to as many as given, which are at least [`Self::least`].
    pub shrink: fn(&mut Settings, usize),
    /// The fewest with which the service can work.
    pub least: fn(&Settings) -> usize,
}

/// The limit is too low to start at all.
#[derive(Debug, Error)]
#[error(
    "the limit of open files is {limit}, and at least {least} are needed ({needed} for all that the \
     settings allow): raise it with {HOW}"
)]
pub(super) struct TooFew {
    limit: usize,
    least: usize,
    needed: usize,
}

const HOW: &str = "`ulimit -n`, LimitNOFILE= (systemd) or `ulimits: nofile` (compose)";

/// Raises the limit as far as this process may, and lowers the bounds of `settings` to it, with a
/// warning. `others` are opened besides those of the settings.
pub(super) fn fit(
    budget: &DescriptorBudget,
    settings: &mut Settings,
    others: usize,
) -> Result<(), TooFew> {
    let Some(limit) = raise_limit() else {
        return Ok(());
    };
    fit_to(limit, already_open() + others, budget, settings)
}

fn fit_to(
    limit: usize,
    open: usize,
    budget: &DescriptorBudget,
    settings: &mut Settings,
) -> Result<(), TooFew> {
    let queue = settings.queue.as_ref().map_or(0, |_| queue::DESCRIPTORS);
    let fixed = open + store::DESCRIPTORS + queue + (budget.listeners)(settings) + SPARE;
    let needed = fixed + (budget.wanted)(settings);
    if limit >= needed {
        debug!(limit, needed, "open files allowed");
        return Ok(());
    }
    let least = fixed + (budget.least)(settings);
    if limit < least {
        return Err(TooFew {
            limit,
            least,
            needed,
        });
    }
    let jobs = settings.worker.concurrency;
    (budget.shrink)(settings, limit - fixed);
    let fewer_jobs = Some(settings.worker.concurrency).filter(|fewer| *fewer < jobs);
    warn!(
        limit,
        needed,
        http_connections = settings.http.connections,
        worker_concurrency = fewer_jobs,
        remedy = HOW,
        "the limit of open files is below what the settings need, so the bounds are lowered to it"
    );
    Ok(())
}

/// Raises the soft limit to the hard one, which needs no privilege: many systems start a process
/// with 1024. `None` if the limit is unknown.
fn raise_limit() -> Option<usize> {
    // The call lowers this to the hard limit.
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => Some(usize::try_from(limit).unwrap_or(usize::MAX)),
        Err(error) => {
            warn!(%error, "the limit of open files cannot be raised");
            let (limit, _) = rlimit::Resource::NOFILE.get().ok()?;
            Some(usize::try_from(limit).unwrap_or(usize::MAX))
        }
    }
}

/// What this process has open now. A parent may have left it more than the standard streams.
fn already_open() -> usize {
    // Linux and macOS have it. The folder itself is open while it is read.
    let open = fs::read_dir("/dev/fd").map(|open| open.count().saturating_sub(1));
    open.unwrap_or(USUAL_START)
}

#[cfg(test)]
mod tests {
    use super::{DescriptorBudget, fit_to};
    use crate::config::Settings;

    const BUDGET: DescriptorBudget = DescriptorBudget {
        listeners: |_| 1,
        wanted: |settings| settings.http.connections,
        shrink: |settings, room| settings.http.connections = room,
        least: |_| 10,
    };

    /// The connections that are left, and how many are not for them.
    fn connections(limit: usize) -> Result<usize, String> {
        let settings = [("REDIS_URL", "none"), ("HTTP_CONNECTIONS", "500")];
        let mut settings = Settings::with(settings).unwrap();
        fit_to(limit, 12, &BUDGET, &mut settings).map_err(|error| error.to_string())?;
        Ok(settings.http.connections)
    }

    #[test]
    fn the_bounds_shrink_to_the_limit_and_stay_as_set_where_it_suffices() {
        assert_eq!(connections(usize::MAX), Ok(500));
        assert_eq!(connections(1024), Ok(500));
        let left = connections(100).unwrap();
        assert!((50..90).contains(&left), "{left}");
        assert_eq!(connections(101), Ok(left + 1));
        let fixed = 100 - left;
        assert_eq!(connections(fixed + 500), Ok(500));
        assert_eq!(connections(fixed + 499), Ok(499));
    }

    #[test]
    fn a_limit_below_the_minimum_is_refused_in_one_line_that_says_what_is_needed() {
        let fixed = 100 - connections(100).unwrap();
        assert_eq!(connections(fixed + 10), Ok(10));
        let refusal = connections(fixed + 9).unwrap_err();
        assert_eq!(refusal.lines().count(), 1);
        for part in [
            format!("is {}", fixed + 9),
            format!("at least {} are", fixed + 10),
            "ulimit -n".into(),
            "LimitNOFILE".into(),
        ] {
            assert!(refusal.contains(&part), "{refusal}");
        }
    }
}

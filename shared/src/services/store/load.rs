//! The load: the jobs that are unfinished, and what the workers have done. Value types, no SQL.

use std::collections::{BTreeMap, HashMap};

use super::{breakers::Breakers, lease::OwnerId};
use crate::models::{ClientName, HandlerName};

/// The unfinished jobs and the work that was done, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Unfinished async jobs: `PENDING` or `PROCESSING`. Redeliveries don't count.
    pub unfinished: usize,
    /// Those of them that wait for a worker and are due.
    pub waiting: usize,
    /// The same of each tenant that has unfinished jobs: of 2,000 at most. `None` is the tenant of
    /// jobs without a client name.
    pub tenants: HashMap<Option<ClientName>, TenantLoad>,
    /// The unfinished jobs whose work is to be done, of each handler that has some: of 256 beside
    /// the report. Of the report they are all but those of other handlers, and those that wait for
    /// another attempt at a callback. Empty, unless it was asked for.
    pub handlers: HashMap<HandlerName, usize>,
    /// What each worker has ended since it registered, as of its last heartbeat.
    pub ended: HashMap<OwnerId, Ended>,
    /// Whether an operator has paused all work.
    pub is_paused: bool,
}

impl Load {
    /// Counts the unfinished jobs of each handler: those of the `others` beside the report are
    /// known, and `delayed` of all jobs are `PENDING` and not due.
    pub(super) fn count_handlers(
        &mut self,
        delayed: usize,
        others: BTreeMap<HandlerName, HandlerLoad>,
    ) {
        let [mut reports, mut callbacks] = [self.unfinished, delayed];
        for (handler, of_handler) in others {
            let unfinished = of_handler.waiting.saturating_add(of_handler.running) as usize;
            reports = reports.saturating_sub(unfinished);
            let delayed = of_handler.waiting.saturating_sub(of_handler.due) as usize;
            callbacks = callbacks.saturating_sub(delayed);
            if unfinished > 0 {
                self.handlers.insert(handler, unfinished);
            }
        }
        // No index tells whose they are. New jobs are due: what waits beside the work of handlers
        // has had an attempt at its callback.
        reports = reports.saturating_sub(callbacks);
        if reports > 0 {
            self.handlers.insert(HandlerName::REPORT, reports);
        }
    }
}

/// What a handler has to do, at one moment. A count ends at [`HandlerLoad::MOST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerLoad {
    /// The jobs whose work it is to do and that no worker holds: those that are due, and those that
    /// wait for a retry or are parked.
    pub waiting: u32,
    /// Those of them that are due.
    pub due: u32,
    /// The jobs that workers hold for its work.
    pub running: u32,
    /// The workers that serve it.
    pub workers: u32,
    /// Its circuit breakers in them.
    pub breakers: Breakers,
}

impl HandlerLoad {
    /// The most jobs that are counted.
    pub const MOST: u32 = 10_000;
}

/// How many jobs a worker has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// All of them.
    pub jobs: u64,
    /// The long ones among them. Workers of the previous release don't say.
    pub long_jobs: u64,
}

/// A tenant's part of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLoad {
    /// Its unfinished async jobs.
    pub unfinished: usize,
    /// Its short jobs that wait for a worker and are due.
    pub waiting_short: usize,
    /// Its long ones.
    pub waiting_long: usize,
}

//! What the tasks of this process know about Redis, for `/healthz` and the metrics.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::RedisTrouble;

const FROM_TABLE: &str = "workers take jobs from the table";
const LEFT_IN_STREAM: &str = "entries that were read stay in the stream";

/// The state of each task's link to Redis, and counts of notifications. Shared by the clones of one
/// `Queue`.
#[derive(Debug)]
pub struct QueueStatus {
    pub(super) notifier: LinkStatus,
    pub(super) reader: LinkStatus,
    pub(super) acknowledgements: LinkStatus,
    /// Notifications dropped because the notifier's channel was full.
    pub overflowed: Count,
    /// Notifications dropped because Redis did not take them.
    pub unsent: Count,
    /// Entries of other stores that were read.
    pub foreign: Count,
    /// Entries that were read and are no notifications.
    pub malformed: Count,
    pub(super) only_foreign: AtomicBool,
    /// Set since the reader last looked.
    pub(super) new_jobs: AtomicBool,
}

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

/// One task's link to Redis.
#[derive(Debug)]
pub(super) struct LinkStatus {
    pub(super) task: &'static str,
    /// What happens while it is down.
    pub(super) meanwhile: &'static str,
    state: Mutex<LinkState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    /// This process has no such task.
    Unused,
    Up,
    Down(RedisTrouble),
}

impl QueueStatus {
    pub(super) fn new() -> Self {
        Self {
            notifier: LinkStatus::new("notifier", FROM_TABLE),
            reader: LinkStatus::new("reader", FROM_TABLE),
            acknowledgements: LinkStatus::new("acknowledgements", LEFT_IN_STREAM),
            overflowed: Count::default(),
            unsent: Count::default(),
            foreign: Count::default(),
            malformed: Count::default(),
            only_foreign: AtomicBool::new(false),
            new_jobs: AtomicBool::new(false),
        }
    }

    /// Each task of this process that uses Redis, and whether its last command succeeded.
    pub fn links(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let links = self.all().into_iter();
        links.filter_map(|link| match link.state() {
            LinkState::Unused => None,
            state => Some((link.task, state == LinkState::Up)),
        })
    }

    /// Whether this process notifies workers.
    pub(super) fn notifies(&self) -> bool {
        self.notifier.is_used()
    }

    /// Whether this process reads notifications.
    pub(super) fn reads(&self) -> bool {
        self.reader.is_used()
    }

    /// Why a task's last command failed, if it did.
    pub fn trouble(&self) -> Option<RedisTrouble> {
        self.all().into_iter().find_map(LinkStatus::trouble)
    }

    /// Whether this worker has read notifications of other stores only, for a while.
    pub fn reads_only_foreign(&self) -> bool {
        self.only_foreign.load(Ordering::Relaxed)
    }

    /// Notes that the table has jobs that were never claimed: an API accepted them into this
    /// worker's store, and their notifications were lost.
    pub fn note_new_jobs(&self) {
        self.new_jobs.store(true, Ordering::Relaxed);
    }

    fn all(&self) -> [&LinkStatus; 3] {
        [&self.notifier, &self.reader, &self.acknowledgements]
    }
}

impl Count {
    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }
}

impl LinkStatus {
    fn new(task: &'static str, meanwhile: &'static str) -> Self {
        Self {
            task,
            meanwhile,
            state: Mutex::new(LinkState::Unused),
        }
    }

    /// Notes the last command's outcome. Returns why the one before failed, if it did.
    pub(super) fn note(&self, trouble: Option<RedisTrouble>) -> Option<RedisTrouble> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.trouble();
        *state = trouble.map_or(LinkState::Up, LinkState::Down);
        before
    }

    pub(super) fn is_used(&self) -> bool {
        self.state() != LinkState::Unused
    }

    pub(super) fn trouble(&self) -> Option<RedisTrouble> {
        self.state().trouble()
    }

    fn state(&self) -> LinkState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkState {
    fn trouble(self) -> Option<RedisTrouble> {
        match self {
            Self::Down(trouble) => Some(trouble),
            Self::Unused | Self::Up => None,
        }
    }
}

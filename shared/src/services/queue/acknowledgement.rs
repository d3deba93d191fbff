//! The commands that acknowledge and delete entries, for the reader and for the check.

use redis::Pipeline;

use super::{
    Queue,
    entry::{Entry, Sender},
};

/// An id that Redis never accepts for a new entry and that no entry has.
pub(super) const NO_ENTRY: &str = "0-0";

/// The ids to acknowledge, and those among them to delete.
pub(super) struct Acknowledgement<'a> {
    own: Vec<&'a str>,
    all: Vec<&'a str>,
}

impl<'a> Acknowledgement<'a> {
    pub(super) fn of(entries: &'a [Entry]) -> Self {
        // Another store's entry is acknowledged in this group but not deleted: its own group has
        // yet to read it.
        let own = entries.iter().filter(|entry| entry.sender == Sender::Own);
        Self {
            own: own.map(|entry| entry.stream_id.as_str()).collect(),
            all: entries.iter().map(|entry| &*entry.stream_id).collect(),
        }
    }

    /// Changes nothing when it runs.
    pub(super) fn of_no_entry() -> Self {
        Self {
            own: vec![NO_ENTRY],
            all: vec![NO_ENTRY],
        }
    }

    /// Adds the commands in one transaction: an acknowledged entry that stays in the stream would
    /// never be deleted.
    ///
    /// Not by `Pipeline::atomic`: it can't parse the answer if MULTI or EXEC is refused, so that
    /// nobody would learn why.
    pub(super) fn add_transaction(&self, queue: &Queue, pipeline: &mut Pipeline) {
        pipeline.cmd("MULTI").ignore();
        self.add_commands(queue, pipeline);
        // Not ignored: the errors of the commands that it ran are in its answer.
        pipeline.cmd("EXEC");
    }

    /// Adds the commands. The deletions come first: if the connection breaks in between, a sweep
    /// finds the entries pending and acknowledges them.
    pub(super) fn add_commands(&self, queue: &Queue, pipeline: &mut Pipeline) {
        let (key, group) = (&queue.key, queue.group());
        if !self.own.is_empty() {
            pipeline.cmd("XDEL").arg(key).arg(&self.own).ignore();
        }
        let acknowledge = pipeline.cmd("XACK").arg(key).arg(group);
        acknowledge.arg(&self.all).ignore();
    }
}

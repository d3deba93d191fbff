//! A check of what this process asks of Redis, which writes nothing.

use redis::Pipeline;

use super::{Queue, QueueError};

/// An id that Redis never accepts for a new entry and that no entry has. So nothing happens even if
/// the user may not use MULTI and the commands below run.
const NO_ENTRY: &str = "0-0";

impl Queue {
    /// Checks that Redis takes the commands that this process sends.
    ///
    /// # Errors
    /// Redis is unreachable, doesn't answer in time, or would refuse a command.
    pub async fn check(&self) -> Result<(), QueueError> {
        self.connections.run(&self.probe()).await
    }

    /// Redis checks a command's permission, memory, role and persistence before it queues the
    /// command for EXEC. DISCARD comes instead of EXEC.
    fn probe(&self) -> Pipeline {
        let mut probe = redis::pipe();
        probe.cmd("MULTI").ignore();
        if self.status.notifier.is_used() {
            let entry = [NO_ENTRY, "id", "none"];
            probe.cmd("XADD").arg(&self.key).arg(&entry).ignore();
        }
        if self.status.reader.is_used() {
            let (key, group) = (&self.key, self.group());
            probe.cmd("XACK").arg(key).arg(group).arg(NO_ENTRY).ignore();
            probe.cmd("XDEL").arg(key).arg(NO_ENTRY).ignore();
        }
        probe.cmd("DISCARD").ignore();
        // Outside of the transaction: only a command that runs meets a key of another type.
        probe.cmd("XLEN").arg(&self.key).ignore();
        probe
    }
}

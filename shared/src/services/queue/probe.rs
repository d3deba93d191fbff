//! A check of what this process asks of Redis, which writes nothing.

use redis::Pipeline;

use super::{
    Queue, QueueError,
    acknowledgement::{Acknowledgement, NO_ENTRY},
};

/// No id: XGROUP CREATE refuses it when it runs, after the user's permissions were checked.
const NO_ID: &str = "none";

/// The name of no consumer.
const NO_CONSUMER: &str = "";

impl Queue {
    /// Checks that Redis takes the commands that this process sends, except for the reader's reads
    /// and sweeps, whose outcome [`QueueStatus`](super::QueueStatus) has.
    ///
    /// # Errors
    /// Redis is unreachable, doesn't answer in time, or would refuse a command.
    pub async fn check(&self) -> Result<(), QueueError> {
        self.connections.run(&self.probe()).await
    }

    /// Redis checks a command's permission, memory, role and persistence before it queues the
    /// command for EXEC. DISCARD comes instead of EXEC, unless the task itself sends EXEC: a user
    /// may lack only that.
    ///
    /// Even if the user may not use MULTI, and so the commands run, each changes nothing.
    fn probe(&self) -> Pipeline {
        let (key, group) = (&self.key, &self.group());
        let mut probe = redis::pipe();
        probe.cmd("MULTI").ignore();
        if self.status.notifier.is_used() {
            let entry = [NO_ENTRY, "id", "none"];
            probe.cmd("XADD").arg(key).arg(&entry).ignore();
        }
        if self.status.reader.is_used() {
            let create = probe.cmd("XGROUP").arg("CREATE").arg(key).arg(group);
            create.arg(NO_ID).ignore();
            let delete = probe.cmd("XGROUP").arg("DELCONSUMER").arg(key).arg(group);
            delete.arg(NO_CONSUMER).ignore();
            let list = probe.cmd("XINFO").arg("CONSUMERS").arg(key).arg(group);
            list.ignore();
        }
        probe.cmd("DISCARD").ignore();
        if self.status.reader.is_used() {
            Acknowledgement::of_no_entry().add_transaction(self, &mut probe);
        }
        // Outside of the transactions: only a command that runs meets a key of another type.
        probe.cmd("XLEN").arg(key).ignore();
        probe
    }
}

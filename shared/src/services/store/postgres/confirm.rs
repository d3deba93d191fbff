//! Answers that say what an earlier write has done.
//!
//! What can be read need not have reached the synchronous standbys: after a crash, the server shows
//! what it had committed and was still waiting for. After a failover, that is gone. So an answer
//! that nothing is left to do is given only when a later record of the log has reached them. A
//! transaction that changes or locks a row has such a record; one that has found none needs this.

use super::{error::Error, session::Session};

/// SQL that makes a commit wait for the synchronous standbys, if there are any.
pub(super) const CONFIRM: &str = "CASE WHEN current_setting('synchronous_standby_names') <> ''
    THEN pg_logical_emit_message(true, 'request-storm-handler', ''::text) END";

/// Makes the commit of this transaction wait for them.
pub(super) async fn confirm(session: &Session) -> Result<(), Error> {
    session.execute_all(&format!("SELECT {CONFIRM}")).await
}

//! The engine's own errors, and what they mean to the callers of the store.

use std::error::Error as _;

use tokio_postgres::error::{DbError, Error as PostgresError, Severity, SqlState};

use crate::services::store::{StoreError, Trouble};

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Error {
    /// There was no connection in time, or none that may be used: nothing was sent.
    NoConnection(String),
    /// No connection could be opened, or the server has refused to begin a transaction: nothing
    /// was run.
    Unbegun(PostgresError),
    /// The server or the connection failed.
    Postgres(PostgresError),
    /// The server is an old primary: what it has committed does not count. It was asked before
    /// anything was run, and has failed the transaction.
    OldPrimary(String),
    /// The transaction was refused while its statement was under way, which may have been committed
    /// without it: outside of a transaction, each statement commits by itself.
    Outside(Box<Self>),
    /// The deadline passed. The connection was dropped.
    Deadline,
    /// The store is closed: nothing was sent.
    Closed,
    /// What the server sent can't be understood.
    Row(String),
}

impl From<PostgresError> for Error {
    fn from(error: PostgresError) -> Self {
        Self::Postgres(error)
    }
}

impl Error {
    /// The error of a transaction's begin.
    pub(super) fn of_begin(error: PostgresError) -> Self {
        // A pooler says everything by one code, also that it has lost the server.
        let waited = |said: &DbError| said.message() == "query_wait_timeout";
        match error.as_db_error() {
            Some(said) if !is_of_connection(said.code()) || waited(said) => Self::Unbegun(error),
            _ => Self::Postgres(error),
        }
    }

    /// Whether another try can succeed at once: the server has rolled the transaction back because
    /// of others.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(
            self.state(),
            Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED)
        )
    }

    /// Whether the data of the statement is at fault, and not the server or the connection: each
    /// half of a batch may fare better alone.
    pub(super) fn is_of_data(&self) -> bool {
        // Class 22: data exception; 23: integrity constraint violation; 54: program limit exceeded.
        self.state()
            .is_some_and(|state| is_of(state, &["22", "23", "54"]))
    }

    /// Whether the connection must not be used again: it is gone, or leads to a server that can't
    /// be written to.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::NoConnection(_) | Self::Row(_) | Self::Closed => false,
            Self::Deadline | Self::OldPrimary(_) | Self::Outside(_) => true,
            Self::Postgres(error) | Self::Unbegun(error) => match error.code() {
                None => true,
                Some(state) => {
                    *state == SqlState::READ_ONLY_SQL_TRANSACTION || is_of_connection(state)
                }
            },
        }
    }

    /// Whether other connections to the same server can't be trusted either: it is gone without a
    /// word, or is not the primary any more.
    pub(super) fn spoils_server(&self) -> bool {
        match self {
            Self::NoConnection(_) | Self::Unbegun(_) | Self::Row(_) | Self::Closed => false,
            Self::Deadline | Self::OldPrimary(_) => true,
            Self::Outside(refusal) => refusal.spoils_server(),
            Self::Postgres(error) => match error.code() {
                None => true,
                Some(state) => *state == SqlState::READ_ONLY_SQL_TRANSACTION,
            },
        }
    }

    /// Whether the server has no connection left for us.
    pub(super) fn is_of_limit(&self) -> bool {
        matches!(self, Self::Unbegun(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
    }

    /// Whether the server has answered: a commit that it refused is not in the database.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Postgres(error) => error
                .as_db_error()
                .is_some_and(|error| !is_of_connection(error.code())),
            Self::NoConnection(_)
            | Self::Unbegun(_)
            | Self::OldPrimary(_)
            | Self::Row(_)
            | Self::Closed => true,
            Self::Deadline | Self::Outside(_) => false,
        }
    }

    /// Whether the server, or a pooler, has ended the session with this error: nothing that was
    /// sent after it was run.
    pub(super) fn ends_session(&self) -> bool {
        match self {
            Self::Unbegun(error) => error.as_db_error().is_some_and(is_fatal),
            _ => false,
        }
    }

    /// Whether the server wants a password, and there is none to send.
    pub(super) fn lacks_password(&self) -> bool {
        // The client has no other mark of this error.
        matches!(self, Self::Unbegun(error)
            if error.source().is_some_and(|cause| cause.to_string() == "password missing"))
    }

    /// The server's code.
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) | Self::Unbegun(error) => error.code(),
            _ => None,
        }
    }

    pub(super) fn trouble(&self) -> Trouble {
        if let Self::Outside(refusal) = self {
            return refusal.trouble();
        }
        let Some(state) = self.state() else {
            return match self {
                Self::Closed | Self::Row(_) => Trouble::Other,
                // Without the server's code, any other is of the connection.
                _ => Trouble::Unreachable,
            };
        };
        match *state {
            SqlState::DISK_FULL => Trouble::Full,
            SqlState::READ_ONLY_SQL_TRANSACTION => Trouble::ReadOnly,
            SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => Trouble::Corrupt,
            SqlState::IO_ERROR => Trouble::Io,
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE => Trouble::Busy,
            SqlState::TOO_MANY_CONNECTIONS => Trouble::Unreachable,
            _ if is_of_connection(state) => Trouble::Unreachable,
            _ => Trouble::Other,
        }
    }

    /// For the log. Neither the server nor this crate says a password.
    pub(super) fn message(&self) -> String {
        match self {
            Self::NoConnection(message) | Self::OldPrimary(message) | Self::Row(message) => {
                message.clone()
            }
            Self::Outside(refusal) => {
                let why = refusal.message();
                format!("{why}; the statement that was under way may be committed")
            }
            Self::Deadline => "the deadline passed".to_owned(),
            Self::Closed => "the store is closed".to_owned(),
            Self::Postgres(error) | Self::Unbegun(error) => {
                match (error.as_db_error(), error.source()) {
                    (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
                    (None, Some(cause)) => format!("{error}: {cause}"),
                    (None, None) => error.to_string(),
                }
            }
        }
    }

    /// The store's error of a write that was not sent because of this one.
    pub(super) fn unsent(&self) -> StoreError {
        StoreError::Failed {
            trouble: self.trouble(),
            message: self.message().into(),
        }
    }

    /// The store's error. `may_be_committed`: whether the transaction was being committed.
    pub(super) fn into_store(self, may_be_committed: bool) -> StoreError {
        if matches!(self, Self::Closed) {
            return StoreError::Closed;
        }
        let (trouble, message) = (self.trouble(), self.message().into());
        if may_be_committed && !self.is_answer() {
            StoreError::Indeterminate { trouble, message }
        } else {
            StoreError::Failed { trouble, message }
        }
    }
}

/// Whether an error says that the connection has ended, and not how its last statement has. Class
/// 57P: the server shuts down or has cut the connection; 08: a pooler has lost the server, or has
/// cut the connection.
fn is_of_connection(state: &SqlState) -> bool {
    is_of(state, &["08", "57P"])
}

fn is_fatal(said: &DbError) -> bool {
    // Some poolers say it in the field for people only.
    said.parsed_severity() == Some(Severity::Fatal) || said.severity() == "FATAL"
}

/// Whether a code belongs to one of these classes, its first two characters.
pub(super) fn is_of(state: &SqlState, classes: &[&str]) -> bool {
    // A pooler, or another program that speaks the protocol, can send any text as a code.
    classes.iter().any(|class| state.code().starts_with(class))
}

//! Why Redis is of no use, in the words of `/healthz` and the log.

use deadpool_redis::PoolError;
use redis::{ErrorKind, RedisError};

use super::QueueError;

/// Why Redis is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisTrouble {
    /// No connection, or a connection that broke.
    Unreachable,
    /// A connection, but no answer within the deadline.
    NoAnswer,
    /// The password or the user is wrong or missing.
    AuthenticationFailed,
    /// The user lacks a command or the key.
    PermissionDenied,
    /// A replica, which takes no writes.
    ReadOnlyReplica,
    /// A replica that has lost its master.
    ReplicaWithoutMaster,
    /// The key of the stream holds something else.
    WrongType,
    /// `maxmemory` is reached, and nothing may be evicted.
    OutOfMemory,
    /// Redis reads its data from disk.
    Loading,
    /// Redis cannot persist, and so refuses writes.
    NotPersisted,
    /// Fewer replicas than `min-replicas-to-write`.
    TooFewReplicas,
    /// A node of a cluster that does not serve the stream's slot.
    Cluster,
    /// A script or module blocks Redis.
    Busy,
    /// Protected mode, or `maxclients`.
    Refused,
    /// A command is unknown.
    TooOld,
    /// Any other answer. The log has it.
    UnexpectedAnswer,
}

impl RedisTrouble {
    /// A few stable words, without an address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no answer",
            Self::AuthenticationFailed => "authentication failed",
            Self::PermissionDenied => "permission denied (ACL)",
            Self::ReadOnlyReplica => "read-only replica",
            Self::ReplicaWithoutMaster => "replica without its master",
            Self::WrongType => "wrong type at QUEUE_NAME",
            Self::OutOfMemory => "out of memory (maxmemory)",
            Self::Loading => "loading its data",
            Self::NotPersisted => "cannot persist its data",
            Self::TooFewReplicas => "too few replicas",
            Self::Cluster => "another node of a cluster is needed",
            Self::Busy => "busy with a script",
            Self::Refused => "connection refused by Redis",
            Self::TooOld => "unknown command (Redis 7.0 or newer is needed)",
            Self::UnexpectedAnswer => "unexpected answer",
        }
    }
}

impl From<&QueueError> for RedisTrouble {
    fn from(error: &QueueError) -> Self {
        match error {
            QueueError::Pool(PoolError::Backend(error)) | QueueError::Redis(error) => error.into(),
            QueueError::Pool(PoolError::Timeout(_)) => Self::NoAnswer,
            QueueError::Pool(_) | QueueError::Build(_) => Self::Unreachable,
        }
    }
}

impl From<&RedisError> for RedisTrouble {
    fn from(error: &RedisError) -> Self {
        if let Some(answers) = error.clone().into_server_errors() {
            // EXECABORT and the answers to later commands follow from the first one.
            let told = answers
                .iter()
                .find_map(|(_, answer)| named(answer.code(), answer.details().unwrap_or_default()));
            return told.unwrap_or(Self::UnexpectedAnswer);
        }
        let detail = error.detail().unwrap_or_default();
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::AuthenticationFailed,
            // The client replaces the code of the answer to SELECT, and keeps the text.
            _ if detail.contains("no permissions to run") => Self::PermissionDenied,
            _ if error.is_timeout() => Self::NoAnswer,
            ErrorKind::Io => Self::Unreachable,
            _ => Self::UnexpectedAnswer,
        }
    }
}

/// Before the answer that an EXEC gets when EXEC itself is refused, for instance by an ACL.
const EXEC_REFUSED: &str = "Transaction discarded because of: ";

/// The trouble that an error answer names.
fn named(code: &str, detail: &str) -> Option<RedisTrouble> {
    Some(match code {
        "READONLY" => RedisTrouble::ReadOnlyReplica,
        "MASTERDOWN" => RedisTrouble::ReplicaWithoutMaster,
        "WRONGTYPE" => RedisTrouble::WrongType,
        "OOM" => RedisTrouble::OutOfMemory,
        "NOPERM" => RedisTrouble::PermissionDenied,
        "NOAUTH" | "WRONGPASS" => RedisTrouble::AuthenticationFailed,
        "LOADING" => RedisTrouble::Loading,
        "MISCONF" => RedisTrouble::NotPersisted,
        "NOREPLICAS" => RedisTrouble::TooFewReplicas,
        "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" | "TRYAGAIN" => RedisTrouble::Cluster,
        "BUSY" => RedisTrouble::Busy,
        "DENIED" => RedisTrouble::Refused,
        "EXECABORT" => {
            let (code, detail) = detail.strip_prefix(EXEC_REFUSED)?.split_once(' ')?;
            return named(code, detail);
        }
        "ERR" => {
            if detail.contains("max number of clients") {
                RedisTrouble::Refused
            } else if detail.starts_with("unknown command") {
                RedisTrouble::TooOld
            } else {
                return None;
            }
        }
        _ => return None,
    })
}

/// Whether Redis answered with this error code, such as `NOGROUP`.
pub(super) fn is_answer(error: &RedisError, code: &str) -> bool {
    let answers = error.clone().into_server_errors();
    answers.is_some_and(|answers| answers.iter().any(|(_, answer)| answer.code() == code))
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{ErrorKind, RedisError, Value};

    use super::RedisTrouble;

    /// The error of an answer, as Redis writes it.
    fn answer(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Value::extract_error(value).unwrap_err()
    }

    #[test]
    fn every_answer_that_shows_a_useless_connection_has_its_own_words() {
        for (line, words) in [
            (
                "READONLY You can't write against a read only replica.",
                "read-only replica",
            ),
            (
                "MASTERDOWN Link with MASTER is down",
                "replica without its master",
            ),
            (
                "WRONGTYPE Operation against a key",
                "wrong type at QUEUE_NAME",
            ),
            ("OOM command not allowed", "out of memory (maxmemory)"),
            (
                "NOPERM this user has no permissions",
                "permission denied (ACL)",
            ),
            ("NOAUTH Authentication required.", "authentication failed"),
            (
                "WRONGPASS invalid username-password pair",
                "authentication failed",
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                "loading its data",
            ),
            (
                "MISCONF Redis is configured to save",
                "cannot persist its data",
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                "too few replicas",
            ),
            (
                "MOVED 3999 127.0.0.1:6381",
                "another node of a cluster is needed",
            ),
            (
                "CLUSTERDOWN Hash slot not served",
                "another node of a cluster is needed",
            ),
            ("BUSY Redis is busy running a script.", "busy with a script"),
            (
                "DENIED Redis is running in protected mode",
                "connection refused by Redis",
            ),
            (
                "ERR max number of clients reached",
                "connection refused by Redis",
            ),
            (
                "ERR unknown command 'XAUTOCLAIM', with args",
                "unknown command (Redis 7.0 or newer is needed)",
            ),
            (
                "EXECABORT Transaction discarded because of: NOPERM this user has no permissions",
                "permission denied (ACL)",
            ),
            (
                "EXECABORT Transaction discarded because of previous errors.",
                "unexpected answer",
            ),
            ("ERR whatever", "unexpected answer"),
            ("NEWCODE 10.1.2.3:6379 is new", "unexpected answer"),
        ] {
            assert_eq!(RedisTrouble::from(&answer(line)).as_str(), words, "{line}");
        }
    }

    #[test]
    fn a_broken_connection_and_a_missing_answer_are_told_apart() {
        let io = |kind| RedisTrouble::from(&RedisError::from(io::Error::from(kind)));
        assert_eq!(
            io(io::ErrorKind::ConnectionRefused),
            RedisTrouble::Unreachable
        );
        assert_eq!(io(io::ErrorKind::TimedOut), RedisTrouble::NoAnswer);
        let refused = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
        assert_eq!(
            RedisTrouble::from(&refused),
            RedisTrouble::AuthenticationFailed
        );
    }
}

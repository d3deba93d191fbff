//! Every type of problem: its name, status and title, and when it is answered.

use storm_shared::services::host_check::HostError;
use warp::http::StatusCode;

/// Makes the enum and its properties from one table, so that none can be without an entry.
macro_rules! kinds {
    ($($kind:ident = $status:ident, $name:literal, $title:literal, $when:literal;)*) => {
        /// A type of problem. Its name is stable: clients decide by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $(
                #[doc = $when]
                $kind,
            )*
        }

        impl Kind {
            /// Every type, by status.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The `type`, after `urn:storm:problem:`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The status of its answers.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$kind => StatusCode::$status,)*
                }
            }

            /// The usual title.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$kind => $title,)*
                }
            }

            /// When it is answered.
            pub const fn when(self) -> &'static str {
                match self {
                    $(Self::$kind => $when,)*
                }
            }
        }
    };
}

kinds! {
    BadHost = BAD_REQUEST, "bad-host", "Bad host",
        "`Host` is missing, repeated or invalid";
    BadIdempotencyKey = BAD_REQUEST, "bad-idempotency-key", "Bad idempotency key",
        "`Idempotency-Key` is repeated or invalid";
    MalformedBody = BAD_REQUEST, "malformed-body", "Malformed body",
        "the body is not a JSON object, or it broke off";
    UnexpectedBody = BAD_REQUEST, "unexpected-body", "Unexpected body",
        "the path takes no body";
    Unauthorized = UNAUTHORIZED, "unauthorized", "Unauthorized",
        "the token is missing or invalid";
    Forbidden = FORBIDDEN, "forbidden", "Forbidden",
        "the token is valid, and not for this path";
    CrossOrigin = FORBIDDEN, "cross-origin", "Cross-origin request",
        "a web page of another origin sent the request";
    CallbackLoop = FORBIDDEN, "callback-loop", "Callback loop",
        "the request is a callback";
    NotFound = NOT_FOUND, "not-found", "No such path",
        "no such path, or no such request of this client";
    UnknownHandler = NOT_FOUND, "unknown-handler", "Unknown handler",
        "no handler has the name in the path";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed",
        "the path has other methods: those in `Allow`";
    BodyTimeout = REQUEST_TIMEOUT, "body-timeout", "Body timeout",
        "the body did not arrive in time; the connection closes";
    RequestUnfinished = CONFLICT, "request-unfinished", "Request unfinished",
        "a request to be redelivered or erased is not over";
    RedeliveryUnderWay = CONFLICT, "redelivery-under-way", "Redelivery under way",
        "a redelivery of the request is in progress";
    NothingToRedeliver = CONFLICT, "nothing-to-redeliver", "Nothing to redeliver",
        "the request has no stored result, or no `callback_url`";
    TooManyPauses = CONFLICT, "too-many-pauses", "Too many pauses",
        "as many origins are paused as can be";
    RequestErased = CONFLICT, "request-erased", "Request erased",
        "the request was erased";
    RequestOver = CONFLICT, "request-over", "Request over",
        "the request is over, and no redelivery is in progress: there is nothing to cancel";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "Body too large",
        "the body, or its payload, is over the limit";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type",
        "Unsupported media type",
        "the content type is not `application/json`, or the body is coded";
    Misdirected = MISDIRECTED_REQUEST, "misdirected", "Misdirected request",
        "no token is required, and `Host` is not one that is served";
    Validation = UNPROCESSABLE_ENTITY, "validation", "Invalid fields",
        "fields or parameters are invalid, unknown or repeated: `errors` lists them";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused",
        "Idempotency key reused",
        "`Idempotency-Key` belongs to another submission, or to one that was erased";
    RateLimited = TOO_MANY_REQUESTS, "rate-limited", "Rate limited",
        "the client exceeded `RATE_LIMIT`";
    ReportFailed = INTERNAL_SERVER_ERROR, "report-failed", "Report failed",
        "the work failed inside the service; its log says why";
    UnsupportedTransferCoding = NOT_IMPLEMENTED, "unsupported-transfer-coding",
        "Unsupported transfer coding",
        "the body has a transfer coding other than `chunked`";
    Saturated = SERVICE_UNAVAILABLE, "saturated", "Saturated",
        "the queue of `/sync` is full, or the system refuses it a thread";
    SyncTimeout = SERVICE_UNAVAILABLE, "sync-timeout", "Sync timeout",
        "the report was not finished within `SYNC_TIMEOUT`";
    BacklogFull = SERVICE_UNAVAILABLE, "backlog-full", "Backlog full",
        "too many jobs are unfinished, or too many of the client's or of the handler's";
    ReceiverOverloaded = SERVICE_UNAVAILABLE, "receiver-overloaded", "Receiver overloaded",
        "`MAX_PARKED_PER_ORIGIN` of the client's jobs wait for this receiver";
    OldWorkers = SERVICE_UNAVAILABLE, "old-workers", "Old workers",
        "a worker of the previous release still runs, which knows no handlers";
    Overloaded = SERVICE_UNAVAILABLE, "overloaded", "Overloaded",
        "too many database operations are queued";
    TooManyWaiters = SERVICE_UNAVAILABLE, "too-many-waiters", "Too many waiters",
        "as many requests wait for results as may, or as many of the client's";
    TooManyViewers = SERVICE_UNAVAILABLE, "too-many-viewers", "Too many viewers",
        "as many watch the live page as may";
    TooManyConnections = SERVICE_UNAVAILABLE, "too-many-connections", "Too many connections",
        "the listener has `HTTP_CONNECTIONS`; the connection closes";
    MemoryBudgetExceeded = SERVICE_UNAVAILABLE, "memory-budget-exceeded",
        "Memory budget exceeded",
        "the bodies of other requests and answers take all of `MEMORY_BUDGET`";
    DatabaseLocked = SERVICE_UNAVAILABLE, "database-locked", "Database locked",
        "another program holds the database's lock";
    DatabaseFull = SERVICE_UNAVAILABLE, "database-full", "Database full",
        "the database's disk is full, or a quota or a limit is reached";
    DatabaseReadOnly = SERVICE_UNAVAILABLE, "database-read-only", "Database read-only",
        "the database or its folder is not writable";
    DatabaseCorrupt = SERVICE_UNAVAILABLE, "database-corrupt", "Database corrupt",
        "the database file is damaged: a retry does not help";
    DatabaseMoved = SERVICE_UNAVAILABLE, "database-moved", "Database moved",
        "the open database file was moved, deleted or replaced";
    DatabaseMigrated = SERVICE_UNAVAILABLE, "database-migrated", "Database migrated",
        "the store was moved to another database";
    DatabaseFailing = SERVICE_UNAVAILABLE, "database-failing", "Database failing",
        "the database's disk has I/O errors";
    DatabaseUnreachable = SERVICE_UNAVAILABLE, "database-unreachable", "Database unreachable",
        "the database's server does not answer";
    DatabaseUnavailable = SERVICE_UNAVAILABLE, "database-unavailable", "Database unavailable",
        "the database is not open yet, or refused for another reason; the log says which";
    OutcomeUnknown = SERVICE_UNAVAILABLE, "outcome-unknown", "Outcome unknown",
        "the database failed during the commit: it may have happened";
    ShuttingDown = SERVICE_UNAVAILABLE, "shutting-down", "Shutting down",
        "the process is shutting down";
}

impl From<HostError> for Kind {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Missing | HostError::Repeated | HostError::Invalid => Self::BadHost,
            HostError::Misdirected => Self::Misdirected,
        }
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::host_check::HostError;

    use super::Kind;

    #[test]
    fn the_types_have_names_of_their_own() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn a_host_error_is_called_the_same_by_both_services() {
        for error in [
            HostError::Missing,
            HostError::Repeated,
            HostError::Invalid,
            HostError::Misdirected,
        ] {
            let kind = Kind::from(error);
            assert_eq!(
                (kind.name(), kind.status(), kind.title()),
                (error.name(), error.status(), error.title())
            );
        }
    }
}

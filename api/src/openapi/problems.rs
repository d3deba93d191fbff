//! An example of each type of problem: what the service itself says.

use std::{iter, time::Duration};

use storm_shared::{
    models::{HandlerName, IdempotencyKeyError, RequestId, Status},
    services::{
        host_check::HostError,
        store::{StoreError, TooManyPauses, Trouble, Uncancellable, Unerasable, Unredeliverable},
    },
};

use crate::{
    body::LIMIT,
    reply::{FieldError, Kind, Problem},
    request_check::Refusal,
    validation,
};

/// The setting's default (`HTTP_TIMEOUT`, `SYNC_TIMEOUT`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of this type.
pub(super) fn example(kind: Kind, id: RequestId) -> Problem {
    let handlers = || iter::once(&HandlerName::REPORT);
    match kind {
        Kind::BadHost => Problem::refused(Refusal::Host(HostError::Repeated)),
        Kind::BadIdempotencyKey => Problem::bad_idempotency_key(&IdempotencyKeyError::Invisible),
        // Any form says so.
        Kind::MalformedBody => validation::paused(br#"{"records": }"#)
            .err()
            .unwrap_or_else(Problem::unexpected_body),
        Kind::UnexpectedBody => Problem::unexpected_body(),
        Kind::Unauthorized => Problem::unauthorized(),
        Kind::Forbidden => Problem::forbidden(true),
        Kind::CrossOrigin => Problem::refused(Refusal::CrossOrigin),
        Kind::CallbackLoop => Problem::refused(Refusal::CallbackLoop),
        Kind::NotFound => Problem::no_such_request(),
        Kind::UnknownHandler => Problem::unknown_handler(handlers()),
        Kind::MethodNotAllowed => Problem::method_not_allowed("GET, HEAD"),
        Kind::BodyTimeout => Problem::body_timeout(TIMEOUT),
        Kind::RequestUnfinished => Problem::unerasable(Unerasable::Unfinished),
        Kind::RedeliveryUnderWay => Problem::unredeliverable(Unredeliverable::UnderWay),
        Kind::NothingToRedeliver => Problem::unredeliverable(Unredeliverable::Nothing),
        Kind::TooManyPauses => Problem::too_many_pauses(TooManyPauses),
        Kind::RequestErased => Problem::unredeliverable(Unredeliverable::Erased),
        Kind::RequestOver => Problem::uncancellable(Uncancellable::Over(Status::Completed)),
        Kind::BodyTooLarge => Problem::body_too_large(LIMIT),
        Kind::UnsupportedMediaType => Problem::unsupported_media_type(),
        Kind::Misdirected => Problem::refused(Refusal::Host(HostError::Misdirected)),
        Kind::Validation => Problem::validation(vec![FieldError {
            field: "report_name".to_owned(),
            detail: "is missing; it must be a string of 1 to 200 characters".to_owned(),
        }]),
        Kind::IdempotencyKeyReused => Problem::idempotency_key_reused(),
        Kind::RateLimited => Problem::rate_limited(),
        Kind::ReportFailed => Problem::report_failed(),
        Kind::UnsupportedTransferCoding => Problem::unsupported_transfer_coding(),
        Kind::Saturated => Problem::saturated(),
        Kind::SyncTimeout => Problem::sync_timeout(TIMEOUT),
        Kind::BacklogFull => Problem::backlog_full(TIMEOUT, None),
        Kind::ReceiverOverloaded => Problem::receiver_overloaded(),
        Kind::OldWorkers => Problem::old_workers(),
        Kind::Overloaded => Problem::store(&StoreError::QueueFull),
        Kind::TooManyWaiters => Problem::too_many_waiters(),
        Kind::TooManyViewers => Problem::too_many_viewers(),
        Kind::TooManyConnections => Problem::too_many_connections(),
        Kind::MemoryBudgetExceeded => Problem::memory_budget_exceeded(),
        Kind::DatabaseLocked => of_database(Trouble::Busy),
        Kind::DatabaseFull => of_database(Trouble::Full),
        Kind::DatabaseReadOnly => of_database(Trouble::ReadOnly),
        Kind::DatabaseCorrupt => of_database(Trouble::Corrupt),
        Kind::DatabaseMoved => of_database(Trouble::Moved),
        Kind::DatabaseMigrated => of_database(Trouble::Migrated),
        Kind::DatabaseFailing => of_database(Trouble::Io),
        Kind::DatabaseUnreachable => of_database(Trouble::Unreachable),
        Kind::DatabaseUnavailable => of_database(Trouble::Other),
        Kind::OutcomeUnknown => Problem::outcome_unknown(id),
        Kind::ShuttingDown => Problem::shutting_down(),
    }
}

fn of_database(trouble: Trouble) -> Problem {
    Problem::store(&StoreError::Failed {
        trouble,
        message: "".into(),
    })
}

#[cfg(test)]
mod tests {
    use storm_shared::models::RequestId;

    use super::example;
    use crate::reply::Kind;

    #[test]
    fn each_example_is_of_its_type() {
        for kind in Kind::ALL {
            assert_eq!(example(*kind, RequestId::generate()).kind(), *kind);
        }
    }
}

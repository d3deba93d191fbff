//! The answers to faults of the database: what each is called, and who can end it.

use storm_shared::{
    models::RequestId,
    services::store::{StoreError, Trouble},
};

use super::{Extension, Kind, Problem, RETRY_AFTER_REPAIR};

impl Problem {
    /// The store failed. Its own message can contain paths and SQL, so it is logged and not sent.
    pub fn store(error: &StoreError) -> Self {
        match error {
            StoreError::QueueFull => {
                let detail = "Too many requests are waiting for the database. Retry later.";
                Self::unavailable(Kind::Overloaded, detail)
            }
            StoreError::Closed => Self::shutting_down(),
            other => Self::database(other.trouble().unwrap_or(Trouble::Other)),
        }
    }

    /// It is unknown whether the write about this request was committed.
    ///
    /// Without `Retry-After`: a client that only sends the same again may get the work done twice.
    pub fn outcome_unknown(id: impl Into<Option<RequestId>>) -> Self {
        let request_id = id.into();
        let look = match request_id {
            Some(id) => format!("GET /requests/{id} tells"),
            None => "GET /requests/{id} of each request tells".to_owned(),
        };
        let detail = format!(
            "The database failed during the commit, so this may have been done or not. {look} once \
             the database works again, as GET /healthz says. Only then, and only if it was not done, \
             send it again."
        );
        Self {
            extension: request_id.map_or(Extension::None, Extension::RequestId),
            ..Self::new(Kind::OutcomeUnknown, detail)
        }
    }

    /// The same about a submission with an idempotency key, which is safe to repeat.
    pub fn outcome_unknown_with_key(id: RequestId) -> Self {
        let detail = "The database failed during the commit, so this may have been done or not. Retry later, \
                      with the same `idempotency-key`: whatever happened, there will be one job.";
        Self {
            detail: detail.into(),
            header: Some(("retry-after", RETRY_AFTER_REPAIR)),
            ..Self::outcome_unknown(id)
        }
    }

    /// The service has started, but its database is not open yet.
    pub fn not_open_yet() -> Self {
        let detail = "The database is not open yet; the service's log says why. Retry later: the service \
                      continues by itself as soon as it can open it.";
        Self::needs_repair(Kind::DatabaseUnavailable, detail)
    }

    fn database(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Busy => Self::unavailable(
                Kind::DatabaseLocked,
                "Another program holds the database's lock. Retry in a moment. If this persists, the \
                 operator has to stop that program.",
            ),
            Trouble::Full => Self::needs_repair(
                Kind::DatabaseFull,
                "The database's disk is full, a quota or file size limit is reached, or the disk fails. \
                 Retry when the operator has made room; the service then continues by itself.",
            ),
            Trouble::ReadOnly => Self::needs_repair(
                Kind::DatabaseReadOnly,
                "The database or its folder is not writable. Retry when the operator has made it \
                 writable; the service then continues by itself.",
            ),
            Trouble::Corrupt => Self::new(
                Kind::DatabaseCorrupt,
                "The database file is damaged, and a retry does not help. The operator has to stop the \
                 service and restore the file from a backup, or save what can be read of it.",
            ),
            Trouble::Moved => Self::needs_repair(
                Kind::DatabaseMoved,
                "The database file was moved, deleted or replaced while it is open, so a request that is \
                 accepted now would be lost. Retry when the operator has put the file back or \
                 restored it.",
            ),
            Trouble::Migrated => Self::needs_repair(
                Kind::DatabaseMigrated,
                "The service's data was moved to another database, and this process still uses the \
                 old one. Retry when the operator has restarted it with the new one.",
            ),
            Trouble::Io => Self::needs_repair(
                Kind::DatabaseFailing,
                "The database's disk has I/O errors. Retry later. The operator finds the error in the \
                 service's log and has to check the disk.",
            ),
            Trouble::Unreachable => Self::unavailable(
                Kind::DatabaseUnreachable,
                "The database's server does not answer. Retry later; the service continues by itself \
                 as soon as the server does.",
            ),
            Trouble::Other => Self::unavailable(
                Kind::DatabaseUnavailable,
                "The database is unavailable. Retry later.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::RequestId,
        services::store::{StoreError, Trouble},
    };

    use super::Problem;

    #[test]
    fn an_unknown_outcome_names_the_request_and_invites_no_retry() {
        let id = RequestId::generate();
        let problem = Problem::outcome_unknown(id);
        assert_eq!(
            (problem.kind.name(), problem.header),
            ("outcome-unknown", None)
        );
        assert_eq!(problem.request_id(), Some(id));
        let look = format!("GET /requests/{id}");
        assert!(problem.detail().contains(&look), "{}", problem.detail());
        assert_eq!(Problem::outcome_unknown(None).request_id(), None);
    }

    #[test]
    fn an_unknown_outcome_of_a_submission_with_a_key_invites_to_repeat_it() {
        let id = RequestId::generate();
        let problem = Problem::outcome_unknown_with_key(id);
        assert_eq!(problem.kind.name(), "outcome-unknown");
        assert_eq!(problem.header, Some(("retry-after", "30")));
        assert_eq!(problem.request_id(), Some(id));
        assert!(problem.detail().contains("the same `idempotency-key`"));
    }

    #[test]
    fn every_trouble_has_a_type_of_its_own_and_only_damage_is_not_to_be_tried_again() {
        let (mut names, mut final_names) = (Vec::new(), Vec::new());
        for trouble in [
            Trouble::Busy,
            Trouble::Full,
            Trouble::ReadOnly,
            Trouble::Corrupt,
            Trouble::Moved,
            Trouble::Migrated,
            Trouble::Io,
            Trouble::Unreachable,
            Trouble::Other,
        ] {
            let problem = Problem::database(trouble);
            assert_eq!(problem.kind.status(), 503);
            names.push(problem.kind.name());
            if problem.header.is_none() {
                final_names.push(problem.kind.name());
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 9);
        assert_eq!(final_names, ["database-corrupt"]);
    }

    #[test]
    fn the_stores_own_words_stay_inside() {
        let broken = StoreError::Failed {
            trouble: Trouble::Other,
            message: "/srv/secret.db: no such table: requests".into(),
        };
        for (error, name) in [
            (StoreError::QueueFull, "overloaded"),
            (StoreError::Closed, "shutting-down"),
            (broken, "database-unavailable"),
        ] {
            let problem = Problem::store(&error);
            assert_eq!(problem.kind.name(), name);
            assert_eq!(problem.header, Some(("retry-after", "1")));
            let detail = problem.detail();
            assert!(
                !detail.contains("secret") && !detail.contains("table"),
                "{detail}"
            );
        }
    }
}

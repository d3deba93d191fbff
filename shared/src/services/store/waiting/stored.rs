//! What is stored of a request that clients do not see, and only its `waiting_for` shows.

use super::{ItsHandler, PausedPart, Place, Unfinished};
use crate::{
    models::{Mode, Request, Status},
    services::store::{breakers::Serving, job::Work},
};

/// What is stored of a request besides what it shows.
pub(in super::super) struct Stored {
    /// Or released as soon as a worker comes to it: nothing holds it but a pause.
    pub(in super::super) is_due: bool,
    /// The worker that holds it, if one does.
    pub(in super::super) owner: String,
    pub(in super::super) renewed_at: Option<String>,
    pub(in super::super) paused: Option<PausedPart>,
    /// Its handler, if that is not the report and its work is to be done.
    pub(in super::super) handler: Option<String>,
}

impl Stored {
    /// The job or redelivery of `request` that is not over, if there is one.
    pub(in super::super) fn unfinished<'a>(
        &'a self,
        request: &'a Request,
        serving: &Serving,
    ) -> Option<Unfinished<'a>> {
        let (work, status) = match request.redelivery {
            Some(status) => (Work::Redelivery, status),
            None => (Work::Job, request.status),
        };
        let place = match status {
            // A sync request is recorded when it is over.
            _ if request.mode == Mode::Sync => return None,
            Status::Completed | Status::Failed => return None,
            Status::Pending => Place::Table {
                until: request.next_attempt_at.as_deref().filter(|_| !self.is_due),
                is_parked: request.parked_since.is_some(),
            },
            Status::Processing => Place::Worker {
                owner: &self.owner,
                renewed_at: self.renewed_at.as_deref(),
            },
        };
        Some(Unfinished {
            work,
            place,
            claims: request.claims,
            lost_claims: request.lost_claims,
            last_attempt: request.attempts.last(),
            paused: self.paused,
            handler: self.handler.as_deref().map(|name| ItsHandler {
                name,
                workers: serving.workers,
                breakers: serving.breakers,
            }),
        })
    }
}

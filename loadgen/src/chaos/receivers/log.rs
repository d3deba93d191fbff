//! The log of all receivers: one record per delivery, whether or not a response was sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest as _, Sha256};
use storm_shared::{
    models::RequestId,
    services::report::{Report, hex},
};

use crate::{
    chaos::{
        clock,
        history::{Received, WorkEnd},
        orders::{ChaosOrder, ChaosOrders, HANDLER, NAME_IN_URL, Refusals},
        wall_clock::WallClock,
    },
    signatures::{SignatureCheck, Signatures},
};

/// One delivery.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct ReceivedCallback {
    /// The record, without the check against the job's id.
    pub(super) received: Received,
    /// The name of the delivered report.
    report_name: String,
    /// Whether it is the report requested under that name, with a valid signature.
    pub(super) content_correct: bool,
    /// The callbacks of this job that the receiver refuses.
    refusals: Option<Refusals>,
}

impl ReceivedCallback {
    /// The record, given the report name of each id.
    ///
    /// A callback may arrive before the client's `202`, so this is called at the end of the run.
    pub(in crate::chaos) fn received(self, names: &HashMap<RequestId, String>) -> Received {
        let for_this_id = names.get(&self.received.id) == Some(&self.report_name);
        Received {
            right: self.content_correct && for_this_id,
            ..self.received
        }
    }
}

/// The deliveries to all receivers. Clones share the same log.
#[derive(Clone, Debug)]
pub(super) struct CallbackLog {
    orders: ChaosOrders,
    signatures: Signatures,
    wall_clock: WallClock,
    /// The receiver's origin.
    origin: Option<String>,
    delivered: Arc<Mutex<Vec<ReceivedCallback>>>,
    unexpected: Arc<Mutex<Vec<String>>>,
    /// The number of callbacks of each job so far.
    counts: Arc<Mutex<HashMap<RequestId, usize>>>,
}

/// A delivery that has been read. It is recorded on drop, without a response unless one was set: so
/// a connection that the client aborts is recorded too.
#[derive(Debug)]
pub(super) struct DeliveryGuard<'a> {
    log: &'a CallbackLog,
    delivered: Option<ReceivedCallback>,
}

impl CallbackLog {
    pub(super) fn new(orders: ChaosOrders, signatures: Signatures, wall_clock: WallClock) -> Self {
        Self {
            orders,
            signatures,
            wall_clock,
            origin: None,
            delivered: Arc::default(),
            unexpected: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// The same log, for the receiver with this origin.
    pub(super) fn of_receiver(&self, origin: String) -> Self {
        Self {
            origin: Some(origin),
            ..self.clone()
        }
    }

    /// Starts the record of a body that was just read.
    pub(super) fn begin(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> DeliveryGuard<'_> {
        let delivered = self.parse(query, headers, body);
        if delivered.is_none() {
            let text = String::from_utf8_lossy(body).into_owned();
            lock(&self.unexpected).push(text);
        }
        DeliveryGuard {
            log: self,
            delivered,
        }
    }

    pub(super) fn take(&self) -> Vec<ReceivedCallback> {
        std::mem::take(&mut *lock(&self.delivered))
    }

    pub(super) fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.unexpected))
    }

    /// Parses a callback; none if the body names no job.
    fn parse(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<ReceivedCallback> {
        let content: Value = serde_json::from_slice(body).ok()?;
        let id = content["request_id"].as_str()?.parse().ok()?;
        let work = content.get("handler").map(|_| work_of(body));
        let report_name = match &work {
            None => content["report_name"].as_str()?.to_owned(),
            Some(_) => query?.strip_prefix(NAME_IN_URL)?.to_owned(),
        };
        let order = self.orders.by_name(&report_name);
        // The worker signed by the services' clock, which may have been stepped since.
        let mut readings = self.wall_clock.readings().into_iter();
        let signature_valid = readings.any(|now| {
            let check = self.signatures.check_at(now, headers, body, id);
            !matches!(check, SignatureCheck::Invalid(_))
        });
        Some(ReceivedCallback {
            refusals: order.as_ref().map(|order| order.refusals.clone()),
            content_correct: signature_valid
                && order.is_some_and(|order| match &work {
                    None => order.work.is_none() && content == callback_of(id, &order),
                    Some(work) => order.work.is_some() && work.is_some(),
                }),
            report_name,
            received: Received {
                at: clock::now(),
                id,
                // Of the bytes, not of the parsed body: a repeat must have the same bytes.
                body_sha256: hex(&Sha256::digest(body)),
                // Unknown until the end of the run: `received` sets it.
                right: false,
                answered: None,
                origin: self.origin.clone(),
                work: work.flatten(),
            },
        })
    }
}

impl DeliveryGuard<'_> {
    /// Counts the callback. Returns whether the receiver refuses it.
    pub(super) fn is_refused(&self) -> bool {
        let Some(callback) = &self.delivered else {
            return false;
        };
        let mut counts = lock(&self.log.counts);
        let count = counts.entry(callback.received.id).or_default();
        let number = *count;
        *count += 1;
        let refusals = callback.refusals.as_ref();
        refusals.is_some_and(|refusals| refusals.include(number))
    }

    /// Records the response, which is about to be sent.
    pub(super) fn answered(mut self, status: StatusCode) {
        if let Some(delivered) = &mut self.delivered {
            delivered.received.answered = Some(status.as_u16());
        }
    }
}

impl Drop for DeliveryGuard<'_> {
    fn drop(&mut self) {
        lock(&self.log.delivered).extend(self.delivered.take());
    }
}

/// What the callback of a job of the handler says; none if it is not of the contract's form. The
/// checker compares it with what the endpoint answered.
fn work_of(body: &[u8]) -> Option<WorkEnd> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body<'a> {
        #[serde(rename = "request_id")]
        _request_id: RequestId,
        handler: String,
        status: String,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        failure: Option<Failure>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Failure {
        reason: String,
        #[serde(rename = "detail")]
        _detail: String,
    }
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    match (
        body.handler == HANDLER,
        body.status.as_str(),
        body.result,
        body.failure,
    ) {
        (true, "completed", Some(result), None) => {
            Some(WorkEnd::Result(hex(&Sha256::digest(result.get()))))
        }
        (true, "failed", None, Some(failure)) => Some(WorkEnd::Failure(failure.reason)),
        _ => None,
    }
}

/// The complete expected body for a job.
fn callback_of(id: RequestId, order: &ChaosOrder) -> Value {
    let Report {
        report_id,
        checksum,
    } = order.expected();
    json!({
        "request_id": id,
        "report_id": report_id,
        "status": "completed",
        "checksum": checksum,
        "report_name": order.spec.report_name,
        "records": order.spec.records,
    })
}

/// A push either happens or not, so the list stays valid if a holder panics.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::env;

    use hyper::HeaderMap;
    use jiff::{SignedDuration, Timestamp};
    use storm_shared::{
        models::RequestId,
        services::signature::{ID, SIGNATURE, Signer, TIMESTAMP},
    };
    use tempfile::TempDir;

    use super::{CallbackLog, ChaosOrders, callback_of};
    use crate::{chaos::wall_clock::WallClock, signatures::Signatures};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    /// Whether a callback passes that is signed this far from the host's clock.
    fn passes(log: &CallbackLog, offset: SignedDuration) -> bool {
        let (id, at) = (RequestId::generate(), Timestamp::now() + offset);
        let body = callback_of(id, &log.orders.order(4)).to_string();
        let (id, signer) = (id.to_string(), Signer::parse(SECRET).unwrap());
        let signature = signer.sign(&id, at, body.as_bytes()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ID, id.parse().unwrap());
        headers.insert(TIMESTAMP, at.as_second().to_string().parse().unwrap());
        headers.insert(SIGNATURE, signature.parse().unwrap());
        drop(log.begin(None, &headers, body.as_bytes()));
        log.take().pop().unwrap().content_correct
    }

    #[test]
    fn a_callback_is_signed_by_the_clock_of_now_or_just_before_a_step() {
        let folder = TempDir::new().unwrap();
        // Any file: no process is started.
        let clock = WallClock::steppable(&env::current_exe().unwrap(), folder.path()).unwrap();
        let signatures = Signatures::parse(SECRET).unwrap();
        let log = CallbackLog::new(ChaosOrders::new(9), signatures, clock.clone());
        assert!(passes(&log, SignedDuration::ZERO));
        assert!(!passes(&log, HOUR));
        clock.step(HOUR).unwrap();
        assert!(passes(&log, HOUR));
        assert!(passes(&log, SignedDuration::ZERO));
        // Neither clock was ever there.
        assert!(!passes(&log, HOUR * 2));
        assert!(!passes(&log, -HOUR));
    }
}

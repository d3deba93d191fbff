//! What receivers heard: one note for each callback, whatever became of its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use storm_shared::{
    models::RequestId,
    services::report::{Report, hex},
};

use crate::{
    chaos::{
        history::Received,
        orders::{Order, Orders},
    },
    signatures::{SignatureCheck, Signatures},
};

/// One callback.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct Heard {
    /// The record to be.
    pub(super) received: Received,
    /// The report that it brings.
    report_name: String,
    /// Whether it is the very report that was ordered under that name, and signed as it has to be.
    pub(super) content_right: bool,
}

impl Heard {
    /// The record, where each id's report is known.
    ///
    /// A callback may come before the client knows its job's id: so this is only asked at the end.
    pub(in crate::chaos) fn received(self, names: &HashMap<RequestId, String>) -> Received {
        let for_this_id = names.get(&self.received.id) == Some(&self.report_name);
        Received {
            right: self.content_right && for_this_id,
            ..self.received
        }
    }
}

/// The notes of all receivers. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    orders: Orders,
    signatures: Signatures,
    heard: Arc<Mutex<Vec<Heard>>>,
    strange: Arc<Mutex<Vec<String>>>,
}

/// A callback that was read, and is written down when this is dropped: as unanswered, unless an
/// answer was given.
#[derive(Debug)]
pub(super) struct Hearing<'a> {
    notes: &'a Notes,
    heard: Option<Heard>,
}

impl Notes {
    pub(super) fn new(orders: Orders, signatures: Signatures) -> Self {
        Self {
            orders,
            signatures,
            heard: Arc::default(),
            strange: Arc::default(),
        }
    }

    /// Takes note of a body that was read just now.
    pub(super) fn hear(&self, headers: &HeaderMap, body: &[u8]) -> Hearing<'_> {
        let heard = self.understand(headers, body);
        if heard.is_none() {
            let words = String::from_utf8_lossy(body).into_owned();
            lock(&self.strange).push(words);
        }
        Hearing { notes: self, heard }
    }

    pub(super) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut *lock(&self.heard))
    }

    pub(super) fn take_strange(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.strange))
    }

    /// None where the body names no job.
    fn understand(&self, headers: &HeaderMap, body: &[u8]) -> Option<Heard> {
        let content: Value = serde_json::from_slice(body).ok()?;
        let id = content["request_id"].as_str()?.parse().ok()?;
        let report_name = content["report_name"].as_str()?.to_owned();
        let order = self.orders.by_name(&report_name);
        let signature = self.signatures.check(headers, body, id);
        let believed = !matches!(signature, SignatureCheck::Invalid(_));
        Some(Heard {
            content_right: believed
                && order.is_some_and(|order| content == callback_of(id, &order)),
            report_name,
            received: Received {
                at: Timestamp::now(),
                id,
                body_sha256: hex(&Sha256::digest(body)),
                right: false,
                answered: None,
            },
        })
    }
}

impl Hearing<'_> {
    /// This is the answer, and it is just being given.
    pub(super) fn answered(mut self, status: StatusCode) {
        if let Some(heard) = &mut self.heard {
            heard.received.answered = Some(status.as_u16());
        }
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        lock(&self.notes.heard).extend(self.heard.take());
    }
}

/// The whole body that is due for a job.
fn callback_of(id: RequestId, order: &Order) -> Value {
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

/// Whoever panicked while it held a list left it whole.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

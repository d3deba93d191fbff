//! Parses a body into a checked submission, or reports every fault in it at once.

mod admin;
mod bulk;
mod faults;
mod fields;
mod handler;
mod list;
mod page;
mod query;
mod report;
mod values;
mod wait;

use serde_json::value::RawValue;
use storm_shared::{
    models::{CallbackUrl, HandlerName, ReportSpec},
    services::ssrf::{Policy, Rule},
};

use crate::{body::LIMIT, reply::Problem};
pub use admin::{AuditPage, audit, paused};
pub(crate) use bulk::MAX_IDS as MAX_BULK_IDS;
pub use bulk::{BulkForm, bulk};
use faults::Faults;
pub use handler::HandlerForm;
pub use list::list;
pub use page::page;
pub use report::{AsyncForm, SyncForm};
pub use wait::wait;

/// The default and the largest size of each kind of page.
pub(crate) mod bounds {
    use super::{admin, bulk, list, page};

    pub(crate) const LIST: (usize, usize) = (list::LIMIT, list::MAX_LIMIT);
    pub(crate) const REDELIVERY: (usize, usize) = (page::LIMIT, page::MAX_LIMIT);
    pub(crate) const BULK: (usize, usize) = (bulk::LIMIT, bulk::MAX_LIMIT);
    pub(crate) const AUDIT: (usize, usize) = (admin::LIMIT, admin::MAX_LIMIT);
}

/// A valid submission of some work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission<W> {
    /// The work.
    pub work: W,
    /// Where to deliver the result; without one, the client polls.
    pub callback_url: Option<CallbackUrl>,
}

/// What a job's handler gets.
// No `Debug`: a payload must not get into a log.
pub enum JobInput {
    /// The report.
    Report(ReportSpec),
    /// Another handler.
    Payload {
        /// Which one.
        handler: HandlerName,
        /// JSON, as it was sent.
        payload: Box<RawValue>,
    },
}

/// Why a body is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The answer.
    pub problem: Box<Problem>,
    /// The rule of the SSRF policy that refused the callback's URL, if one did.
    pub refused_by: Option<Rule>,
}

impl From<Problem> for Invalid {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            refused_by: None,
        }
    }
}

/// The fields that an endpoint accepts.
pub trait Form {
    /// What it asks for.
    type Work;

    /// The most bytes of a body.
    fn body_limit(&self) -> usize {
        LIMIT
    }

    /// Parses a body.
    ///
    /// # Errors
    /// It is not a JSON object (400), it has too many bytes (413), or its fields are invalid (422,
    /// with every fault).
    fn read(&self, body: &[u8]) -> Result<Submission<Self::Work>, Invalid>;
}

/// A checked field `callback_url`; or, if it is invalid, the rule of the SSRF policy that refused
/// it, if one did.
type Callback = Result<Option<CallbackUrl>, Option<Rule>>;

/// Parses the field `callback_url`, whose URL `policy` must allow. `null` is the same as no field.
fn callback(sent: Option<&RawValue>, policy: &Policy, faults: &mut Faults) -> Callback {
    let Some(sent) = sent.filter(|value| value.get() != "null") else {
        return Ok(None);
    };
    values::callback_url(sent, policy)
        .map(Some)
        .map_err(|fault| {
            faults.add("callback_url", fault.detail);
            // Returned and not counted here: parsing has no side effects.
            fault.refused_by
        })
}

/// The submission of `work`, which is `None` if that is invalid; or all `faults`.
fn submission<W>(
    work: Option<W>,
    callback: Callback,
    faults: Faults,
) -> Result<Submission<W>, Invalid> {
    match (work, callback) {
        // Both can be valid beside an unknown or repeated field.
        (Some(work), Ok(callback_url)) if faults.0.is_empty() => {
            Ok(Submission { work, callback_url })
        }
        (_, callback) => Err(Invalid {
            problem: Box::new(Problem::validation(faults.0)),
            refused_by: callback.err().flatten(),
        }),
    }
}

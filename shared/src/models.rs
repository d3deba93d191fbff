//! The domain types. A value is validated when it is constructed and needs no check after that.

mod attempt;
mod callback_url;
mod client_name;
mod destination;
mod event;
mod failure;
mod handler_name;
mod idempotency_key;
mod origin;
mod report_spec;
mod request;
mod request_id;
mod status;
mod traceparent;
mod transition;
mod waiting_for;
mod worker_report;

pub use attempt::{Attempt, AttemptClass, Stage};
pub use callback_url::{CallbackUrl, CallbackUrlError};
pub use client_name::{ClientName, ClientNameError};
pub use destination::Destination;
pub use event::{Event, EventKind};
pub use failure::{Failure, FailureReason};
pub use handler_name::{HandlerName, HandlerNameError};
pub use idempotency_key::{IdempotencyKey, IdempotencyKeyError};
pub use origin::{Origin, OriginError};
pub use report_spec::{
    Records, RecordsError, ReportName, ReportNameError, ReportSpec, WAIT_PER_RECORD,
};
pub use request::{Mode, Request, RequestSummary};
pub use request_id::RequestId;
pub use status::Status;
pub use traceparent::{Traceparent, TraceparentError};
pub use transition::Transition;
pub use waiting_for::{WaitReason, WaitingFor};
pub use worker_report::{BreakerState, ReceiverReport, WorkerReport, choose_receivers};

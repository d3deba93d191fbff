//! `POST /sync`: makes the report while the client waits.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::{
    memory::Reservation,
    models::{Failure, FailureReason, ReportSpec, RequestId},
    services::report::{Report, generate_blocking},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tracing::error;
use warp::reply::Response;

use crate::{
    app::App,
    auth::Caller,
    repeat::until_known,
    reply::{self, Problem},
    routes::Received,
    sync_pool::{PoolRefusal, Slot, WorkError},
};

/// How long an answer waits for its record in the table. A slow database delays answers by no more
/// than this; normally the record is committed before the answer is sent.
const RECORDING: Duration = Duration::from_millis(500);

/// Makes the report, and answers when it is done or the timeout expires.
///
/// # Errors
/// The submission is invalid, no slot is free, or the report is not done within the timeout.
pub async fn report(
    caller: Caller,
    app: Arc<App>,
    received: Received<ReportSpec>,
) -> Result<Response, Problem> {
    let (submission, memory) = received.map_err(|invalid| *invalid.problem)?;
    let spec = submission.work;
    let (created_at, arrived) = (Timestamp::now(), Instant::now());
    let id = RequestId::generate();
    // A refused request leaves no record: a row for each would load the writer that `/async` needs.
    let slot = app.pool.admit().map_err(|refusal| match refusal {
        PoolRefusal::Full => Problem::saturated(),
        PoolRefusal::Stopped => Problem::shutting_down(),
    })?;
    let (client, answer) = oneshot::channel();
    let sync_request = SyncRequest {
        id,
        created_at,
        caller,
        spec,
        memory,
        // From the arrival: `SYNC_TIMEOUT` covers waiting and running together.
        deadline: arrived + app.settings.api.sync_timeout,
        client,
    };
    // A separate task: if the client disconnects, this future is dropped, but the request must
    // still be recorded.
    app.sync_requests
        .spawn(sync_request.complete(slot, Arc::clone(&app)));
    answer
        .await
        // The sender is dropped without an answer only if the task panics.
        .unwrap_or_else(|_| Err(Problem::report_failed()))
}

/// An admitted request.
struct SyncRequest {
    id: RequestId,
    created_at: Timestamp,
    caller: Caller,
    spec: ReportSpec,
    memory: Reservation,
    deadline: Instant,
    client: oneshot::Sender<Result<Response, Problem>>,
}

/// Why there is no report.
#[derive(Clone, Copy)]
enum Unfinished {
    Late(Duration),
    ClientGone,
    Panicked,
    ShutDown,
    NoThread,
}

impl SyncRequest {
    /// Waits for the report, records how the request ended, and answers.
    async fn complete(mut self, slot: Slot, app: Arc<App>) {
        let ended = self.end(slot, app.settings.api.sync_timeout).await;
        let answer = match &ended {
            Ok(report) => Ok(reply::report(report)),
            Err(unfinished) => Err(unfinished.problem()),
        };
        let SyncRequest {
            id,
            created_at,
            caller,
            spec,
            memory,
            client,
            ..
        } = self;
        // A failure to record does not change the client's answer.
        let mut recording = pin!(async {
            let ended = ended.map_err(Unfinished::failure);
            let created_by = caller.name().cloned();
            let record = || {
                let created_by = created_by.clone();
                app.store
                    .record_sync(id, created_at, &spec, created_by, ended.as_ref())
            };
            let recorded = until_known(app.settings.http.timeout, record);
            if let Err(error) = recorded.await {
                error!(%id, %error, "a sync request could not be recorded");
            }
        });
        let recorded = timeout(RECORDING, &mut recording).await;
        let _ = client.send(answer); // fails if the client is gone
        // Still recorded, after the answer: `App::close` waits for this task.
        if recorded.is_err() {
            recording.await;
        }
        drop(memory); // until here: the record had a copy of the submission
    }

    /// The report, or why there is none. On a timeout or a disconnect, work that has not started is
    /// abandoned and its slot is freed. A report that is done after the timeout is discarded.
    async fn end(&mut self, slot: Slot, limit: Duration) -> Result<Report, Unfinished> {
        let spec = self.spec.clone();
        tokio::select! {
            // In this order: if several are ready at once, a random choice would decide what is
            // recorded.
            biased;
            () = sleep_until(self.deadline) => Err(Unfinished::Late(limit)),
            done = slot.run(move || generate_blocking(&spec)) => done.map_err(Unfinished::from),
            () = self.client.closed() => Err(Unfinished::ClientGone),
        }
    }
}

impl From<WorkError> for Unfinished {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Panicked => Self::Panicked,
            WorkError::Closed => Self::ShutDown,
            WorkError::NoThread => Self::NoThread,
        }
    }
}

impl Unfinished {
    fn problem(self) -> Problem {
        match self {
            Self::Late(limit) => Problem::sync_timeout(limit),
            Self::ShutDown => Problem::shutting_down(),
            Self::NoThread => Problem::no_thread(),
            // Nobody reads the answer to a client that has gone.
            Self::Panicked | Self::ClientGone => Problem::report_failed(),
        }
    }

    fn failure(self) -> Failure {
        match self {
            Self::Late(limit) => Failure::new(
                FailureReason::SyncTimeout,
                format!("not done within {limit:?}"),
            ),
            Self::ClientGone => Failure::new(
                FailureReason::ClientGone,
                "the client disconnected before the answer",
            ),
            Self::Panicked => Failure::new(FailureReason::InternalError, "the work panicked"),
            Self::ShutDown => Failure::new(FailureReason::ShutDown, "the API was shut down"),
            Self::NoThread => {
                Failure::new(FailureReason::InternalError, "no thread can be started")
            }
        }
    }
}

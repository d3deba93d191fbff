//! `POST /sync`: the report while the client waits, on threads of its own.

use std::{pin::pin, sync::Arc, thread, time::Duration};

use storm_shared::{
    models::{ClientName, Failure, FailureReason, ReportSpec, RequestId},
    services::{
        report::{Report, generate_blocking},
        store::Store,
    },
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
    reply::{self, Problem},
    sync_pool::PoolRefusal,
    validation::Submission,
};

/// How long an answer waits for its record in the table, which is there before the answer unless
/// the database is slow.
const RECORDING: Duration = Duration::from_millis(500);

/// Does the report, and answers when it is done or out of time.
///
/// # Errors
/// The submission's own fault, no place left, or no report within the timeout.
pub async fn report(
    caller: Caller,
    app: Arc<App>,
    submission: Result<Submission, Problem>,
) -> Result<Response, Problem> {
    let spec = Arc::new(submission?.spec);
    let (id, arrived) = (RequestId::generate(), Instant::now());
    let work = Arc::clone(&spec);
    let ticket =
        app.pool
            .submit(move || generate_blocking(&work))
            .map_err(|refusal| match refusal {
                PoolRefusal::Full => Problem::saturated(),
                PoolRefusal::Stopped => Problem::shutting_down(),
            })?;
    let (client, answer) = oneshot::channel();
    let sync_request = SyncRequest {
        id,
        caller,
        arrived,
        spec,
        ticket,
        client,
    };
    // The client may leave, and its request is still recorded: so the rest is a task.
    app.sync_requests
        .spawn(sync_request.see_through(Arc::clone(&app)));
    answer
        .await
        .unwrap_or_else(|_| Err(Problem::report_failed()))
}

/// An admitted request.
struct SyncRequest {
    id: RequestId,
    caller: Caller,
    arrived: Instant,
    spec: Arc<ReportSpec>,
    ticket: oneshot::Receiver<thread::Result<Report>>,
    client: oneshot::Sender<Result<Response, Problem>>,
}

/// Why there is no report.
#[derive(Clone, Copy)]
enum Unfinished {
    Late(Duration),
    ClientGone,
    Broken,
    ShutDown,
}

impl SyncRequest {
    /// Waits for the report, records how it ended, and answers.
    async fn see_through(mut self, app: Arc<App>) {
        let ended = self.end(app.settings.api.sync_timeout).await;
        // Work that nobody waits for any more is not begun.
        self.ticket.close();
        let answer = match &ended {
            Ok(report) => Ok(reply::report(report)),
            Err(unfinished) => Err(unfinished.problem()),
        };
        let created_by = self.caller.name().cloned();
        let mut recording = pin!(record(&app.store, self.id, &self.spec, created_by, ended));
        let recorded = timeout(RECORDING, &mut recording).await;
        let _ = self.client.send(answer); // or the client is gone
        if recorded.is_err() {
            recording.await;
        }
    }

    /// The report, or why there is none. A report that is late is none.
    async fn end(&mut self, limit: Duration) -> Result<Report, Unfinished> {
        tokio::select! {
            biased;
            () = sleep_until(self.arrived + limit) => Err(Unfinished::Late(limit)),
            done = &mut self.ticket => match done {
                Ok(Ok(report)) => Ok(report),
                Ok(Err(_panic)) => Err(Unfinished::Broken),
                Err(_) => Err(Unfinished::ShutDown),
            },
            () = self.client.closed() => Err(Unfinished::ClientGone),
        }
    }
}

impl Unfinished {
    fn problem(self) -> Problem {
        match self {
            Self::Late(limit) => Problem::sync_timeout(limit),
            Self::ShutDown => Problem::shutting_down(),
            Self::Broken | Self::ClientGone => Problem::report_failed(),
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
                "the client left before the answer",
            ),
            Self::Broken => Failure::new(FailureReason::InternalError, "the work broke off"),
            Self::ShutDown => Failure::new(FailureReason::ShutDown, "the API was shut down"),
        }
    }
}

/// A record that can't be made changes nothing for the client: the work was good, or was not.
async fn record(
    store: &Store,
    id: RequestId,
    spec: &ReportSpec,
    created_by: Option<ClientName>,
    ended: Result<Report, Unfinished>,
) {
    let ended = ended.map_err(Unfinished::failure);
    let recorded = store.record_sync(id, spec, created_by, ended.as_ref());
    if let Err(error) = recorded.await {
        error!(id = %id, %error, "a sync request could not be recorded");
    }
}

//! Answers that wait for a result: to submissions with `Prefer: wait`, and to look-ups with
//! `?wait`.

use storm_shared::{
    memory::{MemoryBudget, Reservation},
    models::{Request, RequestId, Status},
    services::store::Progress,
};
use tokio::time::Instant;
use warp::reply::Response;

use super::store_problem;
use crate::{
    app::App,
    auth::Caller,
    body::LIMIT,
    prefer::Prefer,
    reply::{self, Problem, Submitted},
    waiters::WaitEnd,
};

/// Answers `200` with the result of what was submitted as soon as it is stored, or else the `202`
/// at `deadline`. The job is accepted: whatever hinders the wait, the answer is the `202`.
pub(super) async fn result_of(
    submitted: Submitted,
    prefer: Prefer,
    deadline: Instant,
    caller: &Caller,
    app: &App,
) -> Response {
    // A job without a callback is over when its result is stored, or a moment later.
    let goal = if submitted.callback.is_some() {
        Progress::Worked
    } else {
        Progress::Over
    };
    let Ok(waiter) = app.waiters.wait_for(caller.name(), submitted.id) else {
        return reply::not_waited(&submitted, prefer);
    };
    match waiter.until(goal, deadline).await {
        WaitEnd::Late => reply::waited(&submitted, prefer),
        WaitEnd::Stopped => reply::not_waited(&submitted, prefer),
        WaitEnd::Reached => match in_turn(submitted.id, caller, app).await {
            Ok((request, memory)) => reply::result(&submitted, prefer, &request, memory),
            // The client looks the result up.
            Err(_) => reply::not_waited(&submitted, prefer),
        },
    }
}

/// Answers with the request once it is over, or as it is at `deadline`.
///
/// # Errors
/// Those of [`look_up`], or all permits to wait are taken.
pub(super) async fn end_of(
    id: RequestId,
    deadline: Instant,
    caller: &Caller,
    app: &App,
) -> Result<Response, Problem> {
    // First: a request that the caller may not see is not waited for. Its bodies are dropped here.
    if let (request, memory) = look_up(id, caller, app).await?
        && matches!(request.status, Status::Completed | Status::Failed)
    {
        return Ok(reply::request(&request, memory));
    }
    let waiter = app.waiters.wait_for(caller.name(), id);
    let waiter = waiter.map_err(|_| Problem::too_many_waiters())?;
    waiter.until(Progress::Over, deadline).await;
    let (request, memory) = in_turn(id, caller, app).await?;
    Ok(reply::request(&request, memory))
}

/// [`look_up`] for one who has waited.
async fn in_turn(
    id: RequestId,
    caller: &Caller,
    app: &App,
) -> Result<(Request, Reservation), Problem> {
    let _turn = app.waiters.turn().await;
    look_up(id, caller, app).await
}

/// The request with this id, if it is within the caller's scope, and the memory for its answer.
///
/// # Errors
/// There is none, its payload and result don't fit into the memory budget, or the store failed.
pub(super) async fn look_up(
    id: RequestId,
    caller: &Caller,
    app: &App,
) -> Result<(Request, Reservation), Problem> {
    let request = app
        .store
        .find_within(caller.scope(), id)
        .await
        .map_err(|error| store_problem(id, &error))?;
    let request = request.ok_or_else(Problem::no_such_request)?;
    let memory = reserve(&request, &app.memory)?;
    Ok((request, memory))
}

/// Reserves what a large request takes in its answer, until a slow client has read it. Small ones
/// are shown whatever else there is.
fn reserve(request: &Request, memory: &MemoryBudget) -> Result<Reservation, Problem> {
    let result = request.result_payload.as_ref();
    let bytes = request.input_payload.get().len() + result.map_or(0, |it| it.get().len());
    let mut reserved = memory.reservation();
    if bytes > LIMIT {
        // One that is larger than the budget takes all of it.
        let grown = reserved.try_grow(bytes.min(memory.limit()));
        grown.map_err(|_| Problem::memory_budget_exceeded())?;
    }
    Ok(reserved)
}

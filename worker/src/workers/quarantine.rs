//! The loop that claims poison suspects: jobs whose worker died while it held them.
//!
//! With each lost claim a job takes more slots, so it runs beside fewer others, and at last alone:
//! a worker that dies then was killed by this job. Waiting for many slots holds up all other jobs,
//! so the wait is bounded, and a pause of the same length follows it. After each failed wait both
//! double, so that the suspect gets its slots in the end.

use std::{sync::Arc, time::Duration};

use storm_shared::services::store::{Candidate, StoreError};
use tracing::warn;

use super::{
    callback_worker::Terms,
    intake::{BATCH, Intake, PAUSE_AFTER_ERROR},
    lease::Lease,
};
use crate::metrics::ClaimSource;

/// The first wait for slots.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The longest wait for slots. The longest report and its callback take less.
const LONGEST_WAIT: Duration = Duration::from_mins(30);

/// Claims suspects until shutdown. Those that this worker reclaims under `lease` it claims at once.
pub(super) async fn from_table(intake: Intake, lease: Arc<Lease>) {
    let mut wait = FIRST_WAIT;
    loop {
        let pause = match claim_some(&intake, wait).await {
            Ok(Claimed::Some) => {
                wait = FIRST_WAIT;
                Duration::ZERO
            }
            Ok(Claimed::None) => {
                wait = FIRST_WAIT;
                let reclaimed = tokio::time::timeout(intake.interval, lease.reclaimed());
                if intake.wait_for(reclaimed).await.is_none() {
                    return;
                }
                Duration::ZERO
            }
            Ok(Claimed::TimedOut) => {
                let pause = wait;
                wait = (wait * 2).min(LONGEST_WAIT);
                pause
            }
            Err(error) => {
                warn!(%error, "poison suspects could not be claimed");
                PAUSE_AFTER_ERROR
            }
        };
        if intake.pause(pause).await.is_none() {
            return;
        }
    }
}

enum Claimed {
    Some,
    /// There are no suspects.
    None,
    /// Too few slots became free in time.
    TimedOut,
}

/// Takes the suspects with the fewest lost claims, and claims as many of them as fit.
async fn claim_some(intake: &Intake, wait: Duration) -> Result<Claimed, StoreError> {
    let Some((suspects, are_overdue)) = intake.found(find(intake)).await? else {
        return Ok(Claimed::None); // shutdown
    };
    // Jobs with equal lost claims take equal numbers of slots, so they can share one batch.
    let Some(alike) = suspects
        .chunk_by(|one, next| one.lost_claims == next.lost_claims)
        .next()
    else {
        return Ok(Claimed::None);
    };
    // Before it waits for slots: the other loops claim as soon as there is room in the memory
    // budget, and would leave none whenever there are slots. Those that wait for room hold none.
    let Some(memory) = intake.reserve().await else {
        return Ok(Claimed::None); // shutdown
    };
    let slots_per_job = intake.slots.per_job(alike[0].lost_claims);
    // After the timeout, the wait leaves the semaphore's FIFO queue and the jobs behind it
    // continue.
    let slots = intake.slots.take(slots_per_job, alike.len());
    let slots = tokio::time::timeout(wait, slots);
    let mut slots = match intake.wait_for(slots).await {
        Some(Ok(slots)) => slots,
        Some(Err(_)) => return Ok(Claimed::TimedOut),
        None => return Ok(Claimed::None), // shutdown
    };
    let gathered = intake.slots.gather(&mut slots, slots_per_job, alike.len());
    intake.watchdog.while_waiting(gathered).await;
    let together = slots.num_permits() / slots_per_job as usize;
    intake
        .worker
        .claim(
            &alike[..together],
            slots,
            memory,
            // Long suspects take what room there is, and wait for none: with a steady supply of
            // long jobs they would wait for ever.
            &mut intake.shares.room_for_long(together),
            Terms {
                slots_per_job,
                are_overdue,
                source: ClaimSource::Quarantine,
            },
        )
        .await?;
    Ok(Claimed::Some)
}

/// Suspects, and whether they pass an open circuit breaker. The others of a handler whose breaker
/// is open stay in the table: a suspect may take all slots, only to be parked.
async fn find(intake: &Intake) -> Result<(Vec<Candidate>, bool), StoreError> {
    let (pass, wait) = intake.handlers.by_gate();
    if !wait.is_empty() {
        let overdue = intake.store.overdue_suspects(&wait, intake.park_max, BATCH);
        let overdue = overdue.await?;
        // They are few, and each gets its attempt now, so that the other suspects do not wait long.
        if !overdue.is_empty() {
            return Ok((overdue, true));
        }
    }
    Ok((intake.store.suspects(&pass, BATCH).await?, false))
}

//! The injection and healing of each kind of fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use super::{FaultInjector, StoppedWorker};
use crate::chaos::{
    clock,
    history::Fault,
    plan::{FaultKind, PlannedFault},
    process::Process,
    proxy::ProxyMode,
    receivers::ReceiverMode,
    redis_server::RedisServer,
    stack::STOP_TIMEOUT,
    worker::Worker,
};

/// The file size limit that simulates a full disk: the WAL index (`-shm`) fits, the WAL does not.
const FULL_DISK: u64 = 64 << 10;

/// Receivers respond this slowly before a freeze, so that it hits attempts in flight; and they do
/// so for this long before the freeze.
const SLOW: Duration = Duration::from_millis(400);
const SLOW_BEFORE: Duration = Duration::from_millis(300);

/// How long a freeze waits for the worker to hold a redelivery. Workers look for due ones once a
/// second.
const REDELIVERY_WAIT: Duration = Duration::from_secs(3);

/// The delay per chunk on a slow network: one to four times this.
const DELAY: Duration = Duration::from_millis(50);

/// How long the services may take to use a new master, on a machine under load. They check an idle
/// connection every second.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(15);

/// The sizes of clock steps, in seconds: 3 to 60 s, and 10 min to 3 days.
const SHORT_STEP: (f64, f64) = (3.0, 60.0);
const LONG_STEP: (f64, f64) = (600.0, 259_200.0);

/// How often the new master is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl FaultInjector<'_> {
    /// Injects one fault and heals it after its time. Returns the name of the target; none for a
    /// receiver fault, which runs concurrently and heals itself.
    pub(super) async fn inject(
        &mut self,
        planned: PlannedFault,
        fault: &Fault,
    ) -> Result<Option<String>> {
        let PlannedFault { target, hold, .. } = planned;
        let api = target % self.stack.apis.len();
        let worker = target % self.stack.workers.len();
        let target = match planned.kind {
            FaultKind::KillApi => self.kill_api(api, hold).await?,
            FaultKind::KillWorker => self.kill_worker(worker, hold).await?,
            FaultKind::FreezeWorker => self.freeze_worker(worker, hold).await?,
            FaultKind::DeployApi => self.deploy_api(api).await?,
            FaultKind::DeployWorker => self.deploy_worker(worker).await?,
            FaultKind::KillRedis => self.kill_redis(hold, Data::Kept).await?,
            FaultKind::RedisRestartedEmpty => self.kill_redis(hold, Data::Lost).await?,
            FaultKind::Flushall => self.flush_redis().await?,
            FaultKind::RedisCut => self.network(ProxyMode::Cut, hold).await,
            FaultKind::RedisHalfOpen => self.network(ProxyMode::HalfOpen, hold).await,
            FaultKind::RedisDelayed => {
                let delay = DELAY * [1, 2, 3, 4][target % 4];
                self.network(ProxyMode::Delayed(delay), hold).await
            }
            FaultKind::RedisFailover => self.fail_redis_over().await?,
            FaultKind::DiskFull => self.fill_disk(hold).await?,
            FaultKind::ClockBack | FaultKind::ClockForward => self.step_clock(planned).await?,
            FaultKind::ReceiverFails => {
                self.break_receiver(planned, ReceiverMode::Error, fault);
                return Ok(None);
            }
            FaultKind::ReceiverHangs => {
                self.break_receiver(planned, ReceiverMode::Hang, fault);
                return Ok(None);
            }
            FaultKind::ReceiverCuts => {
                self.break_receiver(planned, ReceiverMode::Disconnect, fault);
                return Ok(None);
            }
            #[cfg(feature = "postgres")]
            kind => self.break_database(kind, target, hold).await?,
            #[cfg(not(feature = "postgres"))]
            kind => anyhow::bail!("no plan of SQLite has {kind}"),
        };
        Ok(Some(target))
    }

    async fn kill_api(&mut self, index: usize, pause: Duration) -> Result<String> {
        let api = &mut self.stack.apis[index];
        api.kill();
        sleep(pause).await;
        api.start().await?;
        Ok(api.name().to_owned())
    }

    async fn kill_worker(&mut self, index: usize, pause: Duration) -> Result<String> {
        let worker = &mut self.stack.workers[index];
        // Timed before the kill, so that the recovery time is never underestimated.
        let stopped = stopped_now(index, worker).await;
        worker.service().kill();
        self.injected.killed.extend(stopped);
        sleep(pause).await;
        worker.start(&self.stack.audit).await?;
        Ok(worker.service().name().to_owned())
    }

    async fn freeze_worker(&mut self, index: usize, beyond: Duration) -> Result<String> {
        // Receivers that another fault has broken keep their mode.
        self.receivers
            .change(ReceiverMode::Healthy, ReceiverMode::Slow(SLOW));
        sleep(SLOW_BEFORE).await;
        self.redelivery_held_by(index).await;
        let worker = &mut self.stack.workers[index];
        let stopped = stopped_now(index, worker).await;
        let frozen = worker.service().process().and_then(Process::freeze);
        self.receivers
            .change(ReceiverMode::Slow(SLOW), ReceiverMode::Healthy);
        // Only now, so that receivers are healthy again even if the freeze failed.
        frozen?;
        sleep(self.lease + beyond).await;
        worker.thaw(&self.stack.audit).await?;
        self.injected
            .frozen
            .extend(stopped.map(|stopped| StoppedWorker {
                until: clock::now(),
                ..stopped
            }));
        Ok(worker.service().name().to_owned())
    }

    /// Waits until a worker holds a redelivery, at most `REDELIVERY_WAIT`: few of its jobs are one.
    async fn redelivery_held_by(&self, index: usize) {
        let start = Instant::now();
        while start.elapsed() < REDELIVERY_WAIT {
            let owner = self.stack.workers[index].owner().await.unwrap_or_default();
            // An error is none of this fault's: without an answer it goes on.
            if !matches!(self.stack.audit.holds_redelivery(&owner).await, Ok(false)) {
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn deploy_api(&mut self, index: usize) -> Result<String> {
        let api = &mut self.stack.apis[index];
        // Started again even after an unclean shutdown, which is a violation: the run goes on.
        let ended = api.stop(STOP_TIMEOUT).await;
        api.start().await?;
        ended.map(|()| api.name().to_owned())
    }

    async fn deploy_worker(&mut self, index: usize) -> Result<String> {
        let worker = &mut self.stack.workers[index];
        let ended = worker.service().stop(STOP_TIMEOUT).await;
        worker.start(&self.stack.audit).await?;
        ended.map(|()| worker.service().name().to_owned())
    }

    async fn kill_redis(&mut self, pause: Duration, data: Data) -> Result<String> {
        let redis = &mut self.stack.redis;
        redis.kill();
        if data == Data::Lost {
            redis.remove_data()?;
        }
        sleep(pause).await;
        redis.start().await?;
        Ok("redis".to_owned())
    }

    async fn flush_redis(&mut self) -> Result<String> {
        self.stack.redis.flush().await?;
        self.injected.flushed.push(clock::now());
        Ok("redis".to_owned())
    }

    /// Fails over, and waits until the services have followed: the API notifies through the new
    /// master, and the workers acknowledge there.
    async fn fail_redis_over(&mut self) -> Result<String> {
        self.stack.fail_over().await?;
        self.injected.failed_over.push(clock::now());
        // Only now: a replica also counts what its master sends.
        let before = used(&self.stack.redis).await?;
        let start = Instant::now();
        loop {
            let now = used(&self.stack.redis).await?;
            if now.iter().zip(before).all(|(now, before)| *now > before) {
                return Ok("redis".to_owned());
            }
            ensure!(
                start.elapsed() < FOLLOWED_WITHIN,
                "no notification reached the new master, or none was acknowledged there, within {} s",
                FOLLOWED_WITHIN.as_secs()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn network(&mut self, network: ProxyMode, hold: Duration) -> String {
        self.stack.proxy.set(network);
        sleep(hold).await;
        self.stack.proxy.set(ProxyMode::Normal);
        "redis".to_owned()
    }

    async fn fill_disk(&mut self, hold: Duration) -> Result<String> {
        // A write past the limit raises SIGXFSZ (setrlimit(2)). The services handle the signal, so
        // the write fails as on a full disk.
        for service in self.stack.services() {
            service.process()?.limit_files(Some(FULL_DISK))?;
        }
        sleep(hold).await;
        for service in self.stack.services() {
            service.process()?.limit_files(None)?;
        }
        Ok("all".to_owned())
    }

    /// Steps the clock, and waits until the services have followed. It is never corrected, so the
    /// run has to settle with a wrong clock.
    async fn step_clock(&mut self, planned: PlannedFault) -> Result<String> {
        let forward = planned.kind == FaultKind::ClockForward;
        let steps = &mut self.clock_steps[usize::from(forward)];
        *steps += 1;
        // By turns, so that each deck has both sizes in both directions.
        let range = if steps.is_multiple_of(2) {
            LONG_STEP
        } else {
            SHORT_STEP
        };
        let size = SignedDuration::from_secs(step_seconds(range, planned.target));
        let by = if forward { size } else { -size };
        self.stack.step_clock(by).await?;
        Ok(format!("{:+}s", by.as_secs()))
    }
}

/// The size of a clock step in seconds: one of two ranges, and within it `target`, evenly by
/// magnitude.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the fraction need not be exact, and the size is at most three days"
)]
fn step_seconds((least, most): (f64, f64), target: usize) -> i64 {
    let fraction = target as f64 / usize::MAX as f64;
    (least * (most / least).powf(fraction)).round() as i64
}

/// How often each command of a notification's way was executed there.
async fn used(redis: &RedisServer) -> Result<[u64; 3]> {
    redis.executed(["xadd", "xreadgroup", "xack"]).await
}

/// Whether Redis' data survives the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Kept,
    Lost,
}

async fn stopped_now(index: usize, worker: &Worker) -> Option<StoppedWorker> {
    // Without an answer, nothing says which jobs recover from this fault: none is measured.
    let owner = worker.owner().await?;
    Some(StoppedWorker {
        at: clock::now(),
        worker: index,
        until: Timestamp::MAX,
        owner,
    })
}

#[cfg(test)]
mod tests {
    use super::{LONG_STEP, SHORT_STEP, step_seconds};

    #[test]
    fn a_clock_step_is_of_seconds_or_up_to_days() {
        assert_eq!(step_seconds(SHORT_STEP, 0), 3);
        assert_eq!(step_seconds(SHORT_STEP, usize::MAX), 60);
        assert_eq!(step_seconds(LONG_STEP, 0), 600);
        assert_eq!(step_seconds(LONG_STEP, usize::MAX / 2), 12_471);
        assert_eq!(step_seconds(LONG_STEP, usize::MAX), 3 * 86_400);
    }
}

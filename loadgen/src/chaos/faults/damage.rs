//! How each thing is broken and healed again.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use tokio::time::sleep;

use super::{Saboteur, Stopped};
use crate::chaos::{
    history::Fault,
    plan::{Kind, Planned},
    process::Process,
    proxy::Network,
    receivers::Manner,
    stack::{PATIENCE_TO_END, WORKERS},
    worker::Worker,
};

/// How large a file may become while the disk is full: the index of the log fits, the log doesn't.
const FULL_DISK: u64 = 64 << 10;

/// How slow receivers are around a freeze, so that it meets attempts that have begun; and how long
/// they have been so at that moment.
const SLOW: Duration = Duration::from_millis(400);
const SLOW_BEFORE: Duration = Duration::from_millis(300);

/// What each packet takes on a slow network: one to four times this.
const DELAY: Duration = Duration::from_millis(50);

impl Saboteur<'_> {
    /// Breaks something for its time. Says what it was, once it is healed; nothing where it goes on
    /// beside the others, and heals by itself.
    pub(super) async fn damage(
        &mut self,
        planned: Planned,
        fault: &Fault,
    ) -> Result<Option<String>> {
        let Planned { target, hold, .. } = planned;
        let target = match planned.kind {
            Kind::KillApi => self.kill_api(hold).await?,
            Kind::KillWorker => self.kill_worker(target % WORKERS, hold).await?,
            Kind::FreezeWorker => self.freeze_worker(target % WORKERS, hold).await?,
            Kind::DeployApi => self.deploy_api().await?,
            Kind::DeployWorker => self.deploy_worker(target % WORKERS).await?,
            Kind::KillRedis => self.kill_redis(hold, Data::Kept).await?,
            Kind::RedisRestartedEmpty => self.kill_redis(hold, Data::Lost).await?,
            Kind::Flushall => self.flush_redis().await?,
            Kind::RedisCut => self.network(Network::Cut, hold).await,
            Kind::RedisHalfOpen => self.network(Network::HalfOpen, hold).await,
            Kind::RedisDelayed => {
                let delay = DELAY * [1, 2, 3, 4][target % 4];
                self.network(Network::Delayed(delay), hold).await
            }
            Kind::DiskFull => self.fill_disk(hold).await?,
            Kind::ReceiverFails => {
                self.misbehave(planned, Manner::Fails, fault);
                return Ok(None);
            }
            Kind::ReceiverHangs => {
                self.misbehave(planned, Manner::Hangs, fault);
                return Ok(None);
            }
            Kind::ReceiverCuts => {
                self.misbehave(planned, Manner::Cuts, fault);
                return Ok(None);
            }
        };
        Ok(Some(target))
    }

    async fn kill_api(&mut self, pause: Duration) -> Result<String> {
        self.stack.api.kill();
        sleep(pause).await;
        self.stack.api.start().await?;
        Ok("api".to_owned())
    }

    async fn kill_worker(&mut self, index: usize, pause: Duration) -> Result<String> {
        let worker = &mut self.stack.workers[index];
        let stopped = stopped_now(index, worker);
        worker.service().kill();
        self.done.killed.extend(stopped);
        sleep(pause).await;
        worker.start(&self.stack.audit).await?;
        Ok(worker.service().name().to_owned())
    }

    async fn freeze_worker(&mut self, index: usize, beyond: Duration) -> Result<String> {
        self.receivers.change(Manner::Answers, Manner::Slow(SLOW));
        sleep(SLOW_BEFORE).await;
        let worker = &mut self.stack.workers[index];
        let stopped = stopped_now(index, worker);
        let frozen = worker.service().process().and_then(Process::freeze);
        self.receivers.change(Manner::Slow(SLOW), Manner::Answers);
        frozen?;
        sleep(self.lease + beyond).await;
        worker.thaw(&self.stack.audit).await?;
        self.done.frozen.extend(stopped.map(|stopped| Stopped {
            until: Timestamp::now(),
            ..stopped
        }));
        Ok(worker.service().name().to_owned())
    }

    async fn deploy_api(&mut self) -> Result<String> {
        let ended = self.stack.api.stop(PATIENCE_TO_END).await;
        self.stack.api.start().await?;
        ended.map(|()| "api".to_owned())
    }

    async fn deploy_worker(&mut self, index: usize) -> Result<String> {
        let worker = &mut self.stack.workers[index];
        let ended = worker.service().stop(PATIENCE_TO_END).await;
        worker.start(&self.stack.audit).await?;
        ended.map(|()| worker.service().name().to_owned())
    }

    async fn kill_redis(&mut self, pause: Duration, data: Data) -> Result<String> {
        let redis = &mut self.stack.redis;
        redis.kill();
        if data == Data::Lost {
            redis.forget()?;
        }
        sleep(pause).await;
        redis.start().await?;
        Ok("redis".to_owned())
    }

    async fn flush_redis(&mut self) -> Result<String> {
        self.stack.redis.flush().await?;
        self.done.flushed.push(Timestamp::now());
        Ok("redis".to_owned())
    }

    async fn network(&mut self, network: Network, hold: Duration) -> String {
        self.stack.proxy.set(network);
        sleep(hold).await;
        self.stack.proxy.set(Network::Well);
        "redis".to_owned()
    }

    async fn fill_disk(&mut self, hold: Duration) -> Result<String> {
        for service in self.stack.services() {
            service.process()?.limit_files(Some(FULL_DISK))?;
        }
        sleep(hold).await;
        for service in self.stack.services() {
            service.process()?.limit_files(None)?;
        }
        Ok("all".to_owned())
    }
}

/// What becomes of Redis' data when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Kept,
    Lost,
}

fn stopped_now(index: usize, worker: &Worker) -> Option<Stopped> {
    let owner = worker.owner()?.to_owned();
    Some(Stopped {
        at: Timestamp::now(),
        worker: index,
        until: Timestamp::MAX,
        owner,
    })
}

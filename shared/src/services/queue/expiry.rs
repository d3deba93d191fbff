//! The expiry of handlers' streams, so that Redis deletes the stream of a handler that was removed.
//!
//! While the stream is in use, the API and the workers put its expiry off once an hour. An expiry
//! that comes too early loses notifications only: the table has the jobs. Without permission for
//! `EXPIRE`, the stream stays.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use redis::Cmd;

use super::Queue;
use crate::models::HandlerName;

/// How long an unused stream is kept.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// How often the expiry is put off.
const PERIOD: Duration = Duration::from_hours(1);

/// When the expiry of one stream, which this process reads, was put off last.
pub(super) struct Expiry(Option<Instant>);

impl Expiry {
    /// At once.
    pub(super) fn new() -> Self {
        Self(None)
    }

    /// The command that puts off the expiry of the stream of `queue`, if it is time for that.
    pub(super) fn put_off(&mut self, queue: &Queue) -> Option<Cmd> {
        if !queue.is_of_handler || self.0.is_some_and(|last| last.elapsed() < PERIOD) {
            return None;
        }
        self.0 = Some(Instant::now());
        Some(put_off(&queue.key))
    }
}

/// When the expiry of each stream that this process writes to was put off last.
#[derive(Default)]
pub(super) struct Expiries(HashMap<HandlerName, Instant>);

impl Expiries {
    /// The commands that put off the expiry of the streams of the handlers in `written`, if it is
    /// time for that.
    pub(super) fn put_off<'a>(
        &mut self,
        queue: &Queue,
        written: impl Iterator<Item = &'a HandlerName>,
    ) -> Vec<Cmd> {
        let mut commands = Vec::new();
        for handler in written.filter(|it| **it != HandlerName::REPORT) {
            let last = self.0.get(handler);
            if last.is_some_and(|last| last.elapsed() < PERIOD) {
                continue;
            }
            // Forgets those of handlers that are gone.
            self.0.retain(|_, last| last.elapsed() < PERIOD);
            self.0.insert(handler.clone(), Instant::now());
            commands.push(put_off(&queue.key_of(handler)));
        }
        commands
    }
}

fn put_off(key: &str) -> Cmd {
    let mut command = redis::cmd("EXPIRE");
    command.arg(key).arg(KEPT.as_secs());
    command
}

//! Commits that wait for a synchronous standby which does not come.
//!
//! Such a commit keeps its server process also after our connection was dropped, until the standby
//! is back. Were writes tried again and again, these would take up all connections of the server.
//! So after a deadline, one question decides whether commits still wait; meanwhile no write begins.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often it is asked whether commits still wait.
const PERIOD: Duration = Duration::from_secs(1);

/// SQL for whether a commit of this role has been waiting for a standby for long.
pub(super) const IS_WAITING: &str = "SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND usename = current_user
        AND query_start < clock_timestamp() - interval '5 seconds')";

/// What a write is told that does not begin.
pub(super) const WAITING: &str = "commits wait for a synchronous standby that does not answer: \
    start it, or take it out of synchronous_standby_names";

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It begins.
    Begin,
    /// It asks first.
    Ask,
    /// It fails: commits wait, or another write asks.
    Fail,
}

/// Whether commits may be waiting.
#[derive(Default)]
pub(super) struct Stall {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Flowing,
    /// A commit was not answered in time. When the last question began, if there was one.
    Stalled(Option<Instant>),
}

impl Stall {
    /// A commit was not answered in time.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Flowing) {
            *state = State::Stalled(None);
        }
    }

    /// No commit waits.
    pub(super) fn end(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Flowing;
    }

    /// What the next write does.
    pub(super) fn turn(&self) -> Turn {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Flowing => Turn::Begin,
            State::Stalled(Some(asked)) if asked.elapsed() < PERIOD => Turn::Fail,
            State::Stalled(asked) => {
                *asked = Some(Instant::now());
                Turn::Ask
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stall, Turn};

    #[test]
    fn of_the_writes_during_a_stall_one_asks_and_the_others_fail() {
        let stall = Stall::default();
        assert_eq!(stall.turn(), Turn::Begin);
        stall.begin();
        assert_eq!((stall.turn(), stall.turn()), (Turn::Ask, Turn::Fail));
        // Another late answer does not begin it anew.
        stall.begin();
        assert_eq!(stall.turn(), Turn::Fail);
        stall.end();
        assert_eq!(stall.turn(), Turn::Begin);
    }
}

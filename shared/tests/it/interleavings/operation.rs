//! What may happen next, as a generator can say it without knowing what is there.
//!
//! A crash and a freeze are no operations but their absence: a worker that is not chosen for a while
//! was frozen, one that is never chosen again has crashed, and who is chosen may use any claim that it
//! ever won, any row that it ever saw waiting, and any heartbeat that it ever saw.

use std::{fmt, ops::Range};

use proptest::{collection::vec, prelude::*};

/// One operation. Every index counts back from the newest thing of its kind, and around.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// The API accepts a job, and the notifier rings for it.
    Accept,
    /// A process starts.
    Enter,
    /// A worker enters once more, for it has heard nothing of the first time.
    EnterAgain { worker: usize },
    /// A worker renews its lease, and sees the heartbeats of the others.
    Renew { worker: usize },
    /// A worker gives back all that it has, and goes.
    Resign { worker: usize },
    /// Somebody looks for jobs that wait.
    Look { limit: usize },
    /// A worker claims `count` jobs that somebody saw waiting or that the notifier rang for; it may be
    /// `mistaken` in how many claims they have lost.
    Claim {
        worker: usize,
        seen: usize,
        count: usize,
        mistaken: bool,
    },
    /// A worker that somebody saw is declared dead.
    Expire { sighting: usize, max_claims: u32 },
    /// Somebody writes to the job of a claim: who won it, unless it is `forged`.
    Write {
        claim: usize,
        forged: bool,
        what: What,
    },
}

/// What is written to a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Its report is made.
    Report,
    /// Its attempt failed, and the next one is due.
    Retry(Due),
    /// No attempt was made, for its receiver's sake, and one is due at once.
    Park,
    /// Its receiver has it.
    Complete,
    /// Its last attempt failed.
    GiveUp,
    /// Its callback is forbidden: no attempt was made.
    Refuse,
}

/// When a retry is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Now,
    InAnHour,
    /// Later than any wait: the clock must have been set back.
    BeyondEveryWait,
}

/// Some workers and jobs, and what happens to them.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) workers: usize,
    pub(super) jobs: usize,
    pub(super) script: Script,
}

/// What happens, in order. It is printed a line each.
#[derive(Clone)]
pub(super) struct Script(pub(super) Vec<Operation>);

/// All that happens, one after the other.
pub(super) fn case() -> impl Strategy<Value = Case> {
    (2..=4usize, 1..=3usize, script(1..50)).prop_map(|(workers, jobs, script)| Case {
        workers,
        jobs,
        script,
    })
}

/// What each of some rivals does.
pub(super) fn scripts() -> impl Strategy<Value = Vec<Script>> {
    vec(script(10..30), 2..=5)
}

/// Mostly single operations; and a few in a row that alone would seldom meet.
fn script(length: Range<usize>) -> impl Strategy<Value = Script> {
    let scene = prop_oneof![
        12 => operation().prop_map(|operation| vec![operation]),
        1 => (1..=3usize, 2..=5u32).prop_map(|(count, max_claims)| death(count, max_claims)),
        1 => (worker(), 1..=3usize).prop_map(|(worker, count)| give_back(worker, count)),
        1 => (worker(), 0..5usize, what())
            .prop_map(|(worker, claim, what)| again(worker, claim, what)),
    ];
    vec(scene, length).prop_map(|scenes| Script(scenes.concat()))
}

/// A new worker takes up to `count` jobs and dies with them.
fn death(count: usize, max_claims: u32) -> Vec<Operation> {
    let [look, claim] = take(0, count);
    let renew = Operation::Renew { worker: 0 };
    let expire = Operation::Expire {
        sighting: 0,
        max_claims,
    };
    vec![
        Operation::Enter,
        look,
        claim,
        Operation::Enter,
        renew,
        expire,
    ]
}

/// A worker takes up to `count` jobs and gives them back.
fn give_back(worker: usize, count: usize) -> Vec<Operation> {
    let [look, claim] = take(worker, count);
    vec![look, claim, Operation::Resign { worker }]
}

/// A worker takes jobs, has to try one again, takes that again, and writes, maybe with an old claim.
fn again(worker: usize, claim: usize, what: What) -> Vec<Operation> {
    let write = |claim, what| Operation::Write {
        claim,
        forged: false,
        what,
    };
    let [look, take_all] = take(worker, 4);
    let retry = write(0, What::Retry(Due::Now));
    vec![look, take_all, retry, look, take_all, write(claim, what)]
}

fn take(worker: usize, count: usize) -> [Operation; 2] {
    let claim = Operation::Claim {
        worker,
        seen: 0,
        count,
        mistaken: false,
    };
    [Operation::Look { limit: count }, claim]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{Accept, Claim, Enter, EnterAgain, Expire, Look, Renew, Resign, Write};
    prop_oneof![
        2 => Just(Accept),
        2 => Just(Enter),
        1 => worker().prop_map(|worker| EnterAgain { worker }),
        4 => worker().prop_map(|worker| Renew { worker }),
        1 => worker().prop_map(|worker| Resign { worker }),
        4 => (1..=5usize).prop_map(|limit| Look { limit }),
        6 => (worker(), 0..8usize, 1..=4usize, prop::bool::weighted(0.1)).prop_map(
            |(worker, seen, count, mistaken)| Claim { worker, seen, count, mistaken }
        ),
        4 => (0..6usize, 2..=5u32)
            .prop_map(|(sighting, max_claims)| Expire { sighting, max_claims }),
        6 => (0..8usize, prop::bool::weighted(0.1), what())
            .prop_map(|(claim, forged, what)| Write { claim, forged, what }),
    ]
}

/// The newest are the most likely to be alive.
fn worker() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 2 => 0..4usize]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Report),
        4 => due().prop_map(What::Retry),
        1 => Just(What::Park),
        1 => Just(What::Complete),
        1 => Just(What::GiveUp),
        1 => Just(What::Refuse),
    ]
}

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![
        3 => Just(Due::Now),
        1 => Just(Due::InAnHour),
        1 => Just(Due::BeyondEveryWait),
    ]
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|operation| write!(f, "\n    {operation:?}"))
    }
}

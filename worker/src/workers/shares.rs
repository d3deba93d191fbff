//! Fair shares of a worker's slots: how many jobs of each tenant it runs, and how many long ones.
//!
//! * A free slot goes to the tenant with due jobs that holds the fewest. The store's search does
//!   that; this file counts what is held.
//! * A notification is claimed directly while its tenant holds less than its share: the slots
//!   divided by the tenants that hold some or wait. While nobody waits, the share is all of them.
//!   Beyond it, the job is left to the search, so that no notification jumps the queue. So is a
//!   long job while others wait for room.
//! * Long jobs get three quarters of the slots, so that short ones never wait for a long one to
//!   end.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::{
    models::{ClientName, HandlerName},
    services::{
        queue::Notified,
        store::{Candidate, Capacity, Job, Sought},
    },
};
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::next_due::NextDue;
use crate::room::{Permits, Room};

type Tenant = Option<ClientName>;

/// The jobs of a kind that a worker holds, by tenant, and the room for long ones. Clones share it.
#[derive(Clone)]
pub(super) struct Shares {
    sought: Sought,
    slots: usize,
    tenants: Arc<Mutex<Tenants>>,
    /// Of a handler: for each of its jobs.
    long: Room,
    /// Whose turn it is to take room for long jobs.
    turn: Arc<tokio::sync::Mutex<()>>,
    next_due: NextDue,
}

#[derive(Default)]
struct Tenants {
    held: HashMap<Tenant, usize>,
    /// Those whose due jobs the last search left in the table, although there was room for their
    /// kind.
    waiting: HashSet<Tenant>,
    /// Whether the last search left long jobs in the table.
    long_jobs_wait: bool,
}

/// Room for long jobs, taken before they are claimed. What is left is free again when it is
/// dropped.
pub(super) struct LongRoom {
    shares: Shares,
    room: Permits,
    /// After `room`: the next loop finds what is dropped with it.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// A job that counts for its tenant, until it is dropped.
pub(super) struct Share {
    shares: Shares,
    tenant: Tenant,
    /// Whether it still counts for its tenant.
    is_held: bool,
    long: Option<Permits>,
}

impl Shares {
    /// Those of a worker with `slots` slots, of which `of_handlers` are kept for the work of
    /// handlers. It wakes the search by `next_due` when there is room for a long job again.
    pub(super) fn common(slots: usize, of_handlers: usize, next_due: NextDue) -> Self {
        let shares = Self::new(Sought::Common, slots, Room::new(0), next_due);
        shares.keep_for_handlers(of_handlers);
        shares
    }

    /// Those of a handler: each of its jobs needs `room`.
    pub(super) fn of_handler(handler: HandlerName, room: Room, next_due: NextDue) -> Self {
        let slots = room.permits();
        Self::new(Sought::WorkOf(handler), slots, room, next_due)
    }

    fn new(sought: Sought, slots: usize, long: Room, next_due: NextDue) -> Self {
        Self {
            sought,
            slots,
            tenants: Arc::default(),
            long,
            turn: Arc::default(),
            next_due,
        }
    }

    /// Whether each of them needs room, until its work is done.
    fn are_of_handler(&self) -> bool {
        matches!(self.sought, Sought::WorkOf(_))
    }

    /// The room for long jobs.
    pub(super) fn long(&self) -> &Room {
        &self.long
    }

    /// Keeps `of_handlers` slots for the work of handlers from now on: of the common jobs only.
    pub(super) fn keep_for_handlers(&self, of_handlers: usize) {
        self.long
            .resize(most_long(self.slots - of_handlers.min(self.slots)));
    }

    /// The slots that the tenants share: those of a handler can change.
    fn slots(&self) -> usize {
        if self.are_of_handler() {
            self.long.permits()
        } else {
            self.slots
        }
    }

    /// Takes the room that there is for up to `jobs` long jobs.
    pub(super) fn room_for_long(&self, jobs: usize) -> LongRoom {
        LongRoom {
            shares: self.clone(),
            room: self.long.take_up_to(jobs),
            _turn: None,
        }
    }

    /// Like `room_for_long`, but waits while another loop looks for jobs for the room that it has
    /// taken: most of that is free again a moment later. A notification that found none would
    /// leave its job to the search, a second later. Not for a loop that holds slots, for which the
    /// other one may wait.
    pub(super) async fn turn_for_long(&self, jobs: usize) -> LongRoom {
        if jobs == 0 {
            return self.room_for_long(0);
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        LongRoom {
            _turn: Some(turn),
            ..self.room_for_long(jobs)
        }
    }

    /// What to search for: up to `jobs` jobs, with room for `long` ones among them.
    pub(super) fn capacity(&self, jobs: usize, long: &LongRoom) -> Capacity {
        let room = long.room.count();
        Capacity {
            sought: self.sought.clone(),
            overdue_by: Duration::ZERO,
            jobs: if self.are_of_handler() {
                jobs.min(room)
            } else {
                jobs
            },
            long_jobs: room,
            held: self.lock().held.clone(),
        }
    }

    /// Notes which tenants have more due jobs than the search has found, and whether long ones are
    /// among them.
    pub(super) fn note_waiting(&self, waiting: Vec<Tenant>, long_jobs_wait: bool) {
        let mut tenants = self.lock();
        tenants.waiting = waiting.into_iter().collect();
        tenants.long_jobs_wait = long_jobs_wait;
    }

    /// Whether the last search left due jobs in the table.
    pub(super) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Takes up to `most` jobs out of the entries that were read, as far as they are within their
    /// tenants' shares. What is beyond them is taken out and left to the search; what is beyond
    /// `most` stays.
    pub(super) fn take_notified<'a>(
        &self,
        entries: impl Iterator<Item = &'a mut Notified>,
        most: usize,
        long: &LongRoom,
    ) -> Vec<Candidate> {
        let slots = self.slots();
        let tenants = self.lock();
        let mut room_for_long = if tenants.long_jobs_wait {
            0
        } else {
            long.room.count()
        };
        let mut taken = HashMap::<&Tenant, usize>::new();
        let mut candidates = Vec::new();
        for Notified {
            jobs,
            tenant,
            is_long,
        } in entries
        {
            let room = most - candidates.len();
            if room == 0 {
                break;
            }
            let tenant = &*tenant;
            let taken = taken.entry(tenant).or_default();
            let held = tenants.held.get(tenant).copied().unwrap_or(0);
            let mut within = tenants.share(tenant, slots).saturating_sub(held + *taken);
            if *is_long {
                within = within.min(room_for_long);
            }
            if within < room {
                jobs.truncate(within); // the search finds the others
            }
            let now = jobs.drain(..room.min(jobs.len()));
            *taken += now.len();
            if *is_long {
                room_for_long -= now.len();
            }
            candidates.extend(now.map(Candidate::notified));
        }
        candidates
    }

    fn lock(&self) -> MutexGuard<'_, Tenants> {
        // No change under this lock can be left half done by a panic.
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LongRoom {
    /// Gives back what is left of the room at a handler, for others to use during a wait. Returns
    /// how much that is.
    pub(super) fn lend(&mut self) -> usize {
        if !self.shares.are_of_handler() {
            return 0; // nobody waits for it
        }
        let places = self.room.count();
        self.room = self.shares.long.take_up_to(0);
        places
    }

    /// Takes the `places` back. False if there are fewer: it has what is left of them.
    pub(super) fn take_back(&mut self, places: usize) -> bool {
        if places > 0 {
            self.room = self.shares.long.take_up_to(places);
        }
        places == 0 || self.room.count() == places
    }

    /// Counts `job` for its tenant. A long one takes its place in this room.
    pub(super) fn hold(&mut self, job: &Job) -> Share {
        let tenant = job.created_by.clone();
        *self.shares.lock().held.entry(tenant.clone()).or_default() += 1;
        Share {
            shares: self.shares.clone(),
            tenant,
            is_held: true,
            // Without room, it is a suspected poison job, or its notification was wrong.
            long: job.is_long.then(|| self.room.split(1)).flatten(),
        }
    }
}

/// How many of `slots` slots long jobs may hold.
fn most_long(slots: usize) -> usize {
    (slots * 3 / 4).max(1)
}

impl Tenants {
    /// How many of the `slots` jobs of `tenant` may hold.
    fn share(&self, tenant: &Tenant, slots: usize) -> usize {
        if self.waiting.iter().all(|waiting| waiting == tenant) {
            return slots;
        }
        let others = self.held.keys().filter(|it| !self.waiting.contains(*it));
        let is_among_them = self.waiting.contains(tenant) || self.held.contains_key(tenant);
        let tenants = self.waiting.len() + others.count() + usize::from(!is_among_them);
        slots.div_ceil(tenants)
    }
}

impl Share {
    /// Whether the job has room at its handler.
    pub(super) fn has_room_of_handler(&self) -> bool {
        self.shares.are_of_handler() && self.long.is_some()
    }

    /// What wakes the search for such jobs.
    pub(super) fn next_due(&self) -> &NextDue {
        &self.shares.next_due
    }

    /// The job's work is done: what follows is not long, and no handler's.
    pub(super) fn work_is_done(&mut self) {
        if self.shares.are_of_handler() {
            self.release();
        }
        if self.long.take().is_some() {
            self.shares.next_due.lower_to(Instant::now());
        }
    }
}

impl Share {
    fn release(&mut self) {
        if !std::mem::take(&mut self.is_held) {
            return;
        }
        let mut tenants = self.shares.lock();
        if let Some(held) = tenants.held.get_mut(&self.tenant) {
            *held -= 1;
            if *held == 0 {
                tenants.held.remove(&self.tenant);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.work_is_done();
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::{HandlerName, RequestId, Traceparent},
        services::{
            queue::Notified,
            store::{Candidate, Claim, Job, OwnerId, Work},
        },
    };

    use std::{pin::pin, time::Duration};

    use futures_util::FutureExt as _;

    use super::{NextDue, Room, Share, Shares, Tenant};

    fn shares(slots: usize) -> Shares {
        Shares::common(slots, 0, NextDue::new())
    }

    fn tenant(name: &str) -> Tenant {
        (!name.is_empty()).then(|| name.parse().unwrap())
    }

    fn job(name: &str, is_long: bool) -> Job {
        let id = RequestId::generate();
        Job {
            claim: Claim {
                id,
                work: Work::Job,
                owner: OwnerId::NOBODY,
                number: 1,
            },
            handler: HandlerName::REPORT,
            input: "{}".into(),
            report: None,
            is_long,
            worked: None,
            callback: None,
            traceparent: Traceparent::of(id),
            attempts: 0,
            attempts_before: 0,
            created_by: tenant(name),
            created_at: None,
            parked_for: Duration::ZERO,
            bytes: 0,
        }
    }

    fn hold(shares: &Shares, name: &str, jobs: usize) -> Vec<Share> {
        let mut none = shares.room_for_long(0);
        (0..jobs).map(|_| none.hold(&job(name, false))).collect()
    }

    /// An entry with that many jobs.
    fn notified(name: &str, is_long: bool, jobs: usize) -> Notified {
        Notified {
            jobs: (0..jobs).map(|_| RequestId::generate()).collect(),
            tenant: tenant(name),
            is_long,
        }
    }

    /// How many of ten notified jobs of `name` are within its share.
    fn within(shares: &Shares, name: &str) -> usize {
        let mut ten: Vec<_> = [3, 1, 6].map(|jobs| notified(name, false, jobs)).into();
        let none = shares.room_for_long(0);
        let within = shares.take_notified(ten.iter_mut(), 10, &none).len();
        assert!(
            ten.iter().all(|entry| entry.jobs.is_empty()),
            "no others stay"
        );
        within
    }

    #[test]
    fn while_nobody_waits_everyone_may_have_every_slot() {
        let shares = shares(8);
        let _held = hold(&shares, "a", 3);
        assert_eq!((within(&shares, "a"), within(&shares, "b")), (5, 8));
        shares.note_waiting(vec![tenant("a")], false);
        assert_eq!(within(&shares, "a"), 5, "only its own jobs wait");
    }

    #[test]
    fn while_others_wait_a_tenant_is_notified_up_to_its_share_of_the_slots() {
        let shares = shares(8);
        let held = hold(&shares, "a", 5);
        shares.note_waiting(vec![tenant("a"), tenant("b"), tenant("")], false);
        assert_eq!(within(&shares, "a"), 0);
        assert_eq!(within(&shares, "b"), 3);
        assert_eq!(within(&shares, "c"), 2, "a fourth one");
        drop(held);
        assert_eq!(within(&shares, "a"), 3);
        assert_eq!(shares.lock().held.len(), 0);
        shares.note_waiting(Vec::new(), false);
        assert_eq!(within(&shares, "a"), 8);
    }

    #[test]
    fn notified_jobs_beyond_the_free_slots_stay_for_the_next_ones() {
        for slots in [2, 8] {
            let shares = shares(slots);
            let kinds = [("a", 1), ("", 3), ("b", 1)];
            let mut batch = kinds.map(|(name, jobs)| notified(name, false, jobs));
            let all: Vec<_> = batch.iter().flat_map(|it| it.jobs.clone()).collect();
            let none = shares.room_for_long(0);
            let mut found = Vec::new();
            for (free, left) in [(2, [0, 2, 1]), (1, [0, 1, 1]), (2, [0, 0, 0])] {
                found.extend(shares.take_notified(batch.iter_mut(), free, &none));
                assert_eq!(batch.each_ref().map(|it| it.jobs.len()), left);
            }
            let expected: Vec<_> = all.into_iter().map(Candidate::notified).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn of_the_jobs_that_stay_those_beyond_a_share_are_left_to_the_search_in_their_turn() {
        let shares = shares(8);
        let mut entry = notified("a", false, 10);
        let none = shares.room_for_long(0);
        let mut take = |free| {
            shares
                .take_notified(std::iter::once(&mut entry), free, &none)
                .len()
        };
        assert_eq!(take(3), 3);
        let _held = hold(&shares, "a", 3);
        shares.note_waiting(vec![tenant("b")], false);
        assert_eq!(take(5), 1, "half of the slots");
        assert_eq!(entry.jobs, []);
    }

    #[test]
    fn long_jobs_hold_at_most_three_quarters_of_the_slots_and_only_while_they_run() {
        for (slots, most) in [(1, 1), (2, 1), (4, 3), (20, 15)] {
            let shares = shares(slots);
            let mut room = shares.room_for_long(slots);
            assert_eq!(shares.capacity(slots, &room).long_jobs, most);
            let mut held: Vec<_> = (0..most).map(|_| room.hold(&job("", true))).collect();
            let mut long = [notified("", true, 1), notified("", false, 1)];
            let found = shares.take_notified(long.iter_mut(), 2, &shares.room_for_long(9));
            let is_room = usize::from(slots > most);
            assert_eq!(found.len(), is_room.min(1), "the short one");
            assert!(shares.next_due.earliest().is_none());
            held[0].work_is_done();
            assert!(shares.next_due.earliest().is_some(), "the search is woken");
            assert_eq!(shares.room_for_long(9).room.count(), 1);
            drop(held);
            assert_eq!(shares.room_for_long(99).room.count(), most);
        }
    }

    #[test]
    fn a_long_job_jumps_no_long_job_that_waits_in_the_table() {
        let shares = shares(8);
        let found = || {
            let mut batch = [notified("a", true, 3), notified("a", false, 1)];
            let room = shares.room_for_long(1);
            shares.take_notified(batch.iter_mut(), 8, &room).len()
        };
        shares.note_waiting(Vec::new(), true);
        assert_eq!(found(), 1, "the short one");
        shares.note_waiting(Vec::new(), false);
        assert_eq!(found(), 2);
    }

    #[test]
    fn a_handlers_jobs_need_room_until_their_work_is_done_and_count_for_their_tenant_until_then() {
        let next_due = NextDue::new();
        let room = Room::new(2);
        let shares = Shares::of_handler("pdf".parse().unwrap(), room, next_due.clone());
        let mut room = shares.room_for_long(9);
        assert_eq!(shares.capacity(9, &room).jobs, 2);
        let mut held: Vec<_> = (0..2).map(|_| room.hold(&job("a", true))).collect();
        drop(room);
        assert_eq!(shares.capacity(9, &shares.room_for_long(9)).jobs, 0);
        assert!(next_due.earliest().is_none());
        held[0].work_is_done();
        assert!(next_due.earliest().is_some(), "the search is woken");
        let capacity = shares.capacity(9, &shares.room_for_long(9));
        assert_eq!((capacity.jobs, capacity.held[&tenant("a")]), (1, 1));
        drop(held);
        let capacity = shares.capacity(9, &shares.room_for_long(9));
        assert_eq!((capacity.jobs, capacity.held.len()), (2, 0));
    }

    #[test]
    fn a_notified_job_waits_for_the_room_that_a_search_has_taken_and_gets_what_is_left() {
        let shares = shares(8);
        let search = shares.turn_for_long(8).now_or_never().unwrap();
        let notification = shares.turn_for_long(1);
        let mut notification = pin!(notification);
        assert!(notification.as_mut().now_or_never().is_none());
        assert!(shares.turn_for_long(0).now_or_never().is_some(), "short");
        drop(search);
        let room = notification.as_mut().now_or_never().unwrap();
        assert_eq!(room.room.count(), 1);
    }

    #[test]
    fn room_at_a_handler_is_lent_to_a_suspect_during_a_wait() {
        let room = Room::new(2);
        let shares = Shares::of_handler("pdf".parse().unwrap(), room.clone(), NextDue::new());
        let mut search = shares.room_for_long(2);
        let places = search.lend();
        let suspect = room.take().now_or_never().unwrap();
        assert!(!search.take_back(places), "one is missing");
        search.lend();
        drop(suspect);
        assert!(search.take_back(places));
        assert_eq!(search.room.count(), 2);
    }

    #[test]
    fn what_handlers_may_hold_is_left_out_of_the_room_for_long_reports() {
        let shares = Shares::common(16, 8, NextDue::new());
        assert_eq!(shares.room_for_long(99).room.count(), 6);
        for (of_handlers, long) in [(0, 12), (4, 9), (16, 1)] {
            shares.keep_for_handlers(of_handlers);
            assert_eq!(shares.room_for_long(99).room.count(), long);
        }
    }
}

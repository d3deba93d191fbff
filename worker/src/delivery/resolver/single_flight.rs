//! Single-flight look-ups: at most one per name at a time.

use std::{
    array,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use crate::delivery::shortage::Shortage;

/// A look-up that blocks its thread.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The result of a look-up, shared by all its waiters.
type LookupResult = Result<Vec<IpAddr>, Arc<io::Error>>;

/// The number of domain buckets. Collisions are rare, and one byte of the hash selects a bucket.
const SHARES: usize = 256;

/// The look-ups in progress, by name.
///
/// An entry either holds a thread or waits for one on behalf of at least one waiter. Abandoned
/// entries that wait are removed, so the number of threads and waiters bounds the map.
pub(super) struct SingleFlight {
    pub(super) threads: Arc<Semaphore>,
    /// The concurrency limit of each domain bucket. The hash is keyed with a secret, so an
    /// attacker cannot choose a domain that shares a victim's bucket.
    shares: [Arc<Semaphore>; SHARES],
    hasher: RandomState,
    /// How long a look-up waits for its permits.
    patience: Duration,
    look_up: Box<LookUp>,
    by_name: Mutex<ByName>,
}

/// The permits of the domain bucket and of the thread.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

type ByName = HashMap<Arc<str>, watch::Sender<Option<LookupResult>>>;

/// One look-up. Its name can be joined until the result is published or this is dropped.
struct InFlight {
    group: Arc<SingleFlight>,
    name: Arc<str>,
    sender: watch::Sender<Option<LookupResult>>,
}

/// A caller that waits for a look-up.
pub(super) struct Waiter(watch::Receiver<Option<LookupResult>>);

impl SingleFlight {
    /// At most `threads` look-ups at a time, and at most `share` of them under one domain.
    pub(super) fn new(
        threads: usize,
        share: usize,
        patience: Duration,
        look_up: Box<LookUp>,
    ) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            shares: array::from_fn(|_| Arc::new(Semaphore::new(share))),
            hasher: RandomState::new(),
            patience,
            look_up,
            by_name: Mutex::default(),
        }
    }

    /// Joins the look-up of `name` in progress, or starts one.
    pub(super) fn join(self: &Arc<Self>, name: &str) -> Waiter {
        let mut by_name = self.by_name();
        if let Some(sender) = by_name.get(name) {
            return Waiter(sender.subscribe());
        }
        let name: Arc<str> = name.into();
        let (sender, receiver) = watch::channel(None);
        by_name.insert(Arc::clone(&name), sender.clone());
        // Release the lock before spawning: a runtime that is shutting down drops the new task at
        // once, and `InFlight::drop` takes the lock.
        drop(by_name);
        let look_up = InFlight {
            group: Arc::clone(self),
            name,
            sender,
        };
        tokio::spawn(look_up.start());
        Waiter(receiver)
    }

    /// Waits for a permit of the domain of `name`, then for one of a thread.
    async fn permits(&self, name: &str) -> Option<Permits> {
        let [share, ..] = self.hasher.hash_one(domain(name)).to_ne_bytes();
        // The share first: a look-up that waits for its domain's share must not hold a thread.
        let share = Arc::clone(&self.shares[usize::from(share)]);
        let share = share.acquire_owned().await;
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        share.ok().zip(thread.ok())
    }

    pub(super) fn by_name(&self) -> MutexGuard<'_, ByName> {
        // Only an allocation can panic under the lock, so a poisoned map is still consistent.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Waits for the permits and runs the look-up. Stops if every waiter has gone meanwhile.
    async fn start(self) {
        let permits = match timeout(self.group.patience, self.permits()).await {
            Ok(Some(permits)) => permits,
            Ok(None) => return,
            Err(_) => {
                return self.publish(Err(Shortage::LookUps.into()));
            }
        };
        // An own thread and not one of the runtime's: a runtime waits for its blocking threads at
        // shutdown, and getaddrinfo cannot be cancelled.
        let thread = thread::Builder::new().name("look-up".to_owned());
        let sender = self.sender.clone();
        if thread.spawn(move || self.run(&permits)).is_err() {
            // The look-up was dropped with the closure, so no later caller has joined it.
            sender.send_replace(Some(Err(Arc::new(Shortage::Threads.into()))));
        }
    }

    /// Blocks. The thread owns the permits, so an abandoned look-up still counts against the
    /// limits.
    fn run(self, _permits: &Permits) {
        let result = (self.group.look_up)(&self.name);
        self.publish(result.map_err(|error| match Shortage::of_look_up(&error) {
            Some(shortage) => shortage.into(),
            None => error,
        }));
    }

    fn publish(&self, result: io::Result<Vec<IpAddr>>) {
        self.leave(); // before the result is sent: a later caller must start a new look-up
        self.sender.send_replace(Some(result.map_err(Arc::new)));
    }

    async fn permits(&self) -> Option<Permits> {
        loop {
            tokio::select! {
                permits = self.group.permits(&self.name) => return permits,
                () = self.sender.closed() => if self.is_abandoned() { return None },
            }
        }
    }

    /// Whether no waiter is left. If so, the entry is removed under the same lock, so no new waiter
    /// can join.
    fn is_abandoned(&self) -> bool {
        let mut by_name = self.group.by_name();
        let abandoned = self.sender.is_closed();
        if abandoned {
            by_name.remove(&self.name);
        }
        abandoned
    }

    /// Removes the entry, so that no further waiter can join.
    fn leave(&self) {
        let mut by_name = self.group.by_name();
        // The entry may already belong to a newer look-up of the same name.
        let known = by_name.get(&self.name);
        if known.is_some_and(|sender| sender.same_channel(&self.sender)) {
            by_name.remove(&self.name);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Waiter {
    pub(super) async fn result(mut self) -> io::Result<Vec<IpAddr>> {
        let result = self.0.wait_for(Option::is_some).await;
        match result.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            // The look-up panicked.
            Ok(None) | Err(_) => Err(io::Error::other("the look-up failed without a result")),
        }
    }
}

/// The registrable domain of `name`, which determines its name server. This is a heuristic: the
/// last two labels, or three if the last two look like a country's registry suffix (`co.uk`).
fn domain(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut dots = name.rmatch_indices('.').map(|(dot, _)| dot);
    let (last, second, third) = (dots.next(), dots.next(), dots.next());
    let sells_names = |dot: usize, above: usize| name.len() - dot == 3 && dot - above <= 4;
    let start = match (last, second) {
        (Some(last), Some(second)) if sells_names(last, second) => third,
        _ => second,
    };
    start.map_or(name, |dot| &name[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::domain;

    #[test]
    fn the_registrable_domain_is_recognised() {
        for (name, owned) in [
            ("a.b.example.com", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("a.example.co.uk", "example.co.uk"),
            ("b.other.co.uk", "other.co.uk"),
            ("a.b.example.com.au.", "example.com.au"),
            ("co.uk", "co.uk"),
            ("a.b.example.de", "example.de"),
            ("hooks.example.io", "example.io"),
        ] {
            assert_eq!(domain(name), owned, "{name}");
        }
    }
}

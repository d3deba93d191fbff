//! Look-ups under way, one for each name.

use std::{
    array,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io::{self, ErrorKind},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

/// A look-up that blocks its thread.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What a look-up came to, for all who wait for it.
type Answer = Result<Vec<IpAddr>, Arc<io::Error>>;

/// Enough that two domains seldom have one share; and as many as a byte has values.
const SHARES: usize = 256;

/// Look-ups under way: those that have one of the threads, and those that wait for one because somebody
/// waits for them. There are no others, so that is the bound of the map.
pub(super) struct Flights {
    pub(super) threads: Arc<Semaphore>,
    /// What the names under one domain may hold of the threads. Which of these is a domain's is a secret,
    /// so that nobody can make another's wait but by luck.
    shares: [Arc<Semaphore>; SHARES],
    hasher: RandomState,
    /// How long a look-up waits for its place.
    patience: Duration,
    look_up: Box<LookUp>,
    by_name: Mutex<ByName>,
}

/// The permits of the domain and of the thread.
type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

type ByName = HashMap<Arc<str>, watch::Sender<Option<Answer>>>;

/// A look-up from its beginning to its end. It is told of under its name until this is dropped.
struct Flight {
    flights: Arc<Flights>,
    name: Arc<str>,
    tell: watch::Sender<Option<Answer>>,
}

/// Somebody who waits for a look-up.
pub(super) struct Passenger(watch::Receiver<Option<Answer>>);

impl Flights {
    /// So many `threads`, of which the names under one domain get at most a `share`.
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

    /// Joins the look-up of `name` that is under way, or begins one.
    pub(super) fn join(self: &Arc<Self>, name: &str) -> Passenger {
        let mut by_name = self.by_name();
        if let Some(flight) = by_name.get(name) {
            return Passenger(flight.subscribe());
        }
        let name: Arc<str> = name.into();
        let (tell, told) = watch::channel(None);
        by_name.insert(Arc::clone(&name), tell.clone());
        drop(by_name); // a runtime that ends drops what is spawned at once, and that asks for the lock
        let flight = Flight {
            flights: Arc::clone(self),
            name,
            tell,
        };
        tokio::spawn(flight.begin());
        Passenger(told)
    }

    /// A place on a thread, once there is one for the domain of `name` too.
    async fn place(&self, name: &str) -> Option<Place> {
        let [share, ..] = self.hasher.hash_one(domain(name)).to_ne_bytes();
        let share = Arc::clone(&self.shares[usize::from(share)]);
        let share = share.acquire_owned().await;
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        share.ok().zip(thread.ok())
    }

    pub(super) fn by_name(&self) -> MutexGuard<'_, ByName> {
        // Nothing panics under the lock but an allocation.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Waits for a thread, unless nobody waits any more, and looks the name up on it.
    async fn begin(self) {
        let place = match timeout(self.flights.patience, self.place()).await {
            Ok(Some(place)) => place,
            Ok(None) => return,
            Err(_) => {
                let busy = io::Error::new(ErrorKind::ResourceBusy, "no thread is free for it");
                return self.tell_all(Err(busy));
            }
        };
        // A thread of our own and not the runtime's: a runtime that ends waits for its threads, and
        // nothing ends a getaddrinfo. Without a thread, those who wait are told by the flight's end.
        let thread = thread::Builder::new().name("look-up".to_owned());
        drop(thread.spawn(move || self.land(&place)));
    }

    /// The place goes with the thread: one that nobody waits for any more still counts.
    fn land(self, _place: &Place) {
        let answer = (self.flights.look_up)(&self.name);
        self.tell_all(answer);
    }

    fn tell_all(&self, answer: io::Result<Vec<IpAddr>>) {
        self.leave(); // first: who asks after an answer was heard gets a new one
        self.tell.send_replace(Some(answer.map_err(Arc::new)));
    }

    async fn place(&self) -> Option<Place> {
        loop {
            tokio::select! {
                place = self.flights.place(&self.name) => return place,
                () = self.tell.closed() => if self.is_abandoned() { return None },
            }
        }
    }

    /// Whether nobody waits; then nobody joins any more either.
    fn is_abandoned(&self) -> bool {
        let mut by_name = self.flights.by_name();
        let abandoned = self.tell.is_closed();
        if abandoned {
            by_name.remove(&self.name);
        }
        abandoned
    }

    /// From now on nobody joins.
    fn leave(&self) {
        let mut by_name = self.flights.by_name();
        // It may have a successor by now.
        let known = by_name.get(&self.name);
        if known.is_some_and(|tell| tell.same_channel(&self.tell)) {
            by_name.remove(&self.name);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Passenger {
    pub(super) async fn answer(mut self) -> io::Result<Vec<IpAddr>> {
        let answer = self.0.wait_for(Option::is_some).await;
        match answer.as_deref() {
            Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            // It panicked, or had no thread.
            Ok(None) | Err(_) => Err(io::Error::other("the look-up came to no end")),
        }
    }
}

/// The part of `name` that somebody owns, and with it the name server: its last two labels, or three where
/// the last two look like what a country's registry sells names under, such as `co.uk`.
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
    fn a_domain_is_what_somebody_owns() {
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

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{join_all, ready};
use storm_shared::{
    models::RequestId,
    services::store::{Progress, StoreError, Trouble},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{MAX_WAIT, PERIOD, Shared, TooManyWaiters, WaitEnd, Waiter, watch};
use crate::metrics::Metrics;

/// A store in memory, and the reads that were made of it.
#[derive(Default)]
struct Memory {
    progress: HashMap<RequestId, Progress>,
    is_down: bool,
    /// Of how many requests each was.
    reads: Vec<usize>,
}

impl Memory {
    fn read(&mut self, ids: &[RequestId]) -> Result<Vec<Progress>, StoreError> {
        self.reads.push(ids.len());
        if self.is_down {
            return Err(StoreError::Failed {
                trouble: Trouble::Io,
                message: "disk I/O error".into(),
            });
        }
        let of = |id| self.progress.get(id).copied();
        let progress = ids.iter().map(|id| of(id).unwrap_or(Progress::Unknown));
        Ok(progress.collect())
    }
}

struct Scene {
    shared: Arc<Shared>,
    memory: Arc<Mutex<Memory>>,
    _watch: AbortOnDropHandle<()>,
}

impl Scene {
    fn with_places(limit: usize) -> Self {
        let shared = Arc::new(Shared::new(limit, false, Metrics::new()));
        let memory: Arc<Mutex<Memory>> = Arc::default();
        let store = Arc::clone(&memory);
        let read = move |ids: Arc<[RequestId]>| ready(store.lock().unwrap().read(&ids));
        let watch = tokio::spawn(watch(Arc::clone(&shared), read));
        Self {
            shared,
            memory,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    fn set(&self, id: RequestId, progress: Progress) {
        self.memory.lock().unwrap().progress.insert(id, progress);
    }

    /// An unfinished request.
    fn request(&self) -> RequestId {
        let id = RequestId::generate();
        self.set(id, Progress::Unfinished);
        id
    }

    fn wait_for(&self, id: RequestId) -> Waiter {
        self.shared.wait_for(None, id).unwrap()
    }

    /// The sizes of all reads so far.
    fn reads(&self) -> Vec<usize> {
        self.memory.lock().unwrap().reads.clone()
    }
}

fn deadline() -> Instant {
    Instant::now() + MAX_WAIT
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_cost_one_read_each_period_and_nobody_costs_none() {
    let scene = Scene::with_places(99);
    sleep(MAX_WAIT).await;
    assert_eq!(scene.reads(), [0; 0]);

    let ids: Vec<_> = (0..20).map(|_| scene.request()).collect();
    // Two for each request.
    let waits = ids.iter().chain(&ids);
    let waits = waits.map(|id| scene.wait_for(*id).until(Progress::Over, deadline()));
    let begun = Instant::now();
    let end = async {
        sleep(PERIOD * 11 / 2).await;
        assert_eq!(scene.reads(), [20; 6]);
        for id in &ids {
            scene.set(*id, Progress::Over);
        }
    };
    let (ended, ()) = tokio::join!(join_all(waits), end);
    assert_eq!(ended, [WaitEnd::Reached; 40]);
    assert_eq!(begun.elapsed(), PERIOD * 6, "at most a period late");
    assert_eq!(scene.reads(), [20; 7]);
    sleep(MAX_WAIT).await;
    assert_eq!(scene.reads().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_the_request_is_as_far_as_is_waited_for_or_gone() {
    let scene = Scene::with_places(99);
    let id = scene.request();
    let worked = scene.wait_for(id).until(Progress::Worked, deadline());
    let over = scene.wait_for(id).until(Progress::Over, deadline());
    let (mut worked, mut over) = (Box::pin(worked), Box::pin(over));
    let first = timeout(PERIOD * 3, &mut worked).await;
    assert!(first.is_err(), "nothing has come of it");
    scene.set(id, Progress::Worked);
    assert_eq!(worked.await, WaitEnd::Reached);
    assert!(timeout(PERIOD * 3, &mut over).await.is_err());
    // One who comes late learns what is known.
    let late = scene.wait_for(id).until(Progress::Worked, deadline());
    let late = timeout(Duration::ZERO, late).await;
    assert_eq!(late, Ok(WaitEnd::Reached));
    scene.set(id, Progress::Over);
    assert_eq!(over.await, WaitEnd::Reached);

    let gone = scene.wait_for(RequestId::generate());
    let gone = gone.until(Progress::Over, deadline()).await;
    assert_eq!(gone, WaitEnd::Reached);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline_also_while_the_database_is_down() {
    let scene = Scene::with_places(99);
    let (id, begun) = (scene.request(), Instant::now());
    scene.memory.lock().unwrap().is_down = true;
    let wait = Duration::from_secs(10);
    let ended = scene.wait_for(id).until(Progress::Over, begun + wait).await;
    assert_eq!((ended, begun.elapsed()), (WaitEnd::Late, wait));

    // When it is up again, those who wait hear of it.
    scene.set(id, Progress::Over);
    let waiting = scene.wait_for(id).until(Progress::Over, deadline());
    let up = async {
        sleep(PERIOD * 5).await;
        scene.memory.lock().unwrap().is_down = false;
    };
    assert_eq!(tokio::join!(waiting, up).0, WaitEnd::Reached);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_frees_its_place_and_is_not_read_for() {
    let scene = Scene::with_places(2);
    let id = scene.request();
    let _other = scene.wait_for(id);
    for _ in 0..3 {
        let waiting = scene.wait_for(scene.request());
        let refused = scene.shared.wait_for(None, id);
        assert_eq!(refused.err(), Some(TooManyWaiters));
        let waiting = waiting.until(Progress::Over, deadline());
        assert!(timeout(PERIOD, waiting).await.is_err());
    }
    sleep(PERIOD * 2).await;
    assert_eq!(scene.reads().last(), Some(&1));
    assert_eq!(scene.shared.state().awaited.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_every_wait_at_once() {
    let scene = Scene::with_places(99);
    let waits = (0..9).map(|_| {
        scene
            .wait_for(scene.request())
            .until(Progress::Over, deadline())
    });
    let waits: Vec<_> = waits.collect();
    let begun = Instant::now();
    let stop = async { scene.shared.stopped.cancel() };
    let (ended, ()) = tokio::join!(join_all(waits), stop);
    assert_eq!(ended, [WaitEnd::Stopped; 9]);
    let late = scene.wait_for(scene.request());
    let late = late.until(Progress::Over, deadline()).await;
    assert_eq!((late, begun.elapsed()), (WaitEnd::Stopped, Duration::ZERO));
}

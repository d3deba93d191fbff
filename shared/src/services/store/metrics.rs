//! The metrics of the store, for the `/metrics` of both services.

use std::{
    fmt::{self, Error},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric},
    metrics::{
        MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram,
    },
};

use serde::Serialize;

use super::{Store, Trouble};

/// The first is a commit without fsync, and the last one that has waited for another process.
const COMMIT_SECONDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// The last one is that of a full group commit.
const COMMIT_WRITES: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// Read from the store at each scrape. Empty until there is one. Clones share it.
#[derive(Clone, Default)]
pub struct StoreMetrics {
    store: Arc<OnceLock<Store>>,
}

impl StoreMetrics {
    /// Shows `store` from now on.
    pub fn watch(&self, store: &Store) {
        let _ = self.store.set(store.clone()); // a process has one store
    }
}

/// What an engine measures as it works. The cost is one observation a transaction.
#[derive(Debug)]
pub(super) struct Measures {
    commit_seconds: Histogram,
    commit_writes: Histogram,
    failed: Family<[(&'static str, &'static str); 1], Counter>,
    sizes: [AtomicU64; 3],
}

/// The sizes of a database, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The database without its log.
    pub(super) database: u64,
    /// The part of it that nothing uses.
    pub(super) free: u64,
    /// The write-ahead log.
    pub(super) log: u64,
}

/// The pool of connections to a database on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Those that are open, or being opened.
    pub open: usize,
    /// The open ones that do something.
    pub in_use: usize,
    /// Reads and writes that wait for one.
    pub waiting: usize,
    /// How many may be open.
    pub limit: usize,
}

/// A gauge that only one engine has: its name, its help and its value.
pub(super) type OwnGauge = (&'static str, &'static str, u64);

/// A queue of the store: how many operations wait or run, and how many may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueLevel {
    pub(super) depth: usize,
    pub(super) capacity: usize,
}

impl Measures {
    pub(super) fn new() -> Self {
        let failed = Family::default();
        for trouble in Trouble::ALL {
            drop(failed.get_or_create(&trouble_label(trouble)));
        }
        Self {
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            commit_writes: Histogram::new(COMMIT_WRITES),
            failed,
            sizes: Default::default(),
        }
    }

    /// A transaction of `writes` writes was committed, `after` it was begun.
    pub(super) fn committed(&self, writes: usize, after: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a group commit is small")]
        self.commit_writes.observe(writes as f64);
        self.commit_seconds.observe(after.as_secs_f64());
    }

    /// A transaction failed, or the next start will not find it.
    pub(super) fn failed(&self, trouble: Trouble) {
        self.failed.get_or_create(&trouble_label(trouble)).inc();
    }

    /// The database was measured.
    pub(super) fn measured(&self, sizes: Sizes) {
        for (known, new) in self
            .sizes
            .iter()
            .zip([sizes.database, sizes.free, sizes.log])
        {
            known.store(new, Ordering::Relaxed); // it orders nothing else
        }
    }

    /// The sizes of the last measurement.
    pub(super) fn sizes(&self) -> Sizes {
        let [database, free, log] = [0, 1, 2].map(|of| self.sizes[of].load(Ordering::Relaxed));
        Sizes {
            database,
            free,
            log,
        }
    }
}

fn trouble_label(trouble: Trouble) -> [(&'static str, &'static str); 1] {
    [("trouble", trouble.as_str())]
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl Collector for StoreMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(store) = self.store.get() else {
            return Ok(());
        };
        let measures = store.measures();
        let name = "commit_seconds";
        let help =
            "Time of a group commit, with the waits for the database's lock and for the fsync.";
        let histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        measures.commit_seconds.encode(histogram)?;
        let (name, help) = ("group_commit_writes", "Writes of a group commit.");
        let histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        measures.commit_writes.encode(histogram)?;
        let (name, help) = (
            "failed_commits",
            "Transactions that failed, or that went into a file that was moved, by cause.",
        );
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        measures.failed.encode(counter)?;

        let (writes, reads) = store.queue_levels();
        let help = "Writes that wait for the database.";
        gauge(&mut encoder, "write_queue_depth", help, writes.depth)?;
        let help = "Writes that may wait: DB_WRITE_QUEUE.";
        gauge(&mut encoder, "write_queue_capacity", help, writes.capacity)?;
        let help = "Reads that wait for the database or run.";
        gauge(&mut encoder, "read_queue_depth", help, reads.depth)?;
        let help = "Reads that may wait or run.";
        gauge(&mut encoder, "read_queue_capacity", help, reads.capacity)?;

        let sizes = measures.sizes();
        let help = "Size of the database.";
        gauge(&mut encoder, "database_bytes", help, sizes.database)?;
        for (name, help, value) in store.own_gauges() {
            gauge(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> Result<(), Error> {
    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(gauge)
}

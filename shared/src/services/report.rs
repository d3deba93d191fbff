//! The slow work: a "monthly financial report", CPU-bound hashing between simulated 10 ms waits.
//!
//! ```text
//! seed      = SHA-256(report_name, UTF-8)
//! h[i]      = SHA-256(seed || i as 8 bytes, big-endian)    i = 0 .. records-1, a wait before each
//! checksum  = lower-case hex of SHA-256(h[0] || h[1] || ...)
//! report_id = UUIDv5(OID namespace, "<report_name>/<records>")
//! ```
//!
//! [`generate_blocking`] blocks a thread during the waits, [`generate`] doesn't; both share the
//! arithmetic. Waits are measured from the start, so delays don't add up.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::models::{ReportSpec, WAIT_PER_RECORD};

/// A finished report, and the JSON of the column `result_payload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The same for the same spec on every machine.
    pub report_id: Uuid,
    /// 64 lower-case hexadecimal digits.
    pub checksum: String,
}

/// Generates the report on the calling thread, which sleeps through every wait.
pub fn generate_blocking(spec: &ReportSpec) -> Report {
    let start = Instant::now();
    let mut sum = RunningSum::new(spec);
    for record in 1..=spec.records.count() {
        // Saturates at zero if the thread is late: it then catches up without a wait.
        thread::sleep(due(record).saturating_sub(start.elapsed()));
        sum.advance_to(record);
    }
    sum.finish(spec)
}

/// Generates the report without holding a thread while it waits.
///
/// A single wait is not observable, so the task wakes once per `STRIDE` waits and catches up. Ten
/// thousand concurrent reports then cost tens of thousands of wake-ups a second, not a million.
pub async fn generate(spec: &ReportSpec) -> Report {
    let start = tokio::time::Instant::now();
    let mut sum = RunningSum::new(spec);
    let last = spec.records.count();
    let mut record = 0;
    while record < last {
        // The last stride is shorter: the report ends at its own time, not at a multiple of STRIDE.
        record = last.min(record + STRIDE);
        tokio::time::sleep_until(start + due(record)).await;
        sum.advance_to(record);
    }
    sum.finish(spec)
}

/// Computes the report without waits, for a receiver to compare a callback with.
pub fn expected(spec: &ReportSpec) -> Report {
    let mut sum = RunningSum::new(spec);
    sum.advance_to(spec.records.count());
    sum.finish(spec)
}

/// Records computed per wake-up of [`generate`]: a quarter of a second of waits, some ten
/// microseconds of hashing.
const STRIDE: u32 = 25;

/// When the wait of the `record`-th record (from 1) ends, from the start.
fn due(record: u32) -> Duration {
    WAIT_PER_RECORD * record
}

/// The state of a partly computed report.
struct RunningSum {
    seed: [u8; 32],
    done: u32,
    sum: Sha256,
}

impl RunningSum {
    fn new(spec: &ReportSpec) -> Self {
        Self {
            seed: Sha256::digest(spec.report_name.as_str().as_bytes()).into(),
            done: 0,
            sum: Sha256::new(),
        }
    }

    fn advance_to(&mut self, records: u32) {
        for index in self.done..records {
            let hash = Sha256::new()
                .chain_update(self.seed)
                .chain_update(u64::from(index).to_be_bytes())
                .finalize();
            self.sum.update(hash);
        }
        self.done = records;
    }

    fn finish(self, spec: &ReportSpec) -> Report {
        let name = format!("{}/{}", spec.report_name.as_str(), spec.records.count());
        Report {
            report_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
            checksum: hex(&self.sum.finalize()),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    text
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{expected, generate, generate_blocking};
    use crate::models::{Records, ReportName, ReportSpec};

    fn spec(name: &str, records: u64) -> ReportSpec {
        ReportSpec {
            report_name: ReportName::try_from(name.to_owned()).unwrap(),
            records: Records::new(records, Records::MAX_ASYNC).unwrap(),
        }
    }

    #[test]
    fn the_report_has_the_contracts_known_answer() {
        let report = expected(&spec("Q1_Finance", 10));
        assert_eq!(
            report.checksum,
            "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73"
        );
        assert_eq!(
            report.report_id.to_string(),
            "3eebd0ea-44d7-531b-b660-ca91c206c5e6"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn blocking_and_async_generation_give_the_same_report() {
        for records in [1, 2, 24, 25, 26] {
            let spec = spec("é, 2026", records);
            let report = generate(&spec).await;
            assert_eq!(report, generate_blocking(&spec));
            assert_eq!(report, expected(&spec));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_waits_ten_milliseconds_per_record_without_drift() {
        for records in [1, 25, 1000, 1001] {
            let start = tokio::time::Instant::now();
            generate(&spec("Q1_Finance", records)).await;
            assert_eq!(start.elapsed(), Duration::from_millis(10 * records));
        }
    }

    #[test]
    fn blocking_generation_really_waits() {
        let start = std::time::Instant::now();
        generate_blocking(&spec("Q1_Finance", 5));
        assert!(start.elapsed() >= Duration::from_millis(50));
    }
}

//! The metrics of the process, under the names that all client libraries of Prometheus give them.

use std::{
    fmt::Error,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustix::time::{ClockId, clock_gettime};

/// Read from the system at each scrape. What a system does not tell is left out: outside of Linux,
/// memory and threads.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    /// Seconds since 1970 by the wall clock.
    started: f64,
}

impl ProcessMetrics {
    /// For a process that has just been started.
    pub(super) fn started_now() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: started.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        // The encoder adds `_total`.
        let (name, help) = ("process_cpu_seconds", "CPU time of the process.");
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(cpu_seconds()).encode(counter)?;
        let gauges = &mut encoder;
        let help = "Start of the process, in seconds since 1970.";
        gauge(
            gauges,
            "process_start_time_seconds",
            help,
            Some(self.started),
        )?;
        gauge(
            gauges,
            "process_open_fds",
            "Open file descriptors.",
            open_fds(),
        )?;
        let help = "File descriptors that the process may open.";
        gauge(gauges, "process_max_fds", help, max_fds())?;
        let status = Status::read();
        let help = "Resident memory of the process.";
        gauge(
            gauges,
            "process_resident_memory_bytes",
            help,
            status.bytes("VmRSS:"),
        )?;
        let help = "Virtual memory of the process.";
        gauge(
            gauges,
            "process_virtual_memory_bytes",
            help,
            status.bytes("VmSize:"),
        )?;
        gauge(
            gauges,
            "process_threads",
            "Threads of the process.",
            status.number("Threads:"),
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Option<impl EncodeGaugeValue>,
) -> Result<(), Error> {
    let Some(value) = value else {
        return Ok(());
    };
    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(gauge)
}

/// User and system time of all threads.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a nanosecond of a hundred days of CPU time does not matter"
    )]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

fn open_fds() -> Option<usize> {
    // Linux and macOS have it. The folder itself is open while it is read.
    let open = fs::read_dir("/dev/fd").ok()?.count();
    Some(open.saturating_sub(1))
}

fn max_fds() -> Option<u64> {
    let (soft, _) = rlimit::Resource::NOFILE.get().ok()?;
    Some(soft)
}

/// The text of `/proc/self/status`; empty where there is none.
struct Status(String);

impl Status {
    fn read() -> Self {
        Self(fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn number(&self, key: &str) -> Option<u64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_whitespace().next()?.parse().ok()
    }

    fn bytes(&self, key: &str) -> Option<u64> {
        self.number(key)?.checked_mul(1024)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::{ProcessMetrics, Status};
    use crate::services::scrape;

    #[test]
    fn the_process_is_described_under_the_usual_names() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::started_now()));
        let text = scrape::render(&registry);
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
            value.trim().parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total ") > 0.0);
        assert!(value("process_start_time_seconds ") > 1.7e9);
        let open = value("process_open_fds ");
        assert!((3.0..=value("process_max_fds ")).contains(&open), "{open}");
        if cfg!(target_os = "linux") {
            let resident = value("process_resident_memory_bytes ");
            assert!((1e6..=value("process_virtual_memory_bytes ")).contains(&resident));
            assert!(value("process_threads ") >= 1.0);
        }
    }

    #[test]
    fn a_status_has_kibibytes_and_plain_numbers() {
        let status = Status("Name:\tstorm\nVmRSS:\t   1234 kB\nThreads:\t7\n".to_owned());
        assert_eq!(status.bytes("VmRSS:"), Some(1234 << 10));
        assert_eq!(status.number("Threads:"), Some(7));
        assert_eq!(status.number("VmSize:"), None);
    }
}

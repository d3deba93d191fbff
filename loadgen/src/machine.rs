//! The machine that a result was measured on, as Linux describes it in `/proc`.

use std::{env::consts::ARCH, fs, thread};

use serde::{Deserialize, Serialize};

/// A machine, and the program that measured on it. What the system does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: Option<usize>,
    /// The model of the CPU.
    pub cpu: Option<String>,
    /// The architecture that the program was built for, such as `x86_64`.
    pub architecture: String,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The kernel's name and release, such as `Linux 6.1.0`.
    pub kernel: Option<String>,
    /// The operating system, such as `Debian GNU/Linux 12`.
    pub system: Option<String>,
    /// The version of storm-loadgen, and `debug build` if it is one.
    pub program: String,
}

impl Machine {
    /// This machine.
    pub fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let build = if cfg!(debug_assertions) {
            ", debug build"
        } else {
            ""
        };
        Self {
            cores: thread::available_parallelism().map(usize::from).ok(),
            cpu: cpu(&read("/proc/cpuinfo")),
            architecture: ARCH.to_owned(),
            memory_bytes: memory(&read("/proc/meminfo")),
            kernel: kernel(
                &read("/proc/sys/kernel/ostype"),
                &read("/proc/sys/kernel/osrelease"),
            ),
            system: system(&read("/etc/os-release")),
            program: format!("storm-loadgen {}{build}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// The first model. Not every architecture has one.
fn cpu(cpuinfo: &str) -> Option<String> {
    let models = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut models = models.filter(|(key, _)| key.trim() == "model name");
    models.next().map(|(_, model)| model.trim().to_owned())
}

fn memory(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn kernel(name: &str, release: &str) -> Option<String> {
    let kernel = format!("{} {}", name.trim(), release.trim());
    (!kernel.trim().is_empty()).then(|| kernel.trim().to_owned())
}

fn system(os_release: &str) -> Option<String> {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Machine, cpu, kernel, memory, system};

    #[test]
    fn what_linux_says_is_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu\n\n\
                       processor\t: 1\nmodel name\t: another\n";
        assert_eq!(cpu(cpuinfo).as_deref(), Some("AMD EPYC 9B14"));
        let meminfo = "MemTotal:       24689348 kB\nMemFree:        1 kB\n";
        assert_eq!(memory(meminfo), Some(24_689_348 * 1024));
        assert_eq!(kernel("Linux\n", "6.1.0\n").as_deref(), Some("Linux 6.1.0"));
        let release = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            system(release).as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
    }

    #[test]
    fn what_a_system_does_not_say_is_none() {
        assert_eq!(cpu("processor : 0\nBogoMIPS : 50.00\n"), None);
        assert_eq!(memory("MemTotal: many\n"), None);
        assert_eq!(kernel("", ""), None);
        assert_eq!(system("NAME=x\n"), None);
        assert!(Machine::read().program.starts_with("storm-loadgen "));
    }
}

//! Several processes that open one new database at once.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _, stdin, stdout},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use storm_shared::services::store::Store;
use tempfile::TempDir;

use super::{direct, settings};

/// Set in the processes that `Opener` starts.
const ROLE: &str = "STORM_TEST_OPENER";

/// A process that opens the store in each folder that it is told, and closes it.
struct Opener {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Opener {
    fn start() -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "sqlite_faults::first_start::opens_as_told",
                "--nocapture",
            ])
            .env(ROLE, "yes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn open(&mut self, folder: &Path) {
        writeln!(self.orders, "{}", folder.display()).unwrap();
    }

    /// The store's id, or the error.
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "it ended");
            // The test harness prints lines of its own.
            if let Some(answer) = line.strip_prefix("opened: ") {
                return answer.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what an `Opener` runs.
#[test]
fn opens_as_told() {
    if env::var_os(ROLE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for folder in stdin().lines().map_while(Result::ok) {
        let answer = runtime.block_on(async {
            match Store::open(&settings(Path::new(&folder))).await {
                Ok(store) => {
                    let id = store.id().to_owned();
                    store.close().await;
                    id
                }
                Err(error) => error.to_string(),
            }
        });
        // One write, at the start of a line: the harness leaves its own line open.
        stdout()
            .write_all(format!("\nopened: {answer}\n").as_bytes())
            .unwrap();
        stdout().flush().unwrap();
    }
}

#[test]
fn ten_processes_that_start_at_once_on_a_new_database_all_open_it() {
    let mut openers: Vec<_> = (0..10).map(|_| Opener::start()).collect();
    for round in 0..100 {
        let folder = TempDir::new().unwrap();
        for opener in &mut openers {
            opener.open(folder.path());
        }
        let answers: Vec<_> = openers.iter_mut().map(Opener::answer).collect();
        let id: String = direct(&folder)
            .query_row("SELECT id FROM store", [], |row| row.get(0))
            .unwrap();
        let others: Vec<_> = answers.iter().filter(|answer| **answer != id).collect();
        assert!(others.is_empty(), "round {round}: {others:?}");
    }
}

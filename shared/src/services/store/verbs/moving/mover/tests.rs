//! Two processes that move the same store at once: every order of their steps, with a crash of both
//! after each.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::Path,
};

use serde_json::value::RawValue;
use tempfile::TempDir;

use super::{super::shared_source::SharedSource, Mover};
use crate::{
    config::{DatabaseSettings, Settings, SqliteSettings, StoreSettings},
    models::RequestId,
    services::store::{
        Acceptance, MoveError, Moved, NewJob, Store,
        postgres::{
            fresh::Fresh,
            moving::{Found, Target},
        },
    },
};

/// Who takes a step.
type Turn = usize;

/// A mover, and how it ended.
struct Process<'a> {
    mover: Mover<'a>,
    ended: Option<Result<Moved, MoveError>>,
}

impl<'a> Process<'a> {
    async fn start(file: &Path, target: &'a Target) -> Self {
        let source = SharedSource::open(&sqlite(file)).await.unwrap();
        Self {
            mover: Mover::new(source, target, "the target".to_owned()),
            ended: None,
        }
    }

    async fn step(&mut self) {
        self.ended = self.mover.advance(&mut |_| {}).await.transpose();
    }

    /// What it will do next, or how it ended.
    fn state(&self) -> String {
        match &self.ended {
            None => format!("{:?}", self.mover.next),
            Some(ended) => format!("ended well: {}", ended.is_ok()),
        }
    }
}

/// A source and a target, and two processes.
struct Case<'a> {
    file: std::path::PathBuf,
    target: &'a Target,
    processes: [Process<'a>; 2],
}

impl<'a> Case<'a> {
    /// A copy of the file `source`, an emptied target, and both processes after their `turns`.
    async fn after(
        turns: &[Turn],
        source: &Path,
        folder: &TempDir,
        fresh: &Fresh,
        target: &'a Target,
    ) -> Self {
        let file = folder.path().join("source.db");
        for suffix in ["-wal", "-shm"] {
            // It is there only if the last copy was not closed.
            let _ = fs::remove_file(folder.path().join(format!("source.db{suffix}")));
        }
        fs::copy(source, &file).unwrap();
        fresh
            .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await;
        let processes = [
            Process::start(&file, target).await,
            Process::start(&file, target).await,
        ];
        let mut case = Self {
            file,
            target,
            processes,
        };
        for turn in turns {
            case.processes[*turn].step().await;
        }
        case
    }

    /// All that the next steps depend on.
    async fn state(&self) -> String {
        let [one, other] = &self.processes;
        let mark = one.mover.source.run(|source| source.mark()).await.unwrap();
        let found = self.target.look().await.unwrap();
        without_numbers(&format!(
            "{mark:?} {found:?} {} {}",
            one.state(),
            other.state()
        ))
    }

    /// Whether the target has the id of one process, and the source that of the other.
    async fn is_crossed(&self) -> bool {
        let source = &self.processes[0].mover.source;
        let mark = source.run(|source| source.mark()).await.unwrap();
        match (mark, self.target.look().await.unwrap()) {
            (Some(mark), Found::Arrival(it)) => mark.id != it.id,
            _ => false,
        }
    }

    /// Another process moves the store, after a crash of both.
    async fn moves_after_crash(self) -> Result<(), MoveError> {
        let Self { file, target, .. } = self;
        let mut process = Process::start(&file, target).await;
        while process.ended.is_none() {
            process.step().await;
        }
        process.ended.unwrap()?;
        let mark = process.mover.source.run(|source| source.mark()).await?;
        let found = target.look().await.unwrap();
        let mark = mark.unwrap();
        assert!(mark.is_complete);
        assert!(
            matches!(&found, Found::Arrival(it) if it.is_done && it.id == mark.id),
            "{found:?}"
        );
        Ok(())
    }
}

/// A state with its ids numbered as they come, and without other numbers.
fn without_numbers(state: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '-';
    let mut ids: Vec<&str> = Vec::new();
    let mut text = String::new();
    for piece in state.split_inclusive(|c| !is_part(c)) {
        let word = piece.trim_end_matches(|c| !is_part(c));
        let rest = &piece[word.len()..];
        if word.len() == 36 {
            let known = ids.iter().position(|id| *id == word);
            let at = known.unwrap_or_else(|| {
                ids.push(word);
                ids.len() - 1
            });
            let _ = write!(text, "id{at}"); // a string takes everything
        } else if !word
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit())
        {
            text += word;
        }
        text += rest;
    }
    text
}

fn settings(file: &Path) -> StoreSettings {
    let url = format!("sqlite:{}", file.display());
    Settings::with([("DB_URL", url.as_str())]).unwrap().store
}

fn sqlite(file: &Path) -> SqliteSettings {
    match settings(file).database {
        DatabaseSettings::Sqlite(sqlite) => sqlite,
        DatabaseSettings::Postgres(_) => panic!("{}", file.display()),
    }
}

/// Creates a store with one job.
async fn create(file: &Path) {
    let store = Store::open(&settings(file)).await.unwrap();
    let payload = RawValue::from_string("{}".to_owned()).unwrap();
    let job = NewJob::for_handler(
        "pdf".parse().unwrap(),
        RequestId::generate(),
        &payload,
        None,
    );
    assert_eq!(store.accept(job).await.unwrap(), Acceptance::Stored);
    store.close().await;
}

#[tokio::test]
async fn two_movers_in_any_order_of_steps_leave_what_the_next_one_completes() {
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("original.db");
    create(&source).await;
    let fresh = Fresh::open().await;
    let target = fresh.target();
    let (mut seen, mut crossed) = (BTreeSet::new(), 0);
    let mut paths = VecDeque::from([Vec::<Turn>::new()]);
    while let Some(path) = paths.pop_front() {
        let case = Case::after(&path, &source, &folder, &fresh, &target).await;
        let state = case.state().await;
        // Another path has led here, with all that follows.
        if !seen.insert(state.clone()) {
            continue;
        }
        let ends: Vec<_> = case.processes.iter().map(|it| it.ended.as_ref()).collect();
        if let [Some(one), Some(other)] = ends[..] {
            assert!(one.is_ok() || other.is_ok(), "{path:?} {state}");
        }
        for end in ends.iter().flatten() {
            let is_false = matches!(end, Err(MoveError::Different { .. } | MoveError::Source(_)));
            assert!(!is_false, "{path:?} {end:?}");
        }
        let next = case.processes.iter().enumerate();
        let next = next.filter(|(_, process)| process.ended.is_none());
        paths.extend(next.map(|(turn, _)| [&path[..], &[turn]].concat()));
        crossed += usize::from(case.is_crossed().await);
        let moved = case.moves_after_crash().await;
        assert!(moved.is_ok(), "{path:?} {state} {moved:?}");
    }
    assert!(seen.len() > 30 && crossed > 3, "{} {crossed}", seen.len());
    target.close().await;
    fresh.drop().await;
}

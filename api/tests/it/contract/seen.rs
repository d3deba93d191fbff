//! Which of the described answers the tests have seen, all together. Each run of the program
//! appends to the file that `ANSWERS_SEEN` names; `scripts/test.sh api` sets it, and reads it at
//! the end.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write as _,
    sync::{LazyLock, Mutex, PoisonError},
};

use serde_json::Value;

use super::DOCUMENT;
use crate::client::Answer;

/// Why some are not seen: `OPERATION STATUS: REASON`, or `problem NAME: REASON`.
const UNSEEN: &str = include_str!("unseen.txt");

static NOTED: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);

/// Notes an answer of an operation.
pub(super) fn note(operation: &Value, answer: &Answer) {
    let Some(file) = env::var_os("ANSWERS_SEEN") else {
        return;
    };
    let id = operation["operationId"].as_str().unwrap();
    let of_operation = format!("{id} {}\n", answer.status);
    let of_problem = answer
        .problem_name()
        .map(|name| format!("problem {name}\n"));
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    for line in [of_operation].into_iter().chain(of_problem) {
        if noted.insert(line.clone()) {
            let mut file = fs::File::options()
                .create(true)
                .append(true)
                .open(&file)
                .unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
    }
}

/// Every operation with every status of it, and every type of problem.
fn described() -> BTreeSet<String> {
    let problems = DOCUMENT["components"]["examples"]
        .as_object()
        .unwrap()
        .keys();
    let mut all: BTreeSet<_> = problems.map(|name| format!("problem {name}")).collect();
    for item in DOCUMENT["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            let statuses = operation["responses"].as_object().unwrap().keys();
            all.extend(statuses.map(|status| format!("{id} {status}")));
        }
    }
    all
}

#[test]
#[ignore = "it is about all other tests: scripts/test.sh api runs it after them"]
fn every_described_answer_was_seen_or_has_a_reason() {
    let file = env::var_os("ANSWERS_SEEN").expect("the file that the other tests wrote");
    let seen = fs::read_to_string(file).unwrap();
    let seen: BTreeSet<_> = seen.lines().map(str::to_owned).collect();
    let reasons: Vec<_> = UNSEEN
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(": ").expect(line).0)
        .collect();
    let is_explained = |answer: &String| reasons.contains(&answer.as_str());
    let described = described();
    let idle: Vec<_> = reasons
        .iter()
        .filter(|it| !described.contains(**it))
        .collect();
    assert!(
        idle.is_empty(),
        "reasons for answers that are not described: {idle:#?}"
    );
    let unseen: Vec<_> = described.difference(&seen).collect();
    let explained = unseen.iter().filter(|answer| is_explained(answer)).count();
    println!(
        "{} described answers, {} of them seen, {explained} with a reason why not",
        described.len(),
        described.len() - unseen.len()
    );
    let rest: Vec<_> = unseen
        .iter()
        .filter(|answer| !is_explained(answer))
        .collect();
    assert!(rest.is_empty(), "neither seen nor explained: {rest:#?}");
}

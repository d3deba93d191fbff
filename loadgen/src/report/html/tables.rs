//! The tables that a demo and storms share, and the words in them.

use super::{
    input::{Answers, Jobs, Times},
    model::{Table, figure},
    series::to_f64,
    time,
};

/// `96 % with a p95 of 4.9 s`.
pub(super) fn answered(answers: &Answers) -> String {
    let share = match answers.requests {
        0 => return "nothing".to_owned(),
        all => to_f64(answers.ok) * 100.0 / to_f64(all),
    };
    let share = match share {
        // Not rounded to what it is not.
        share if share > 99.9 && share < 100.0 => "almost 100".to_owned(),
        share => figure((share * 10.0).round() / 10.0),
    };
    match &answers.latency {
        Some(times) => format!("{share} % with a p95 of {}", time(times.p95_ms)),
        None => "none".to_owned(),
    }
}

/// The kinds of failure that there may be, as results name them.
pub(super) fn kinds(answers: &[&Answers]) -> Vec<String> {
    let mut kinds: Vec<String> = answers
        .iter()
        .flat_map(|it| it.failed.keys().cloned())
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// The field of a result, as words.
pub(super) fn words(field: &str) -> String {
    field.replace('_', " ")
}

/// Percentiles of answers, and of the ends of jobs.
pub(super) fn times(answers: &[(String, &Answers)], jobs: &[(String, &Jobs)]) -> Table {
    let header = ["latency, ms", "p50", "p95", "p99", "p99.9", "max"];
    let row = |name: String, times: Option<&Times>| {
        let of = |value: fn(&Times) -> f64| times.map_or("–".to_owned(), |it| figure(value(it)));
        vec![
            name,
            of(|it| it.p50_ms),
            of(|it| it.p95_ms),
            of(|it| it.p99_ms),
            of(|it| it.p99_9_ms),
            of(|it| it.max_ms),
        ]
    };
    let mut rows = Vec::new();
    for (name, answers) in answers {
        rows.push(row(name.clone(), answers.latency.as_ref()));
    }
    for (name, jobs) in jobs {
        let ended = jobs.time_to_completion.as_ref();
        rows.push(row(format!("{name}: job done"), ended));
        // How long a handler's work takes is not known.
        if jobs.ideal_ms > 0.0 {
            rows.push(row(
                format!("{name}: later than ideal"),
                jobs.lateness.as_ref(),
            ));
        }
    }
    Table {
        caption: "Latency of successful requests, and of jobs".to_owned(),
        header: header.map(str::to_owned).into(),
        rows,
    }
}

pub(super) fn counts_of_jobs(jobs: &[(String, &Jobs)]) -> Table {
    let header = [
        "jobs",
        "accepted",
        "right",
        "lost",
        "not awaited",
        "wrong",
        "failed",
        "repeated",
        "unexpected",
        "signed",
        "bad signature",
        "ideal, ms",
        "done, /s",
    ];
    let row = |(name, jobs): &(String, &Jobs)| {
        let counts = [
            jobs.accepted,
            jobs.right,
            jobs.lost,
            jobs.not_awaited,
            jobs.wrong,
            jobs.failed,
            jobs.repeated,
            jobs.unexpected,
            jobs.signatures.right,
            jobs.signatures.bad(),
        ];
        std::iter::once(name.clone())
            .chain(counts.map(|count| count.to_string()))
            .chain([figure(jobs.ideal_ms), figure(jobs.completed_per_s)])
            .collect()
    };
    Table {
        caption: "Jobs".to_owned(),
        header: header.map(str::to_owned).into(),
        rows: jobs.iter().map(row).collect(),
    }
}

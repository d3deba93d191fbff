//! The receivers of the live page, of what the workers say of them and of their backlogs.

use std::{cmp::Reverse, collections::BTreeMap};

use storm_shared::{
    models::BreakerState,
    services::store::{Overview, Pauses},
};

use super::ReceiverNow;

/// The receivers that a worker or a backlog names: those that hold back most first.
pub(super) fn receivers(read: &Overview, pauses: &Pauses) -> Vec<ReceiverNow> {
    let mut all = BTreeMap::new();
    let mut of = |tenant: &Option<String>, origin: &str, change: &dyn Fn(&mut ReceiverNow)| {
        let name = (origin.to_owned(), tenant.clone());
        change(all.entry(name).or_insert_with(|| ReceiverNow {
            tenant: tenant.clone(),
            origin: origin.to_owned(),
            breaker: None,
            jobs: 0,
            backlog: None,
            is_paused: pauses.origins.iter().any(|it| it.as_str() == origin),
        }));
    };
    let reports = read.workers.iter().filter_map(|it| it.report.as_ref());
    for reported in reports.flat_map(|report| &report.receivers) {
        of(&reported.tenant, &reported.origin, &|it| {
            it.breaker = it.breaker.max(Some(reported.breaker));
            it.jobs = it.jobs.saturating_add(reported.jobs);
        });
    }
    for counted in &read.destinations {
        of(&counted.tenant, &counted.origin, &|it| {
            it.backlog = Some(counted.backlog);
        });
    }
    let mut all: Vec<_> = all.into_values().collect();
    // Stable: those of the same rank stay in the order of their names.
    all.sort_by_key(|it| {
        let breaker = it.breaker.unwrap_or(BreakerState::Closed);
        Reverse((breaker, it.backlog.unwrap_or(0), it.jobs))
    });
    all
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::{BreakerState, ReceiverReport, WorkerReport},
        services::store::{DestinationStats, Overview, Pauses, WorkerSeen},
    };

    use super::receivers;

    fn worker(receivers: Vec<(Option<&str>, &str, BreakerState, u32)>) -> WorkerSeen {
        let mut report = WorkerReport::new(0);
        let receiver =
            |(tenant, origin, breaker, jobs): (Option<&str>, &str, _, _)| ReceiverReport {
                tenant: tenant.map(str::to_owned),
                origin: origin.to_owned(),
                breaker,
                jobs,
            };
        report.set_receivers(receivers.into_iter().map(receiver).collect());
        WorkerSeen {
            owner: String::new(),
            heartbeat_age_ms: Some(0),
            report: Some(report),
        }
    }

    #[test]
    fn the_workers_and_the_backlogs_are_joined_by_tenant_and_origin_and_trouble_comes_first() {
        let (up, down) = ("http://up.example", "http://down.example");
        let read = Overview {
            workers: vec![
                worker(vec![
                    (None, up, BreakerState::Closed, 3),
                    (Some("one"), down, BreakerState::HalfOpen, 1),
                ]),
                worker(vec![
                    (None, up, BreakerState::Closed, 4),
                    (Some("one"), down, BreakerState::Open, 0),
                ]),
            ],
            destinations: vec![DestinationStats {
                tenant: Some("two".to_owned()),
                origin: down.to_owned(),
                backlog: 9,
            }],
        };
        let pauses = Pauses {
            origins: [down.parse().unwrap()].into_iter().collect(),
            ..Pauses::default()
        };
        let seen: Vec<_> = receivers(&read, &pauses)
            .into_iter()
            .map(|it| {
                (
                    it.tenant,
                    it.origin,
                    it.breaker,
                    it.jobs,
                    it.backlog,
                    it.is_paused,
                )
            })
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            seen,
            [
                (
                    text("one"),
                    down.to_owned(),
                    Some(BreakerState::Open),
                    1,
                    None,
                    true
                ),
                (text("two"), down.to_owned(), None, 0, Some(9), true),
                (
                    None,
                    up.to_owned(),
                    Some(BreakerState::Closed),
                    7,
                    None,
                    false
                ),
            ]
        );
    }
}

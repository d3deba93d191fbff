//! How a worker spends file descriptors: mostly on the sockets of callbacks.

use storm_shared::{
    config::{HandlerKind, Settings},
    program::DescriptorBudget,
};

use crate::delivery::SystemResolver;

/// A worker's budget.
pub const BUDGET: DescriptorBudget = DescriptorBudget {
    listeners: |_| 1,
    wanted: |settings| {
        let http = &settings.http;
        let jobs = settings.worker.concurrency as usize;
        let idle = settings.callback.idle_connections;
        http.connections + http.refusals + of_jobs(jobs, idle) + of_handlers(settings, jobs)
    },
    shrink,
    least: |settings| {
        let jobs = least_jobs(settings);
        2 * LEAST_CONNECTIONS + of_jobs(jobs, jobs) + of_handlers(settings, jobs)
    },
};

/// A look-up opens a socket, or a file.
const OF_A_LOOK_UP: usize = 1;

/// In a shortage the listener gets no more than this: it serves health checks and scrapes.
const ENOUGH_CONNECTIONS: usize = 64;

/// The fewest connections of the listener, and those over its limit; and the fewest jobs of a
/// worker without handlers.
const LEAST_CONNECTIONS: usize = 4;
const LEAST_JOBS: usize = 2;

/// The descriptors of `jobs` that run at a time: a socket for each, `idle` connections that are
/// kept alive for the next ones, and name look-ups.
fn of_jobs(jobs: usize, idle: usize) -> usize {
    jobs + idle + OF_A_LOOK_UP * jobs.min(SystemResolver::MAX_LOOKUPS)
}

/// The fewest jobs: handlers get half of the slots, and each at least one.
fn least_jobs(settings: &Settings) -> usize {
    LEAST_JOBS.max(2 * settings.handlers.iter().len())
}

/// What handlers need besides, of `jobs` that run at a time: their endpoints' connections that are
/// kept alive, and name look-ups by a resolver of their own. An attempt has the socket of its job.
fn of_handlers(settings: &Settings, jobs: usize) -> usize {
    let http = settings.handlers.iter();
    let http = http.filter(|it| matches!(it.kind, HandlerKind::Http(_)));
    let concurrency: usize = http.map(|it| it.concurrency as usize).sum();
    let attempts = concurrency.min(jobs / 2);
    attempts + OF_A_LOOK_UP * attempts.min(SystemResolver::MAX_LOOKUPS)
}

fn shrink(settings: &mut Settings, room: usize) {
    let http = &mut settings.http;
    let listener = (room / 8).clamp(LEAST_CONNECTIONS, ENOUGH_CONNECTIONS);
    http.connections = http.connections.min(listener);
    http.refusals = http.refusals.min(listener);
    let room = room - http.connections - http.refusals;
    // The most jobs that fit: their descriptors grow with them.
    let idle = settings.callback.idle_connections;
    let (mut fit, mut too_many) = (least_jobs(settings), room + 1);
    while too_many - fit > 1 {
        let middle = usize::midpoint(fit, too_many);
        if of_jobs(middle, idle.min(middle)) + of_handlers(settings, middle) <= room {
            fit = middle;
        } else {
            too_many = middle;
        }
    }
    let jobs = &mut settings.worker.concurrency;
    *jobs = u32::try_from(fit).map_or(*jobs, |fit| fit.min(*jobs));
    settings.callback.idle_connections = idle.min(fit);
}

#[cfg(test)]
mod tests {
    use storm_shared::config::Settings;

    use super::{BUDGET, LEAST_CONNECTIONS, LEAST_JOBS};

    #[test]
    fn the_bounds_shrink_to_the_room_that_there_is() {
        let handlers = |a, b| {
            [
                ("HANDLERS__A__URL", "http://127.0.0.1:1/"),
                ("HANDLERS__A__CONCURRENCY", a),
                ("HANDLERS__B__URL", "http://127.0.0.1:1/"),
                ("HANDLERS__B__CONCURRENCY", b),
            ]
        };
        for (concurrency, handlers) in [
            ("1", &[][..]),
            ("5", &[]),
            ("10000", &[]),
            ("5", &handlers("1", "1")),
            ("10000", &handlers("10", "4990")),
        ] {
            let of_worker = [("WORKER_CONCURRENCY", concurrency)];
            let all = handlers.iter().chain(&of_worker).copied();
            let settings = Settings::with(all).unwrap();
            let least = (BUDGET.least)(&settings);
            let wanted = (BUDGET.wanted)(&settings);
            for room in [least, least + 1, 100, 1000, 5000, 15_000, wanted] {
                let mut shrunk = settings.clone();
                (BUDGET.shrink)(&mut shrunk, room);
                let needed = (BUDGET.wanted)(&shrunk);
                assert!(needed <= room, "{needed} in {room}");
                assert!(shrunk.http.connections >= LEAST_CONNECTIONS);
                assert!(shrunk.http.refusals >= LEAST_CONNECTIONS);
                let jobs = shrunk.worker.concurrency;
                assert!(jobs <= settings.worker.concurrency);
                let fair = settings
                    .worker
                    .concurrency
                    .min((room / 8).try_into().unwrap());
                assert!(
                    jobs as usize >= LEAST_JOBS.min(fair as usize),
                    "{jobs} of {room}"
                );
            }
        }
    }

    #[test]
    fn the_connections_of_handlers_count_and_those_of_code_do_not() {
        let wanted = |handlers: &[(&str, &str)]| {
            let settings = Settings::with(handlers.iter().copied()).unwrap();
            (BUDGET.wanted)(&settings)
        };
        let code = ("HANDLERS__A__KIND", "rust");
        assert_eq!(wanted(&[code]), wanted(&[]));
        let http = ("HANDLERS__A__URL", "http://127.0.0.1:1/");
        let concurrency = ("HANDLERS__A__CONCURRENCY", "10");
        // A connection and a look-up for each.
        assert_eq!(wanted(&[http, concurrency]), wanted(&[]) + 20);
    }
}

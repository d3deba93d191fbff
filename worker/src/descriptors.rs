//! How a worker spends file descriptors: mostly on the sockets of callbacks and of handlers.

use storm_shared::{
    config::{HandlerKind, Settings},
    program::DescriptorBudget,
};

use crate::delivery::{SystemResolver, pool::MAX_IDLE};

/// A worker's budget.
pub const BUDGET: DescriptorBudget = DescriptorBudget {
    listeners: |_| 1,
    wanted: |settings| {
        let http = &settings.http;
        http.connections + http.refusals + sockets(settings) + of_look_ups(settings, jobs(settings))
    },
    shrink,
    least: |settings| {
        let jobs = least_jobs(settings);
        2 * LEAST_CONNECTIONS + fewest_sockets(jobs) + of_look_ups(settings, jobs)
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

/// In a shortage, one slot in so many has no socket: jobs have none while they are claimed,
/// computed or settled. If all need one at the same time, some wait for a moment.
const ONE_SLOT_IN: usize = 17;

/// How many sockets of callbacks and of requests to handlers may be open at a time: one for each
/// slot, and idle ones, as far as descriptors suffice.
pub fn sockets(settings: &Settings) -> usize {
    let jobs = jobs(settings);
    let wanted = jobs + MAX_IDLE + of_handlers(settings, jobs);
    wanted.min(settings.worker.sockets)
}

fn jobs(settings: &Settings) -> usize {
    settings.worker.concurrency as usize
}

/// The fewest sockets with which `jobs` may run at a time. Dials close idle connections if they
/// need more.
fn fewest_sockets(jobs: usize) -> usize {
    jobs - jobs / ONE_SLOT_IN
}

/// The fewest jobs: handlers get half of the slots, and each at least one.
fn least_jobs(settings: &Settings) -> usize {
    LEAST_JOBS.max(2 * settings.handlers.iter().len())
}

/// The requests to handlers, of `jobs` that run at a time.
fn of_handlers(settings: &Settings, jobs: usize) -> usize {
    let http = settings.handlers.iter();
    let http = http.filter(|it| matches!(it.kind, HandlerKind::Http(_)));
    let concurrency: usize = http.map(|it| it.concurrency as usize).sum();
    concurrency.min(jobs / 2)
}

/// The name look-ups of `jobs` that run at a time. Handlers have a resolver of their own.
fn of_look_ups(settings: &Settings, jobs: usize) -> usize {
    let look_ups = |jobs: usize| OF_A_LOOK_UP * jobs.min(SystemResolver::MAX_LOOKUPS);
    look_ups(jobs) + look_ups(of_handlers(settings, jobs))
}

fn shrink(settings: &mut Settings, room: usize) {
    let http = &mut settings.http;
    let listener = (room / 8).clamp(LEAST_CONNECTIONS, ENOUGH_CONNECTIONS);
    http.connections = http.connections.min(listener);
    http.refusals = http.refusals.min(listener);
    let room = room - http.connections - http.refusals;
    // The most jobs that fit: their descriptors grow with them.
    let (mut fit, mut too_many) = (least_jobs(settings), 2 * room);
    while too_many - fit > 1 {
        let middle = usize::midpoint(fit, too_many);
        if fewest_sockets(middle) + of_look_ups(settings, middle) <= room {
            fit = middle;
        } else {
            too_many = middle;
        }
    }
    let concurrency = &mut settings.worker.concurrency;
    *concurrency = u32::try_from(fit).map_or(*concurrency, |fit| fit.min(*concurrency));
    settings.worker.sockets = room - of_look_ups(settings, jobs(settings));
}

#[cfg(test)]
mod tests {
    use storm_shared::config::Settings;

    use super::{BUDGET, LEAST_CONNECTIONS, LEAST_JOBS, fewest_sockets, sockets};

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
                assert!(sockets(&shrunk) >= fewest_sockets(jobs as usize));
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

    #[test]
    fn with_20_000_open_files_a_worker_runs_10_000_jobs_of_a_handler_and_lowers_more_in_proportion()
    {
        /// What a process has open besides: a generous guess.
        const FIXED: usize = 100;
        for (limit, slots) in [(20_000, 20_000), (10_000, 10_246), (1024, 709)] {
            let mut settings = Settings::with([
                ("WORKER_CONCURRENCY", "20000"),
                ("HANDLERS__A__URL", "http://127.0.0.1:1/"),
                ("HANDLERS__A__CONCURRENCY", "10000"),
            ])
            .unwrap();
            (BUDGET.shrink)(&mut settings, limit - FIXED);
            assert_eq!(settings.worker.concurrency, slots, "{limit}");
        }
    }
}

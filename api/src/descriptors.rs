//! How the API spends file descriptors: each client's connection needs one.

use storm_shared::{config::Settings, program::DescriptorBudget};

/// The API's budget.
pub const BUDGET: DescriptorBudget = DescriptorBudget {
    listeners,
    wanted: |settings| listeners(settings) * (settings.http.connections + settings.http.refusals),
    shrink,
    least: |settings| listeners(settings) * LEAST,
};

/// The fewest connections of a listener, with those over its limit.
const LEAST: usize = 8;

/// The API's own, and that of `METRICS_ADDR`.
fn listeners(settings: &Settings) -> usize {
    1 + usize::from(settings.access.metrics_addr.is_some())
}

fn shrink(settings: &mut Settings, room: usize) {
    let room = room / listeners(settings);
    let http = &mut settings.http;
    // A client past the bound gets its 503 over a descriptor, too.
    http.refusals = http.refusals.min(room / 8).max(2);
    http.connections = http.connections.min(room - http.refusals);
}

#[cfg(test)]
mod tests {
    use storm_shared::config::Settings;

    use super::BUDGET;

    #[test]
    fn the_bounds_shrink_to_the_room_that_there_is() {
        for metrics in ["", "127.0.0.1:0"] {
            for room in [16, 17, 100, 1000, 12_000, 20_000] {
                let mut settings = Settings::with([("METRICS_ADDR", metrics)]).unwrap();
                let wanted = (BUDGET.wanted)(&settings);
                assert!((BUDGET.least)(&settings) <= room);
                (BUDGET.shrink)(&mut settings, room);
                let shrunk = (BUDGET.wanted)(&settings);
                assert!(shrunk <= room.min(wanted), "{shrunk} in {room}");
                assert!(shrunk + 64 + 2 >= room.min(wanted), "{shrunk} of {room}");
                assert!(settings.http.connections >= 5, "{room}");
                assert!(settings.http.refusals >= 2, "{room}");
            }
        }
    }
}

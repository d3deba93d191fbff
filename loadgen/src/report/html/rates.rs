//! Plots over the offered rate: how far an endpoint keeps up, and at what latency.

use std::collections::BTreeMap;

use super::{
    input::{Storm, Times},
    model::{Axis, Cell, Figure, Ink, Line, Lines, Plot, Unit, Vertical, Weight},
    series::{self, to_f64},
};

/// The throughput at which an endpoint still keeps up, as a share of the rate that is offered.
const KEEPS_UP: f64 = 0.95;

/// Rates that differ by more than this are on a logarithmic scale.
const WIDE: f64 = 16.0;

/// The look of an endpoint.
pub(super) fn ink(mode: &str) -> Ink {
    if mode == "sync" {
        Ink::Sync
    } else {
        Ink::Async
    }
}

/// A line of a plot over rates: its name and look, and its value of each storm that has one.
struct Curve {
    name: String,
    ink: Ink,
    weight: Weight,
    values: BTreeMap<u64, f64>,
}

impl Curve {
    fn of(
        storms: &[Storm],
        (name, ink, weight): (&str, Ink, Weight),
        value: impl Fn(&Storm) -> Option<f64>,
    ) -> Self {
        let pairs = storms
            .iter()
            .filter_map(|it| Some((key(it.rate), value(it)?)));
        Self {
            name: name.to_owned(),
            ink,
            weight,
            values: pairs.collect(),
        }
    }
}

/// A rate is a whole number, as the command line has it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is from 1 to 50000"
)]
fn key(rate: f64) -> u64 {
    rate.max(0.0).round() as u64
}

fn of_mode(mode: &str) -> impl Fn(&Storm) -> bool {
    move |storm| storm.mode == mode
}

/// The requests that succeeded, each second of those in which the load was offered.
fn goodput(storm: &Storm) -> Option<f64> {
    (storm.offered > 0).then(|| storm.rate * to_f64(storm.answers.ok) / to_f64(storm.offered))
}

/// Throughput against offered rate, with the knee.
pub(super) fn throughput(storms: &[Storm]) -> Figure {
    let (blocking, queued) = (of_mode("sync"), of_mode("async"));
    let curves = [
        Curve::of(storms, ("offered", Ink::Neutral, Weight::Thin), |it| {
            Some(it.rate)
        }),
        Curve::of(storms, ("/sync ok", Ink::Sync, Weight::Thick), |it| {
            goodput(it).filter(|_| blocking(it))
        }),
        Curve::of(
            storms,
            ("/async accepted", Ink::Async, Weight::Thick),
            |it| goodput(it).filter(|_| queued(it)),
        ),
        Curve::of(storms, ("delivered", Ink::Callback, Weight::Medium), |it| {
            // From the run's start to the last job, which ends later than the load.
            it.jobs.as_ref().map(|jobs| jobs.completed_per_s)
        }),
    ];
    let mut marks = Vec::new();
    let mut sentences = Vec::new();
    for (name, mode, curve) in [
        ("/sync", "sync", &curves[1]),
        ("/async", "async", &curves[2]),
    ] {
        let Some(knee) = knee(&curve.values) else {
            continue;
        };
        sentences.push(knee.sentence(name));
        if let Knee::At(rate) = knee {
            marks.push(Vertical {
                at: to_f64(rate),
                label: format!("{name} keeps up to {rate}/s"),
                ink: ink(mode),
            });
        }
    }
    over_rates(
        "Throughput against offered rate",
        format!(
            "Requests that succeeded, against those that were offered: an endpoint keeps up as long \
             as its line stays on the diagonal, by {} % at least. {}",
            KEEPS_UP * 100.0,
            sentences.join(" ")
        ),
        (curves.into(), marks),
        Axis::new("throughput", Unit::PerSecond, is_wide(storms)),
        is_wide(storms),
    )
}

/// How far an endpoint keeps up with the offered rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knee {
    /// The highest rate with which it keeps up.
    At(u64),
    /// It keeps up with all rates, the highest of which is this.
    Beyond(u64),
    /// It does not even keep up with the lowest rate.
    Before(u64),
}

impl Knee {
    fn sentence(self, name: &str) -> String {
        match self {
            Self::At(rate) => format!("{name} keeps up to {rate}/s."),
            Self::Beyond(rate) => format!("{name} keeps up with every rate, up to {rate}/s."),
            Self::Before(rate) => format!("{name} does not even keep up with {rate}/s."),
        }
    }
}

/// Where the throughput leaves the offered rate; none without a value.
fn knee(throughput: &BTreeMap<u64, f64>) -> Option<Knee> {
    let keeps_up = |(rate, value): &(&u64, &f64)| **value >= KEEPS_UP * to_f64(**rate);
    let (first, last) = (throughput.keys().next()?, throughput.keys().next_back()?);
    let kept = throughput.iter().take_while(keeps_up).last();
    Some(match kept {
        None => Knee::Before(*first),
        Some((rate, _)) if rate == last => Knee::Beyond(*rate),
        Some((rate, _)) => Knee::At(*rate),
    })
}

/// Latency against offered rate.
pub(super) fn latency(storms: &[Storm]) -> Figure {
    type Look = (&'static str, Ink, Weight);
    let of = |mode: &'static str, look: Look, value: fn(&Times) -> f64| {
        Curve::of(storms, look, move |it| {
            let latency = it.answers.latency.as_ref().filter(|_| it.mode == mode);
            latency.map(value)
        })
    };
    let end = |look: Look, value: fn(&Times) -> f64| {
        Curve::of(storms, look, move |it| {
            let time = it.jobs.as_ref()?.time_to_completion.as_ref();
            time.map(value)
        })
    };
    let curves = vec![
        of("sync", ("/sync p50", Ink::Sync, Weight::Thin), |it| {
            it.p50_ms
        }),
        of("sync", ("/sync p99", Ink::Sync, Weight::Thick), |it| {
            it.p99_ms
        }),
        of("async", ("/async p50", Ink::Async, Weight::Thin), |it| {
            it.p50_ms
        }),
        of("async", ("/async p99", Ink::Async, Weight::Thick), |it| {
            it.p99_ms
        }),
        end(("job done p50", Ink::Callback, Weight::Thin), |it| {
            it.p50_ms
        }),
        end(("job done p99", Ink::Callback, Weight::Thick), |it| {
            it.p99_ms
        }),
    ];
    over_rates(
        "Latency against offered rate",
        "How long successful requests took at each rate, and jobs until their end. Refused requests \
         do not count. The scale is logarithmic."
            .to_owned(),
        (curves, Vec::new()),
        Axis::new("latency", Unit::Milliseconds, true),
        is_wide(storms),
    )
}

fn is_wide(storms: &[Storm]) -> bool {
    match (storms.first(), storms.last()) {
        (Some(first), Some(last)) => last.rate > first.rate * WIDE,
        _ => false,
    }
}

fn over_rates(
    title: &str,
    about: String,
    (curves, marks): (Vec<Curve>, Vec<Vertical>),
    y: Axis,
    log: bool,
) -> Figure {
    let mut rates: Vec<u64> = curves
        .iter()
        .flat_map(|it| it.values.keys().copied())
        .collect();
    rates.sort_unstable();
    rates.dedup();
    let line = |curve: &Curve| -> Line {
        // A run that answered nothing has no latency, and no point: the line goes on beyond it.
        let cell = |rate| {
            curve
                .values
                .get(rate)
                .map_or(Cell::Absent, |it| Cell::Value(*it))
        };
        let cells = rates.iter().map(cell).collect();
        series::line(curve.name.clone(), curve.ink, curve.weight, true, cells)
    };
    let lines = curves.iter().filter(|it| !it.values.is_empty());
    let lines = Lines {
        x: Axis::new("offered", Unit::PerSecond, log),
        y,
        lines: lines.map(line).collect(),
        at: rates.iter().map(|rate| to_f64(*rate)).collect(),
        marks,
        together: None,
    };
    if lines.is_empty() {
        return series::missing(
            title.to_owned(),
            &about,
            "No request succeeded at any rate.",
        );
    }
    Figure {
        title: title.to_owned(),
        about,
        plot: Plot::Lines(lines),
    }
}

#[cfg(test)]
mod tests {
    use super::{Knee, knee};

    #[test]
    fn the_knee_is_the_last_rate_before_the_throughput_falls_behind() {
        for (values, expected) in [
            (
                vec![(25, 25.0), (50, 49.0), (100, 60.0), (200, 60.0)],
                Knee::At(50),
            ),
            (vec![(25, 25.0), (50, 50.0)], Knee::Beyond(50)),
            (vec![(25, 20.0), (50, 50.0)], Knee::Before(25)),
            // A throughput that recovers by chance does not move it.
            (vec![(25, 25.0), (50, 30.0), (100, 100.0)], Knee::At(25)),
        ] {
            let throughput = values.iter().copied().collect();
            assert_eq!(knee(&throughput), Some(expected), "{values:?}");
        }
        assert_eq!(knee(&[].into()), None);
    }
}

//! What the jobs of a run tell about the promises, and what its thresholds have come to.

use super::{
    input::{Jobs, Threshold},
    model::{Check, Mark, figure},
};

/// The promises about jobs, judged by those of all runs.
pub(super) fn checks(jobs: &[&Jobs]) -> Vec<Check> {
    let total = |of: fn(&Jobs) -> u64| jobs.iter().map(|it| of(it)).sum::<u64>();
    let accepted = total(|it| it.accepted);
    let open = |promise| {
        let why = if jobs.is_empty() {
            "this run had no jobs"
        } else {
            "no job was accepted"
        };
        Check::new(Mark::Open, promise, why)
    };
    let ends = "Every job ends";
    let delivery = "At-least-once delivery";
    let mut checks = Vec::new();
    if accepted == 0 {
        checks.extend([open(ends), open(delivery)]);
    } else {
        let (lost, not_awaited) = (total(|it| it.lost), total(|it| it.not_awaited));
        let mark = match (lost, not_awaited) {
            (0, 0) => Mark::Kept,
            (0, _) => Mark::Open,
            _ => Mark::Broken,
        };
        let detail = match mark {
            Mark::Kept => format!("all {accepted} accepted jobs ended"),
            Mark::Open => format!("{not_awaited} of {accepted} jobs were not awaited"),
            Mark::Broken => format!("{lost} of {accepted} accepted jobs did not end in time"),
        };
        checks.push(Check::new(mark, ends, detail));

        let right = total(|it| it.right);
        let (wrong, failed) = (total(|it| it.wrong), total(|it| it.failed));
        let repeated = total(|it| it.repeated);
        let mark = match right {
            right if wrong + failed > 0 || (mark == Mark::Broken && right < accepted) => {
                Mark::Broken
            }
            right if right < accepted => Mark::Open,
            _ => Mark::Kept,
        };
        let repeats = match repeated {
            0 => "none came twice".to_owned(),
            repeated => format!("{repeated} came again, which is allowed"),
        };
        let detail = match wrong + failed {
            0 => format!("{right} of {accepted} results arrived and are right; {repeats}"),
            _ => format!(
                "{right} of {accepted} results arrived and are right; {wrong} were wrong, and \
                 {failed} jobs failed; {repeats}"
            ),
        };
        checks.push(Check::new(mark, delivery, detail));
    }
    let signed: u64 = jobs.iter().map(|it| it.signatures.right).sum();
    let bad: u64 = jobs.iter().map(|it| it.signatures.bad()).sum();
    if jobs.iter().any(|it| it.signatures.checked) && signed + bad > 0 {
        let detail = match bad {
            0 => format!("all {signed} signatures were verified"),
            bad => format!("{bad} of {} signatures are invalid", signed + bad),
        };
        checks.push(Check::new(Mark::of(bad == 0), "Signed callbacks", detail));
    }
    checks.push(Check::new(
        Mark::Open,
        "Durable",
        "not tested here: nothing was killed. make chaos does that",
    ));
    checks
}

/// A threshold of `--fail-if`, which stands beside the promises, of this one of several runs.
pub(super) fn of_threshold(threshold: &Threshold, run: Option<&str>) -> Check {
    let measured = threshold.measured.map_or_else(
        || "not measured".to_owned(),
        |number| match threshold.unit.as_deref() {
            None => format!("measured: {}", figure(number)),
            Some("per_s") => format!("measured: {}/s", figure(number)),
            Some("%") => format!("measured: {} %", figure(number)),
            Some(unit) => format!("measured: {} {unit}", figure(number)),
        },
    );
    let promise = match run {
        None => format!("Not {}", threshold.fail_if),
        Some(run) => format!("{run}: not {}", threshold.fail_if),
    };
    Check::new(Mark::of(!threshold.exceeded), &promise, measured)
}

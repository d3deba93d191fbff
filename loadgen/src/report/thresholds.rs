//! The thresholds of a run: a line for each.

use std::time::Duration;

use super::human;
use crate::thresholds::{Judged, Measured, Unit};

/// A line for each: a mark, the condition, and what was measured.
pub(super) fn lines(thresholds: &[Judged]) -> impl Iterator<Item = String> {
    thresholds.iter().map(|judged| {
        let mark = if judged.exceeded { '✗' } else { '✓' };
        let measured = judged
            .measured
            .map_or_else(|| "not measured".to_owned(), text);
        format!("{mark} fail if {}: {measured}", judged.fail_if)
    })
}

/// Why a run that passed otherwise has failed; none if every threshold holds.
pub(super) fn failure(thresholds: &[Judged]) -> Option<String> {
    let exceeded = thresholds.iter().filter(|judged| judged.exceeded).count();
    let all = thresholds.len();
    (exceeded > 0).then(|| format!("failed: {exceeded} of {all} thresholds"))
}

fn text(Measured { number, unit }: Measured) -> String {
    match unit {
        Unit::Millis => human(Duration::from_secs_f64(number / 1e3)),
        Unit::Count => number.to_string(),
        Unit::Percent => format!("{number:.2} %"),
        Unit::PerSecond => format!("{number:.1}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{failure, lines};
    use crate::thresholds::{Judged, Measured, Unit};

    fn judged(fail_if: &str, measured: Option<Measured>, exceeded: bool) -> Judged {
        let (fail_if, figure) = (fail_if.to_owned(), String::new());
        Judged {
            fail_if,
            figure,
            measured,
            exceeded,
        }
    }

    #[test]
    fn each_threshold_is_a_line_with_its_mark_and_what_was_measured() {
        let thresholds = [
            judged("p99>50ms", Some(Unit::Millis.of(4.306)), false),
            judged("lost>0", Some(Unit::Count.of(3.0)), true),
            judged("refused>0.5%", Some(Unit::Percent.of(0.125)), false),
            judged("ok_per_s<10", Some(Unit::PerSecond.of(9.96)), true),
            judged("callback.p99>1s", None, true),
        ];
        let expected = [
            "✓ fail if p99>50ms: 4.31 ms",
            "✗ fail if lost>0: 3",
            "✓ fail if refused>0.5%: 0.12 %",
            "✗ fail if ok_per_s<10: 10.0/s",
            "✗ fail if callback.p99>1s: not measured",
        ];
        assert_eq!(lines(&thresholds).collect::<Vec<_>>(), expected);
        let failed = Some("failed: 3 of 5 thresholds".to_owned());
        assert_eq!(failure(&thresholds), failed);
        assert_eq!(failure(&thresholds[..1]), None);
    }
}

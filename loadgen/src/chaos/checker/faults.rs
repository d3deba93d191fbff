//! Every promised fault happened, and in the midst of work.

use super::{index::Index, verdict::Finding};
use crate::chaos::history::Limits;

pub(super) fn check(index: &Index<'_>, limits: &Limits) -> Vec<Finding> {
    let happened = |kind: &str| index.faults.iter().any(|fault| fault.kind == kind);
    let promised = limits.faults.iter();
    let missing = promised
        .filter(|kind| !happened(kind))
        .map(|kind| format!("`{kind}` was promised, and never done"));
    let idle = index
        .faults
        .iter()
        .filter(|fault| fault.in_flight == 0)
        .map(|fault| {
            format!(
                "`{}` at {:.3} hit no job: none was in flight",
                fault.kind, fault.at
            )
        });
    missing.chain(idle).map(Finding::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Rule, example::Example};
    use crate::chaos::history::Record;

    #[test]
    fn every_promised_fault_is_done() {
        Example::without(|record| matches!(record, Record::Fault(it) if it.kind == "kill_worker"))
            .is_refused_as_a_whole(Rule::Faults, "`kill_worker` was promised, and never done");
    }

    #[test]
    fn every_single_fault_hits_a_job() {
        let mut example = Example::good();
        let idle = example.records.iter().find_map(|record| match record {
            Record::Fault(fault) => Some(fault.clone()),
            _ => None,
        });
        let mut idle = idle.unwrap();
        idle.in_flight = 0;
        example.records.push(Record::Fault(idle));
        example.is_refused_as_a_whole(Rule::Faults, "none was in flight");
    }
}

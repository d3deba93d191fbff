//! The faults of one request, collected so that all of them are reported at once.

use crate::reply::FieldError;
#[cfg(test)]
use crate::reply::Problem;

#[derive(Default)]
pub(super) struct Faults(pub(super) Vec<FieldError>);

impl Faults {
    pub(super) fn add(&mut self, field: &str, detail: impl Into<String>) {
        self.0.push(FieldError {
            field: field.to_owned(),
            detail: detail.into(),
        });
    }

    /// The name is that of no field; `known` says which there are.
    pub(super) fn unknown(&mut self, name: &str, known: &str) {
        let detail = format!("is not a field of this request; its fields are {known}");
        self.add(name, detail);
    }

    /// Returns a valid value; otherwise records its fault.
    pub(super) fn keep<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|detail| self.add(field, detail)).ok()
    }
}

/// The faults of a problem as `field: detail`.
#[cfg(test)]
pub(super) fn described(problem: &Problem) -> Vec<String> {
    let errors = problem.errors().iter();
    errors
        .map(|error| format!("{}: {}", error.field, error.detail))
        .collect()
}

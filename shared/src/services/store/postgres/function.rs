//! Statements as functions of the database, whose plans the server keeps.
//!
//! To parse and plan an unnamed statement of a batch takes the server longer than to run it for
//! several jobs. A prepared one would belong to a connection, which a pooler hands to others. The
//! plans of a function belong to the server's process, whoever uses it.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use tokio_postgres::types::{ToSql, Type};

use super::session::Parameter;

/// A statement that the database has as a function.
pub(super) struct Function {
    /// Has a hash of the definition: programs of two releases each call their own.
    name: String,
    /// SQL that creates it.
    definition: String,
    /// SQL that calls it, with the parameters of the statement.
    call: String,
    types: Vec<Type>,
}

impl Function {
    /// `sql` has parameters of these `types`, and returns `columns`: their names and types.
    ///
    /// It waits 5 seconds for a lock. What it names, it finds by an index: the planner would scan
    /// the table for the hundreds of rows of a batch, as long as it is of some size; and compile
    /// its plan, if it must scan one. The plan is made without the parameters, and so only once.
    pub(super) fn new(purpose: &str, types: &[Type], columns: &str, sql: &str) -> Self {
        let names: Vec<&str> = types.iter().map(Type::name).collect();
        let definition = format!(
            "({}) RETURNS TABLE ({columns}) LANGUAGE plpgsql
             SET lock_timeout = '5s' SET enable_seqscan = off SET jit = off
             SET plan_cache_mode = force_generic_plan
             AS $function$
             #variable_conflict use_column
             BEGIN RETURN QUERY {sql}; END
             $function$",
            names.join(", ")
        );
        let mut name = format!("storm_{purpose}_");
        for byte in &Sha256::digest(&definition)[..6] {
            let _ = write!(name, "{byte:02x}"); // a string takes all
        }
        let values: Vec<String> = (1..=types.len())
            .map(|number| format!("${number}"))
            .collect();
        Self {
            call: format!("SELECT * FROM {name}({})", values.join(", ")),
            definition: format!("CREATE FUNCTION {name}{definition}"),
            name,
            types: types.to_vec(),
        }
    }

    /// The parameters of a call with these values.
    pub(super) fn with<'a>(&self, values: &[&'a (dyn ToSql + Sync)]) -> Vec<Parameter<'a>> {
        let values = values.iter().copied();
        values.zip(self.types.iter().cloned()).collect()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn definition(&self) -> &str {
        &self.definition
    }

    pub(super) fn call(&self) -> &str {
        &self.call
    }
}

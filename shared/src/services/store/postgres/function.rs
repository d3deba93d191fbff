//! Statements as functions of the database, whose plans the server keeps.
//!
//! To parse and plan an unnamed statement of a batch takes the server longer than to run it for
//! several jobs. A prepared one would belong to a connection, which a pooler hands to others. The
//! plans of a function belong to the server's process, whoever uses it.

use sha2::{Digest as _, Sha256};
use tokio_postgres::types::{ToSql, Type};

use super::session::Parameter;
use crate::services::report::hex;

/// A statement that the database has as a function.
pub(super) struct Function {
    /// Has a hash of the definition: programs of two releases each call their own.
    name: String,
    /// SQL for the name with the types of the parameters.
    signature: String,
    /// SQL for what is behind the name when it is created.
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
        let hash = hex(&Sha256::digest(&definition)[..6]);
        let name = format!("storm_{purpose}_{hash}");
        let values: Vec<String> = (1..=types.len())
            .map(|number| format!("${number}"))
            .collect();
        Self {
            call: format!("SELECT * FROM {name}({})", values.join(", ")),
            signature: format!("{name}({})", names.join(", ")),
            name,
            definition,
            types: types.to_vec(),
        }
    }

    /// The parameters of a call with these values.
    pub(super) fn with<'a>(&self, values: &[&'a (dyn ToSql + Sync)]) -> Vec<Parameter<'a>> {
        let values = values.iter().copied();
        values.zip(self.types.iter().cloned()).collect()
    }

    pub(super) fn signature(&self) -> &str {
        &self.signature
    }

    /// SQL that creates it in `schema`, which is quoted if it must be.
    pub(super) fn definition(&self, schema: &str) -> String {
        format!("CREATE FUNCTION {schema}.{}{}", self.name, self.definition)
    }

    pub(super) fn call(&self) -> &str {
        &self.call
    }
}

//! A worker with a handler of its own, in Rust: it answers in capital letters.
//!
//! The settings of the API and of this worker have a table for it:
//!
//! ```toml
//! [handlers.shout]
//! kind = "rust"
//! ```

use std::{process::ExitCode, time::Duration};

use serde::Deserialize;
use storm_worker::{
    Builder,
    handler::{Context, Failure, Handler, Job, Output},
};

struct Shout;

#[derive(Deserialize)]
struct Words {
    text: String,
}

impl Handler for Shout {
    async fn run(&self, job: &Job, context: &Context) -> Result<Output, Failure> {
        // Another payload fails the job: no other attempt could succeed.
        let Words { text } = job.parse()?;
        // The slow part. At the deadline, or if the job is cancelled, it is dropped.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if text.is_empty() && context.attempt == 1 {
            return Err(Failure::retry("nothing to say yet")); // another attempt follows
        }
        Ok(Output::text(&text.to_uppercase()))
    }
}

fn main() -> ExitCode {
    Builder::new().handler("shout", Shout).main()
}

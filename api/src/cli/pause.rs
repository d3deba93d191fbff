//! `pause`, `resume` and `pauses`: what operators hold back for a while.

use std::str::FromStr;

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{
    models::{Origin, OriginError},
    program::Subcommand,
    services::store::Paused,
};

use super::{
    Failure, finish, on_store,
    operator::OperatorArgument,
    output::{self, Column},
};
use crate::{repeat::until_known, reply};

const PAUSE: &str = "\
Pauses all work, or the callbacks to one origin, until it is resumed: also over restarts. While \
everything is paused, no worker claims a job; jobs that run go on to the end of their attempt. The \
jobs of a paused origin wait in the database, and spend no attempt. New jobs are accepted. A repeat \
changes nothing.";

const RESUME: &str = "\
Ends a pause. To resume everything leaves paused origins paused. A repeat changes nothing.";

const COLUMNS: [Column; 3] = [("PAUSED", 10), ("SINCE", 24), ("OPERATOR", 1)];

/// What to pause or resume, and who does.
#[derive(Debug, clap::Args)]
struct Change {
    // In an attribute, because rustdoc wants brackets around a URL.
    #[arg(
        value_name = "everything|ORIGIN",
        help = "`everything`, or the origin of callback URLs: scheme, host and port, such as \
                https://hooks.example"
    )]
    what: What,
    #[command(flatten)]
    by: OperatorArgument,
}

/// The pauses in force.
#[derive(Debug, clap::Args)]
struct List {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug)]
struct What(Paused);

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "everything" {
            return Ok(Self(Paused::Everything));
        }
        text.parse()
            .map(|origin: Origin| Self(Paused::Origin(origin)))
            .map_err(|error| match error {
                OriginError::Form => format!("must be `everything`, or {}", OriginError::ACCEPTED),
                error @ OriginError::Url(_) => error.to_string(),
            })
    }
}

/// The subcommands.
pub(super) fn subcommands() -> Vec<Subcommand> {
    vec![
        Subcommand {
            command: Change::augment_args(Command::new("pause"))
                .about("Pauses all work, or the callbacks to one origin")
                .long_about(PAUSE),
            run: |arguments| Box::pin(async move { finish(change(&arguments, true).await) }),
        },
        Subcommand {
            command: Change::augment_args(Command::new("resume"))
                .about("Ends a pause")
                .long_about(RESUME),
            run: |arguments| Box::pin(async move { finish(change(&arguments, false).await) }),
        },
        Subcommand {
            command: List::augment_args(Command::new("pauses")).about("Lists what is paused"),
            run: |arguments| Box::pin(async move { finish(list(&arguments).await) }),
        },
    ]
}

async fn change(arguments: &ArgMatches, is_paused: bool) -> Result<(), Failure> {
    let Change {
        what: What(what),
        by,
    } = Change::from_arg_matches(arguments)?;
    let operator = by.name();
    on_store(async |store, settings| {
        let change = async || {
            if is_paused {
                store.pause(what.clone(), operator.clone()).await
            } else {
                let resumed = store.resume(what.clone(), operator.clone()).await;
                resumed.map(Ok)
            }
        };
        // A repeat changes nothing.
        let changed = until_known(settings.http.timeout, change).await?;
        let changed = changed.map_err(|error| Failure::Undone(error.to_string()))?;
        let message = reply::pause_message(&what, is_paused, changed);
        let mark = if changed { "" } else { " (no change)" };
        output::write(&format!("{message}{mark}.\n"))?;
        Ok(())
    })
    .await
}

async fn list(arguments: &ArgMatches) -> Result<(), Failure> {
    let List { json } = List::from_arg_matches(arguments)?;
    on_store(async |store, _| {
        let pauses = store.pauses().await?;
        let text = if json {
            output::json(&reply::PausesShown::of(&pauses))?
        } else {
            let rows: Vec<_> = pauses
                .into_iter()
                .map(|pause| {
                    let what = match pause.what {
                        Paused::Everything => "everything".to_owned(),
                        Paused::Origin(origin) => origin.to_string(),
                    };
                    vec![what, pause.since, pause.operator]
                })
                .collect();
            output::table(&COLUMNS, true, &rows)
        };
        output::write(&text)?;
        Ok(())
    })
    .await
}

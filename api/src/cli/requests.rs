//! `requests list`, `show`, `cancel` and `redeliver`.

mod actions;
mod list;
mod show;

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{models::RequestId, program::Subcommand};

use super::{Failure, finish, operator::OperatorArgument};

const LONG_ABOUT: &str = "\
Reads and changes requests, of all clients, in the database of the services: run it with their \
settings (DB_URL, STORM_CONFIG), on their host. The services may run or not.";

/// The requests that a command is about.
#[derive(Debug, clap::Args)]
struct Named {
    /// The ids of the requests
    #[arg(required = true, value_name = "ID", value_parser = id)]
    ids: Vec<RequestId>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    by: OperatorArgument,
}

fn id(text: &str) -> Result<RequestId, &'static str> {
    text.parse()
        .map_err(|_| "expected a request's id, a UUID such as 0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42")
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: command(),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

fn command() -> Command {
    // The texts after the arguments, whose own documentation would replace them.
    let list = list::List::augment_args(Command::new("list"))
        .about("Lists requests, newest first")
        .long_about(list::LONG_ABOUT);
    let show = show::Show::augment_args(Command::new("show"))
        .about("Shows a request: its state, payloads, attempts and events")
        .long_about(show::LONG_ABOUT);
    let cancel = Named::augment_args(Command::new("cancel"))
        .about("Cancels unfinished jobs, or redeliveries in progress")
        .long_about(actions::CANCEL);
    let redeliver = actions::Redeliver::augment_args(Command::new("redeliver"))
        .about("Sends the callbacks of finished requests again")
        .long_about(actions::REDELIVER);
    Command::new("requests")
        .about("Lists, shows, cancels and redelivers requests")
        .long_about(LONG_ABOUT)
        .subcommands([list, show, cancel, redeliver])
        .subcommand_required(true)
        .disable_help_subcommand(true)
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    match arguments.subcommand() {
        Some(("list", arguments)) => list::List::from_arg_matches(arguments)?.run().await,
        Some(("show", arguments)) => show::Show::from_arg_matches(arguments)?.run().await,
        Some(("cancel", arguments)) => actions::cancel(Named::from_arg_matches(arguments)?).await,
        Some((_, arguments)) => {
            actions::redeliver(actions::Redeliver::from_arg_matches(arguments)?).await
        }
        None => Ok(()), // clap requires one
    }
}

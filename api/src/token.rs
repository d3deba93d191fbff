//! The subcommand `token new NAME`: makes a token for a client or an operator, and its entry for
//! `API_TOKENS` or `ADMIN_TOKENS`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Arg, Command, value_parser};
use storm_shared::{models::ClientName, program::Subcommand, services::access::Token};

/// The subcommand. It reads no settings.
pub fn subcommand() -> Subcommand {
    Subcommand {
        command: command(),
        run: |arguments| {
            let name = arguments
                .subcommand_matches("new")
                .and_then(|arguments| arguments.get_one::<ClientName>("name"))
                .cloned();
            Box::pin(async move {
                #[expect(clippy::expect_used, reason = "clap requires `new` and NAME")]
                let name = name.expect("`token new NAME`");
                print(&name).unwrap_or_else(|error| {
                    // A closed standard error leaves nowhere to report to.
                    let _ = writeln!(io::stderr(), "cannot make a token: {error}");
                    ExitCode::FAILURE
                })
            })
        },
    }
}

fn command() -> Command {
    let name = Arg::new("name")
        .value_name("NAME")
        .required(true)
        .value_parser(value_parser!(ClientName))
        .help("The name of the client or operator: 1 to 64 letters, digits, dots, underscores and hyphens");
    let new = Command::new("new")
        .about("Makes a random token")
        .long_about(
            "Makes a random token and prints two lines: the token, which only its owner may know, and its \
             entry NAME:SHA256. The entry goes into API_TOKENS if NAME is a client, or into ADMIN_TOKENS if \
             NAME is an operator. METRICS_TOKEN takes such an entry as well. The token is not stored: if it is lost, make a new one.",
        )
        .arg(name);
    Command::new("token")
        .about("Makes tokens for API_TOKENS and ADMIN_TOKENS")
        .subcommand(new)
        .subcommand_required(true)
        .disable_help_subcommand(true)
}

fn print(name: &ClientName) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let token = Token::generate()?;
    let mut stderr = io::stderr();
    // Not on standard output: that holds the two lines alone, for a script to read.
    writeln!(
        stderr,
        "Token of {name} (shown once, not stored), and its entry for API_TOKENS if it is a client, or \
         for ADMIN_TOKENS if it is an operator:"
    )?;
    let hash = token.hash().to_hex();
    writeln!(io::stdout(), "{}\n{name}:{hash}", token.as_str())?;
    Ok(ExitCode::SUCCESS)
}

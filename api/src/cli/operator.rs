//! Who runs a command, for the audit.

use std::env;

use storm_shared::models::ClientName;

/// The name where neither an argument nor the shell gives one.
const NOBODY: &str = "storm-api";

/// The option that names the operator.
#[derive(Debug, clap::Args)]
pub(super) struct OperatorArgument {
    /// The name to record in the audit; without it, that of the shell's user
    #[arg(long, value_name = "NAME")]
    operator: Option<ClientName>,
}

impl OperatorArgument {
    /// The operator's name.
    pub(super) fn name(self) -> ClientName {
        let of_shell = || {
            let user = env::var_os("USER").unwrap_or_default();
            named_after(&user.to_string_lossy())
        };
        self.operator.unwrap_or_else(of_shell)
    }
}

/// The name of `user`, such as `CORP-jdoe` of `CORP\\jdoe`: no user is refused for it.
fn named_after(user: &str) -> ClientName {
    let is_of_names = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let chars = user.chars().take(ClientName::MAX_CHARS);
    let name: String = chars
        .map(|char| if is_of_names(char) { char } else { '-' })
        .collect();
    let has_some = name.contains(|char: char| char.is_ascii_alphanumeric());
    let name = if has_some { name.as_str() } else { NOBODY };
    #[expect(clippy::expect_used, reason = "it is made of a name's characters")]
    name.parse().expect("a name")
}

#[cfg(test)]
mod tests {
    use super::named_after;

    #[test]
    fn every_user_has_a_name_for_the_audit() {
        let long = "a".repeat(99);
        for (user, name) in [
            ("jdoe", "jdoe"),
            ("CORP\\jdoe", "CORP-jdoe"),
            ("a@b.example", "a-b.example"),
            ("", "storm-api"),
            ("\u{e9}", "storm-api"),
            (long.as_str(), &long[..64]),
        ] {
            assert_eq!(named_after(user).as_str(), name);
        }
    }
}

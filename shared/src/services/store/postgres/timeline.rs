//! The timeline of a server: which of two primaries is the newer one.
//!
//! Each promotion begins a timeline with a higher number. A primary of a lower one was replaced:
//! what it still commits is lost. The name of the current file of the log has the number, from the
//! moment of the promotion on; the last checkpoint has it only once it is over.

use tokio_postgres::{
    Client, Error as PostgresError, SimpleQueryMessage, SimpleQueryRow, error::SqlState,
};

use super::error::is_of;

/// SQL for the cluster and the file of a primary. Everyone may ask for both.
const OF_SERVER: &str = "SELECT pg_walfile_name(pg_current_wal_lsn()), \
    (pg_control_system()).system_identifier";

/// What comes before the file in the error of a server that was replaced.
const OLD_FILE: &str = "old primary ";

/// SQL for the file alone, which is null on a standby. On a primary of a timeline below `newest` it
/// fails, and so does the transaction that asks: what was sent after it is rolled back.
pub(super) fn of_transaction(newest: u32) -> String {
    const FILE: &str = "pg_walfile_name(pg_current_wal_lsn())";
    // No integer is written like that. The server's error has the text.
    format!(
        "SELECT CASE WHEN pg_is_in_recovery() THEN NULL
         WHEN left({FILE}, 8) COLLATE \"C\" < '{newest:08X}' THEN
             ('{OLD_FILE}' || {FILE})::integer::text
         ELSE {FILE} END"
    )
}

/// A timeline of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeline {
    /// Other clusters, such as that of an upgrade, count anew.
    cluster: u64,
    pub(super) number: u32,
}

impl Timeline {
    /// That of the server at the other end; `None` if it does not say.
    pub(super) async fn of(client: &Client) -> Result<Option<Self>, PostgresError> {
        match client.simple_query(OF_SERVER).await {
            Ok(answers) => Ok(rows(&answers).find_map(|row| {
                let cluster = row.get(1)?.parse().ok()?;
                let number = number(row.get(0)?)?;
                Some(Self { cluster, number })
            })),
            // Class 42: a provider has taken the right away; 55: it has another kind of log.
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| is_of(code, &["42", "55", "0A"])) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a server of `other` was replaced by one of this timeline.
    pub(super) fn replaces(self, other: Self) -> bool {
        self.is_of_cluster(other) && self.number > other.number
    }

    /// Whether both are of one cluster.
    pub(super) fn is_of_cluster(self, other: Self) -> bool {
        self.cluster == other.cluster
    }

    /// The same cluster's timeline of this number.
    pub(super) fn with(self, number: u32) -> Self {
        Self { number, ..self }
    }
}

/// The number in an answer to [`of_transaction`].
pub(super) fn number_in(answers: &[SimpleQueryMessage]) -> Option<u32> {
    rows(answers).find_map(|row| number(row.get(0)?))
}

/// The number of a server that has failed [`of_transaction`] because it was replaced.
pub(super) fn replaced(error: &PostgresError) -> Option<u32> {
    let said = error.as_db_error()?;
    if *said.code() != SqlState::INVALID_TEXT_REPRESENTATION {
        return None;
    }
    let (_, file) = said.message().split_once(OLD_FILE)?;
    number(file)
}

fn rows(answers: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// The timeline is the first 8 of a file's 24 hexadecimal digits.
fn number(file: &str) -> Option<u32> {
    u32::from_str_radix(file.get(..8)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{Timeline, number};

    #[test]
    fn a_timeline_is_in_the_name_of_a_file_and_is_compared_within_its_cluster() {
        assert_eq!(number("0000000B000000000000000A"), Some(11));
        assert_eq!(number("000"), None);
        let old = Timeline {
            cluster: 7,
            number: 1,
        };
        let new = old.with(2);
        assert!(new.replaces(old) && !old.replaces(new) && !new.replaces(new));
        let upgraded = Timeline {
            cluster: 8,
            number: 1,
        };
        assert!(!new.replaces(upgraded) && !upgraded.replaces(old));
    }
}

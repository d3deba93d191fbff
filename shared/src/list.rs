//! Lists in settings: entries separated by commas or white space.

use thiserror::Error;

/// A text that has separators and no entry. To accept it would mean "none" although the setting is
/// not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it contains only separators; leave it empty for none")]
pub(crate) struct OnlySeparators;

/// The entries of a list. Any number of commas, spaces, tabs and line breaks separates two of them,
/// and may stand before the first and after the last. White space alone is an empty list.
///
/// # Errors
/// There are commas and no entry.
pub(crate) fn entries(text: &str) -> Result<Vec<&str>, OnlySeparators> {
    let entries: Vec<_> = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .collect();
    // Only a comma shows that entries were meant.
    if entries.is_empty() && text.contains(',') {
        return Err(OnlySeparators);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::{OnlySeparators, entries};

    #[test]
    fn commas_and_white_space_separate_the_entries_of_a_list() {
        for text in [
            "1s,2s,1s",
            "1s 2s 1s",
            " 1s, 2s ,\t1s\n",
            "1s\n2s\n1s,",
            ",1s,,2s 1s",
        ] {
            assert_eq!(entries(text), Ok(vec!["1s", "2s", "1s"]), "{text}");
        }
        assert_eq!(entries(" \n"), Ok(Vec::new()));
        assert_eq!(entries(" , "), Err(OnlySeparators));
    }
}

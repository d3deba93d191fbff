//! Lists in settings: entries separated by commas or white space.

/// The entries of a list. Any number of commas, spaces, tabs and line breaks separates two of them,
/// and may stand before the first and after the last. White space alone is an empty list.
///
/// `None` for commas without an entry: to accept them would mean "none" although the setting is not
/// empty.
pub(crate) fn entries(text: &str) -> Option<Vec<&str>> {
    let entries: Vec<_> = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .collect();
    // Only a comma shows that entries were meant.
    if entries.is_empty() && text.contains(',') {
        return None;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn commas_and_white_space_separate_the_entries_of_a_list() {
        for text in [
            "1s,2s,1s",
            "1s 2s 1s",
            " 1s, 2s ,\t1s\n",
            "1s\n2s\n1s,",
            ",1s,,2s 1s",
        ] {
            assert_eq!(entries(text), Some(vec!["1s", "2s", "1s"]), "{text}");
        }
        assert_eq!(entries(" \n"), Some(Vec::new()));
        assert_eq!(entries(" , "), None);
    }
}

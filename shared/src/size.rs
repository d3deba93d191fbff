//! Sizes in settings: one number and one unit, such as `64KiB`, `256MiB` or `1GiB`.

/// The units, the largest first.
const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Parses a size, in bytes. A number needs a unit: nobody has to guess which one is meant.
pub fn parse(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    // `parse` takes a sign.
    if !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let (_, bytes) = UNITS
        .iter()
        .find(|(unit, _)| text[digits.len()..] == **unit)?;
    digits.parse::<usize>().ok()?.checked_mul(*bytes)
}

/// A size as a setting has it: in the largest unit in which it is a whole number, or in bytes if
/// there is none.
pub fn format(size: usize) -> String {
    let whole = UNITS.iter().find(|(_, bytes)| size.is_multiple_of(*bytes));
    match whole {
        Some((unit, bytes)) => format!("{}{unit}", size / bytes),
        None => format!("{size} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn a_size_is_one_number_and_one_unit() {
        assert_eq!(parse("0KiB"), Some(0));
        assert_eq!(parse("64KiB"), Some(65_536));
        assert_eq!(parse("256MiB"), Some(268_435_456));
        assert_eq!(parse("2GiB"), Some(2_147_483_648));
        for text in [
            "",
            "5",
            "MiB",
            "1 MiB",
            "1MiB1KiB",
            "1MB",
            "1mib",
            "1M",
            "+1MiB",
            "-1MiB",
            "1.5MiB",
            "1_0MiB",
            "18446744073709551615GiB",
            "99999999999999999999KiB",
            "1MiB ",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_can_be_set() {
        for text in ["1KiB", "8MiB", "1536KiB", "1024GiB"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format(1000), "1000 bytes");
    }
}

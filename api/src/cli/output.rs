//! What the commands print: tables for people, JSON for programs.
//!
//! Names and URLs come from clients, and rows can be edited by hand. No character of theirs reaches
//! a terminal as a control character.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{
    Cell, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};
use serde::Serialize;

/// On a terminal: a line below the header and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
/// Elsewhere: columns and spaces, which `awk` reads.
const PLAIN: TableStyle = TableStyle::new();

/// Whether anybody still reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Reads,
    /// It has closed the pipe, as `head` does once it has enough.
    Gone,
}

/// Writes text to standard output.
pub(super) fn write(text: &str) -> io::Result<Reader> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        written => written.map(|()| Reader::Reads),
    }
}

/// A value as one JSON document.
pub(super) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(visible_json(&serde_json::to_string_pretty(value)?) + "\n")
}

/// A value as JSON in one line.
pub(super) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(visible_json(&serde_json::to_string(value)?))
}

/// A column of a table: its header, and the least width of its cells.
pub(super) type Column = (&'static str, u16);

/// A table, each row in one line, for whoever reads standard output.
pub(super) fn table(columns: &[Column], with_header: bool, rows: &[Vec<String>]) -> String {
    // Without a line below the header there is no column for its junctions, either.
    let (style, gap) = if io::stdout().is_terminal() {
        (STYLE, 1)
    } else {
        (PLAIN, 2)
    };
    styled(columns, with_header, rows, style, gap)
}

fn styled(
    columns: &[Column],
    with_header: bool,
    rows: &[Vec<String>],
    style: TableStyle,
    gap: u16,
) -> String {
    let mut table = Table::new();
    table
        .load_style(style)
        .set_content_arrangement(ContentArrangement::Disabled);
    if with_header {
        table.set_header(columns.iter().map(|(name, _)| *name));
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(visible(cell))));
    }
    table.set_constraints(columns.iter().map(|(name, width)| {
        let header = u16::try_from(name.len()).unwrap_or(0);
        // With the gap.
        ColumnConstraint::LowerBoundary(Width::Fixed((*width).max(header) + gap))
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, gap));
    }
    table.trim_fmt() + "\n"
}

/// Names and their values, one in a line.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in facts {
        let line = format!("{name:width$}  {}", visible(value));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A dash for a cell without a value.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A size with a unit that fits it.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // Where it would be rounded to 1024.0.
    while size >= 1023.95 {
        let Some(larger) = units.next() else { break };
        (size, unit) = (size / 1024.0, larger);
    }
    format!("{size:.1} {unit}")
}

/// An age in milliseconds, in its two largest units.
pub(super) fn age(millis: u64) -> String {
    let whole = if millis < 1000 {
        millis
    } else {
        millis / 1000 * 1000
    };
    let age = humantime::format_duration(Duration::from_millis(whole)).to_string();
    let units: Vec<_> = age.split(' ').take(2).collect();
    units.join(" ")
}

/// The text with an escape in place of each character that could move the cursor, or change the
/// order in which others are shown.
pub(super) fn visible(text: &str) -> String {
    escaped(text, |text, character| {
        let _ = write!(text, "\\u{{{:x}}}", u32::from(character));
    })
}

/// The same in a JSON document: outside of its strings, it has no such character but line breaks.
fn visible_json(json: &str) -> String {
    escaped(json, |text, character| {
        if character == '\n' {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    })
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_invisible(character) {
            escape(&mut visible, character);
        } else {
            visible.push(character);
        }
    }
    visible
}

/// Line and paragraph separators, the marks of writing direction (UAX #9), and the byte order mark.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{PLAIN, age, bytes, facts, json, styled, table, visible};

    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\ne\t\u{7f}";

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let shown = visible(HOSTILE);
        assert_eq!(shown, r"a\u{1b}[2Jb\u{9b}31mc\u{202e}d\u{a}e\u{9}\u{7f}");
        for text in [
            table(
                &[("A", 1), ("B", 1)],
                true,
                &[vec![HOSTILE.into(), "b".into()]],
            ),
            facts(&[("name", HOSTILE.into())]),
            json(&[HOSTILE]).unwrap(),
        ] {
            assert!(!text.replace('\n', "").contains(char::is_control), "{text}");
            assert!(!text.contains('\u{202e}'), "{text}");
        }
    }

    #[test]
    fn json_with_escapes_is_the_same_value() {
        let text = json(&[HOSTILE, "ü 🦀"]).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!([HOSTILE, "ü 🦀"]));
    }

    #[test]
    fn pages_of_a_table_are_aligned_with_each_other() {
        let columns = [("ID", 6), ("X", 1)];
        // Whatever standard output is here: a build may run at a terminal.
        let plain = |with_header, row: [&str; 2]| {
            let row = row.map(str::to_owned).to_vec();
            styled(&columns, with_header, &[row], PLAIN, 2)
        };
        let first = plain(true, ["abcdef", "1"]);
        let second = plain(false, ["a", "2"]);
        assert_eq!(first + &second, "ID      X\nabcdef  1\na       2\n");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (61_250, "1m 1s"),
            (90_061_000, "1day 1h"),
        ] {
            assert_eq!(age(millis), text);
        }
    }
}

//! The layout of text for its reader: the width of the terminal, and whether it has colours.
//!
//! * [`Layout`]: found from the environment and standard output. [`Layout::apply`] wraps and
//!   colours a text.
//! * [`one_line`]: text of others, made safe for one line of a terminal.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
};

use textwrap::{Options, WordSplitter, core::display_width};

/// The width if the terminal's is unknown, and in a pipe.
const DEFAULT_WIDTH: u16 = 80;

/// Every table fits this width. A narrower terminal gets this layout, too.
pub const MIN_WIDTH: u16 = 60;

/// The lines after the first of a wrapped line.
const INDENT: &str = "  ";

const RESET: &str = "\x1b[0m";

/// The outcomes that begin a report, and their bold colours (ECMA-48, SGR).
const OUTCOMES: [(&str, &str); 3] = [
    ("passed:", "\x1b[1;32m"),
    ("failed:", "\x1b[1;31m"),
    ("interrupted:", "\x1b[1;33m"),
];

/// How to lay out text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The columns of a line.
    pub width: u16,
    /// Whether escape codes are understood.
    pub colour: bool,
}

impl Layout {
    /// The layout for standard output.
    ///
    /// The width is that of `COLUMNS`, else of the terminal, else 80, and at least 60. Colours need
    /// a terminal, a `TERM` other than `dumb`, and no `NO_COLOR`.
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        Self {
            width: width(
                env::var_os("COLUMNS").as_deref(),
                size.map(|size| size.ws_col),
            ),
            colour: stdout.is_terminal()
                && colour(
                    env::var_os("NO_COLOR").as_deref(),
                    env::var_os("TERM").as_deref(),
                ),
        }
    }

    /// Wraps every line that is too long, makes control characters visible, and colours the outcome
    /// that begins the text.
    pub fn apply(self, text: &str) -> String {
        let mut laid_out = String::with_capacity(text.len());
        for line in text.lines() {
            laid_out.push_str(&self.wrap(&visible(line)));
            laid_out.push('\n');
        }
        self.paint(laid_out)
    }

    fn wrap(self, line: &str) -> String {
        let width = usize::from(self.width);
        if display_width(line) <= width {
            return line.to_owned();
        }
        let spaces = line.len() - line.trim_start().len();
        let (own_indent, words) = line.split_at(spaces.min(width / 2));
        let next_indent = format!("{own_indent}{INDENT}");
        let options = Options::new(width)
            .initial_indent(own_indent)
            .subsequent_indent(&next_indent)
            // A hyphen is part of an id or a URL.
            .word_splitter(WordSplitter::NoHyphenation);
        textwrap::fill(words, options)
    }

    fn paint(self, text: String) -> String {
        let outcome = OUTCOMES.iter().find(|(word, _)| text.starts_with(word));
        match outcome {
            Some((word, colour)) if self.colour => {
                format!("{colour}{word}{RESET}{}", &text[word.len()..])
            }
            _ => text,
        }
    }
}

/// The columns of the terminal that standard error is, or 80.
pub(crate) fn stderr_width() -> u16 {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let columns = size.map(|size| size.ws_col).filter(|width| *width > 0);
    columns.unwrap_or(DEFAULT_WIDTH)
}

/// Text of others as one line: without line breaks, and with its control characters made visible.
/// Otherwise an answer could move the terminal's cursor, or look like a line of this program.
pub fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    visible(&words.join(" "))
}

/// A URL of at most `most` columns; the middle of a longer one is left out.
pub fn short_url(url: &str, most: usize) -> String {
    let length = url.chars().count();
    if length <= most {
        return url.to_owned();
    }
    let kept = most.saturating_sub(1);
    let head: String = url.chars().take(kept.div_ceil(2)).collect();
    let tail: String = url.chars().skip(length - kept / 2).collect();
    format!("{head}…{tail}")
}

fn visible(line: &str) -> String {
    line.chars()
        .map(|char| match char {
            '\t' => ' '.to_string(), // a tab's width depends on where it stands
            hidden if is_invisible(hidden) => hidden.escape_unicode().to_string(),
            other => other.to_string(),
        })
        .collect()
}

/// Control characters, and those that change the direction of the text around them.
fn is_invisible(char: char) -> bool {
    char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn width(columns: Option<&OsStr>, terminal: Option<u16>) -> u16 {
    let columns = columns
        .and_then(OsStr::to_str)
        .and_then(|text| text.parse().ok());
    // A terminal that has no size yet says 0.
    let known = [columns, terminal]
        .into_iter()
        .flatten()
        .find(|width| *width > 0);
    known.unwrap_or(DEFAULT_WIDTH).max(MIN_WIDTH)
}

/// See <https://no-color.org>: an empty `NO_COLOR` counts as none.
fn colour(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use textwrap::core::display_width;

    use super::{Layout, colour, one_line, short_url, width};

    const PLAIN: Layout = Layout {
        width: 60,
        colour: false,
    };

    #[test]
    fn the_width_is_that_of_columns_or_the_terminal_or_80_and_at_least_60() {
        for (columns, terminal, expected) in [
            (None, None, 80),
            (None, Some(0), 80),
            (None, Some(132), 132),
            (Some("100"), Some(132), 100),
            (Some("0"), Some(132), 132),
            (Some("many"), None, 80),
            (Some("99999999"), None, 80),
            (Some(""), Some(20), 60),
        ] {
            let found = width(columns.map(OsStr::new), terminal);
            assert_eq!(found, expected, "{columns:?} {terminal:?}");
        }
    }

    #[test]
    fn colours_need_a_terminal_that_has_them_and_nobody_who_refuses_them() {
        for (no_color, term, expected) in [
            (None, Some("xterm"), true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (None, Some("dumb"), false),
            (None, None, false),
        ] {
            let found = colour(no_color.map(OsStr::new), term.map(OsStr::new));
            assert_eq!(found, expected, "{no_color:?} {term:?}");
        }
    }

    #[test]
    fn a_long_line_is_wrapped_at_words_and_a_longer_word_is_cut() {
        let words = "  first failure: ".to_owned() + &"lorem-ipsum ".repeat(20) + &"x".repeat(200);
        let text = PLAIN.apply(&words);
        assert!(text.lines().all(|line| display_width(line) <= 60), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    ")));
        assert!(!text.contains("lorem-\n"), "{text}");
        let short = "a line that fits\n";
        assert_eq!(PLAIN.apply(short), short);
    }

    #[test]
    fn only_the_outcome_is_coloured() {
        let layout = Layout {
            colour: true,
            ..PLAIN
        };
        assert_eq!(
            layout.apply("passed: all\npassed: no\n"),
            "\x1b[1;32mpassed:\x1b[0m all\npassed: no\n"
        );
        assert_eq!(layout.apply("signed: all\n"), "signed: all\n");
    }

    #[test]
    fn text_of_others_is_one_line_without_escape_codes() {
        assert_eq!(one_line("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(
            one_line("a\r\n\tb\x1b[2J\u{9b}1m"),
            "a b\\u{1b}[2J\\u{9b}1m"
        );
        assert_eq!(PLAIN.apply("a\x1b[31m"), "a\\u{1b}[31m\n");
    }

    #[test]
    fn a_long_url_keeps_its_beginning_and_its_end() {
        assert_eq!(
            short_url("http://host/aaaaaaaaaa/end", 15),
            "http://…aaa/end"
        );
        assert_eq!(short_url("http://a", 15), "http://a");
    }
}

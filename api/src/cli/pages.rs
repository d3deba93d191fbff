//! Lists that are read in pages, and printed as one table or one JSON document.

use serde::Serialize;
use storm_shared::program;

use super::{
    Failure,
    output::{self, Column, Reader},
};

/// The most items of one read.
pub(super) const PAGE: usize = 1000;

/// Parses `--limit`.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| "expected a whole number above 0; --all for all of them".to_owned())
}

/// Prints pages one after the other.
pub(super) struct Printer {
    /// What the JSON calls the items.
    name: &'static str,
    columns: &'static [Column],
    json: bool,
    printed: usize,
}

impl Printer {
    /// For items that the JSON has under `name`.
    pub(super) fn new(name: &'static str, columns: &'static [Column], json: bool) -> Self {
        Self {
            name,
            columns,
            json,
            printed: 0,
        }
    }

    /// Prints what comes before the items.
    pub(super) fn begin(&self) -> Result<Reader, Failure> {
        let begin = if self.json {
            format!("{{\"{}\":[", self.name)
        } else {
            output::table(self.columns, true, &[])
        };
        Ok(output::write(&begin)?)
    }

    /// Prints a page, each item as its JSON or its `row`.
    pub(super) fn page<T: Serialize>(
        &mut self,
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<Reader, Failure> {
        if items.is_empty() {
            return Ok(Reader::Reads);
        }
        let mut text = String::new();
        if self.json {
            for item in items {
                text.push_str(if self.printed == 0 { "\n" } else { ",\n" });
                text.push_str(&output::json_line(item)?);
                self.printed += 1;
            }
        } else {
            let rows: Vec<_> = items.iter().map(row).collect();
            text = output::table(self.columns, false, &rows);
        }
        Ok(output::write(&text)?)
    }

    /// Prints where the next list goes on, if there may be more: with tables, on standard error.
    pub(super) fn end(&self, cursor: Option<&str>) -> Result<(), Failure> {
        if self.json {
            let cursor = output::json_line(&cursor)?;
            output::write(&format!("\n],\"next_cursor\":{cursor}}}\n"))?;
        } else if let Some(cursor) = cursor {
            program::print_error(&format_args!("There may be more: --cursor {cursor}"));
        }
        Ok(())
    }
}

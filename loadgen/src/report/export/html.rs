//! A report as an HTML file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::place::{Place, Temporary, beginning};
use crate::report::html::{BEGINNING_BYTES, is_report};

/// The HTML file of a run. It replaces an earlier report as a whole.
#[derive(Debug)]
pub struct HtmlFile {
    path: PathBuf,
    place: Place,
}

impl HtmlFile {
    /// Checks that a report can be written to `path`.
    ///
    /// # Errors
    /// It can't, or the file holds something else than a report of this program. The error names
    /// the option `--html`.
    pub fn prepare(path: &Path) -> Result<Self> {
        let place = Place::of(path).and_then(|place| {
            if let Place::Taken(path) = &place {
                ensure!(
                    is_report(&beginning(path, BEGINNING_BYTES)?),
                    "the file exists and is no report of storm-loadgen; give another name"
                );
                Temporary::beside(path)?.try_room()?;
            }
            Ok(place)
        });
        Ok(Self {
            place: place.with_context(|| format!("--html {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The file can't be written. An earlier report is still there.
    pub fn write(&self, page: &str) -> Result<()> {
        let written = self.place.write(page);
        written.with_context(|| format!("can't write {}", self.path.display()))
    }
}

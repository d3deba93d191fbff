//! The colours of our pages: the reports, and those of the API.

/// A style sheet that sets them as variables of the root: `--ink`, `--paper`, `--sync`, …
pub const STYLE: &str = include_str!("../assets/palette.css");

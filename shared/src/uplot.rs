//! `uPlot` 1.6.32, which draws the plots of our pages. Vendored, so that a page loads nothing from
//! elsewhere.
//!
//! The files are those of the npm package `uplot`, unchanged, with their licence beside them (MIT):
//! `shared/assets/uplot/`.

/// The script: it defines the global `uPlot`.
pub const SCRIPT: &str = include_str!("../assets/uplot/uPlot.iife.min.js");

/// Its style sheet.
pub const STYLE: &str = include_str!("../assets/uplot/uPlot.min.css");

/// Its licence, which a page that contains the script must contain, too.
pub const LICENSE: &str = include_str!("../assets/uplot/LICENSE");

#[cfg(test)]
mod tests {
    use super::{SCRIPT, STYLE};

    #[test]
    fn both_may_stand_inline_in_a_page() {
        for text in [SCRIPT, STYLE] {
            let text = text.to_ascii_lowercase();
            assert!(!text.contains("</script") && !text.contains("</style"));
            assert!(!text.contains("<!--"));
        }
        assert!(SCRIPT.contains("var uPlot="));
    }
}

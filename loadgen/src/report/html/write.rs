//! The markup of a report: one file that loads nothing.

use std::fmt::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use storm_shared::{palette, uplot};

use super::{
    BEGINNING,
    model::{Axis, Check, Figure, Lanes, Lines, Mark, Page, Plot, Section, Table},
};

/// The style of the page.
const STYLE: &str = include_str!("../../../assets/report/page.css");

/// Draws the plots.
const SCRIPT: &str = include_str!("../../../assets/report/page.mjs");

/// Runs before anything is drawn, so that the plots have their place from the start.
const HEAD_SCRIPT: &str = "document.documentElement.classList.add('js')";

/// The data of a plot, for the script.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Data<'a> {
    Lines(&'a Lines),
    Lanes(&'a Lanes),
}

/// The whole document.
pub(super) fn document(page: &Page) -> String {
    let style = [uplot::STYLE, palette::STYLE, STYLE].join("\n");
    let mut body = String::new();
    let mut data = Vec::new();
    // Writing to a String never fails, here and below.
    let _ = write_body(&mut body, page, &mut data);
    let data = island(&data);
    format!(
        "{BEGINNING}{version}\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n\
         <style>{style}</style>\n\
         <script>{HEAD_SCRIPT}</script>\n\
         </head>\n<body>\n{body}\
         <script type=\"application/json\" id=\"plots\">{data}</script>\n\
         <script>{uplot}</script>\n\
         <script type=\"module\">{SCRIPT}</script>\n\
         </body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        policy = policy(&style),
        title = escape(&page.title),
        uplot = uplot::SCRIPT,
    )
}

/// Allows what is in the page, by its hash, and nothing else.
fn policy(style: &str) -> String {
    let scripts = [HEAD_SCRIPT, uplot::SCRIPT, SCRIPT].map(source);
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; \
         form-action 'none'",
        scripts.join(" "),
        source(style)
    )
}

fn source(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// JSON as the content of a `script` element, whose end no text may contain.
fn island(data: &impl Serialize) -> String {
    // The data has no map, whose keys could fail.
    let json = serde_json::to_string(data).unwrap_or_default();
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        if char == '<' || is_bidi(char) {
            // Only texts contain it, where it may be written like this.
            let _ = write!(escaped, "\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Text as the content of an element or of a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // A page may not contain them, and some change what readers see.
            char if char.is_control() || is_bidi(char) => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Whether it changes the direction of the text that follows.
fn is_bidi(char: char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_body<'a>(out: &mut String, page: &'a Page, data: &mut Vec<Data<'a>>) -> fmt::Result {
    writeln!(out, "<header>\n<h1>{}</h1>", escape(&page.title))?;
    writeln!(out, "<p class=\"lead\">{}</p>", escape(&page.lead))?;
    let (class, sign, _) = look(page.outcome);
    writeln!(
        out,
        "<p class=\"outcome {class}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span> \
         {}</p>\n</header>\n<main>",
        escape(&page.verdict)
    )?;
    write_checks(out, &page.checks)?;
    if !page.remarks.is_empty() {
        writeln!(out, "<ul class=\"remarks\">")?;
        for remark in &page.remarks {
            writeln!(out, "<li>{}</li>", escape(remark))?;
        }
        writeln!(out, "</ul>")?;
    }
    writeln!(out, "</section>")?;
    for section in &page.sections {
        write_section(out, section, data)?;
    }
    writeln!(out, "<section>\n<h2>Every number</h2>")?;
    for table in &page.tables {
        writeln!(out, "<h3>{}</h3>", escape(&table.caption))?;
        write_table(out, table)?;
    }
    writeln!(out, "</section>")?;
    write_pairs(out, "Settings", &page.settings)?;
    write_pairs(out, "The machine", &page.machine)?;
    writeln!(
        out,
        "</main>\n<footer>\n<details>\n<summary>The plots are drawn by uPlot</summary>\n\
         <pre tabindex=\"0\">{}</pre>\n</details>\n</footer>",
        escape(uplot::LICENSE.trim()).replace('\u{fffd}', "\n")
    )
}

/// The class, the sign and the word of an outcome.
const fn look(mark: Mark) -> (&'static str, &'static str, &'static str) {
    match mark {
        Mark::Kept => ("kept", "✓", "kept"),
        Mark::Broken => ("broken", "✗", "broken"),
        Mark::Open => ("open", "–", "not judged"),
    }
}

/// Leaves its section open, for the remarks.
fn write_checks(out: &mut String, checks: &[Check]) -> fmt::Result {
    writeln!(
        out,
        "<section>\n<h2>The promises</h2>\n<ul class=\"checks\">"
    )?;
    for check in checks {
        let (class, sign, word) = look(check.mark);
        writeln!(
            out,
            "<li class=\"{class}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span> \
             <span><b>{}</b><span class=\"unseen\"> ({word})</span>: {}</span></li>",
            escape(&check.promise),
            escape(&check.detail)
        )?;
    }
    writeln!(out, "</ul>")
}

fn write_section<'a>(
    out: &mut String,
    section: &'a Section,
    data: &mut Vec<Data<'a>>,
) -> fmt::Result {
    let heading = escape(&section.heading);
    if section.folded {
        writeln!(
            out,
            "<section>\n<details class=\"folded\">\n<summary><h2>{heading}</h2></summary>"
        )?;
    } else {
        writeln!(out, "<section>\n<h2>{heading}</h2>")?;
    }
    for figure in &section.figures {
        write_figure(out, figure, data)?;
    }
    let end = if section.folded { "</details>\n" } else { "" };
    writeln!(out, "{end}</section>")
}

fn write_figure<'a>(out: &mut String, figure: &'a Figure, data: &mut Vec<Data<'a>>) -> fmt::Result {
    let (title, about) = (escape(&figure.title), escape(&figure.about));
    writeln!(
        out,
        "<figure>\n<figcaption><h3>{title}</h3><p>{about}</p></figcaption>"
    )?;
    let number = data.len();
    let table = match &figure.plot {
        Plot::Missing(why) => {
            return writeln!(out, "<p class=\"missing\">{}</p>\n</figure>", escape(why));
        }
        Plot::Lines(lines) => {
            data.push(Data::Lines(lines));
            writeln!(
                out,
                "<div class=\"plot-area\">\n<p class=\"axis\" aria-hidden=\"true\">{}</p>",
                axis(&lines.y)
            )?;
            write_plot(out, number, "", &title)?;
            writeln!(
                out,
                "<p class=\"axis x\" aria-hidden=\"true\"><span id=\"readout-{number}\"></span>\
                 <span>{}</span></p>",
                axis(&lines.x)
            )?;
            write_legend(out, lines)?;
            lines.table()
        }
        Plot::Lanes(lanes) => {
            data.push(Data::Lanes(lanes));
            writeln!(out, "<div class=\"plot-area\">")?;
            let class = match lanes.lanes.len() {
                0..=8 => " lanes few",
                9..=16 => " lanes some",
                _ => " lanes",
            };
            write_plot(out, number, class, &title)?;
            writeln!(
                out,
                "<p class=\"axis x\" aria-hidden=\"true\"><span></span><span>time</span></p>\n\
                 <p class=\"readout\" id=\"readout-{number}\" aria-live=\"polite\"></p>"
            )?;
            lanes.table()
        }
    };
    writeln!(
        out,
        "</div>\n<details class=\"numbers\">\n<summary>The numbers: {title}</summary>"
    )?;
    write_table(out, &table)?;
    writeln!(out, "</details>\n</figure>")
}

fn write_plot(out: &mut String, number: usize, class: &str, title: &str) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"plot{class}\" data-plot=\"{number}\" tabindex=\"0\" role=\"img\" \
         aria-label=\"Plot: {title}. Its numbers are in the table that follows. The arrow keys move \
         the cursor.\"></div>"
    )
}

fn axis(axis: &Axis) -> String {
    let log = if axis.log { ", logarithmic" } else { "" };
    format!("{}{log}", escape(&axis.label))
}

fn write_legend(out: &mut String, lines: &Lines) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"legend\" role=\"group\" aria-label=\"Lines\">"
    )?;
    for (index, line) in lines.lines.iter().enumerate() {
        writeln!(
            out,
            "<button type=\"button\" class=\"{ink}\" data-line=\"{index}\" aria-pressed=\"{shown}\">\
             <svg width=\"28\" height=\"10\" aria-hidden=\"true\"><path d=\"M0 5h28\" \
             stroke=\"currentColor\" stroke-width=\"{width}\" stroke-dasharray=\"{dash}\"/></svg>\
             <span>{name}</span><span class=\"value\"></span></button>",
            ink = line.ink.as_str(),
            shown = line.shown,
            width = line.weight.width(),
            dash = line.ink.dash(),
            name = escape(&line.name),
        )?;
    }
    writeln!(out, "</div>")
}

fn write_table(out: &mut String, table: &Table) -> fmt::Result {
    let caption = escape(&table.caption);
    writeln!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\n<table>\n\
         <caption class=\"unseen\">{caption}</caption>\n<thead><tr>"
    )?;
    for head in &table.header {
        write!(out, "<th scope=\"col\">{}</th>", escape(head))?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for row in &table.rows {
        out.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            match index {
                0 => write!(out, "<th scope=\"row\">{}</th>", escape(cell))?,
                _ => write!(out, "<td>{}</td>", escape(cell))?,
            }
        }
        out.push_str("</tr>\n");
    }
    writeln!(out, "</tbody>\n</table>\n</div>")
}

fn write_pairs(out: &mut String, heading: &str, pairs: &[(String, String)]) -> fmt::Result {
    writeln!(out, "<section>\n<h2>{heading}</h2>\n<dl class=\"pairs\">")?;
    for (name, value) in pairs {
        writeln!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            escape(name),
            escape(value)
        )?;
    }
    writeln!(out, "</dl>\n</section>")
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use sha2::{Digest as _, Sha256};

    use super::{document, escape, island};
    use crate::report::html::model::{Cell, Figure, Mark, Page, Plot, Section, tests::lines};

    const HOSTILE: &str = "</script><script>alert(1)</script>&\"'<!-- \u{1b}[31m\u{202e}";

    fn page() -> Page {
        let mut hostile = lines(vec![Cell::Value(1.0), Cell::Gap]);
        hostile.lines[0].name = HOSTILE.to_owned();
        Page {
            title: HOSTILE.to_owned(),
            lead: HOSTILE.to_owned(),
            outcome: Mark::Broken,
            verdict: HOSTILE.to_owned(),
            checks: Vec::new(),
            remarks: vec![HOSTILE.to_owned()],
            sections: vec![Section {
                heading: HOSTILE.to_owned(),
                folded: true,
                figures: vec![
                    Figure {
                        title: HOSTILE.to_owned(),
                        about: HOSTILE.to_owned(),
                        plot: Plot::Lines(hostile),
                    },
                    Figure {
                        title: "empty".to_owned(),
                        about: String::new(),
                        plot: Plot::Missing("there is none".to_owned()),
                    },
                ],
            }],
            tables: Vec::new(),
            settings: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
            machine: Vec::new(),
        }
    }

    /// The contents of all elements that begin with `tag`, in order.
    fn contents<'a>(text: &'a str, tag: &str, end: &str) -> Vec<&'a str> {
        let parts = text.split(tag).skip(1);
        parts.filter_map(|part| part.split(end).next()).collect()
    }

    #[test]
    fn text_can_not_become_markup_or_a_script() {
        let text = document(&page());
        assert_eq!(text.matches("<script").count(), 4);
        assert_eq!(text.matches("</script>").count(), 4);
        assert!(!text.contains("<script>alert"));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        assert_eq!(
            escape("a<b>&\"'\u{7}"),
            "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}"
        );
    }

    #[test]
    fn the_data_is_the_same_after_it_was_escaped() {
        let json = island(&[HOSTILE]);
        assert!(!json.contains('<'));
        let read: Vec<String> = serde_json::from_str(&json).unwrap();
        assert_eq!(read, [HOSTILE]);
    }

    #[test]
    fn the_policy_has_the_hash_of_every_script_and_style_and_allows_nothing_else() {
        let text = document(&page());
        let policy = contents(&text, "Content-Security-Policy\" content=\"", "\"")[0];
        let hash =
            |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
        let mut inline = contents(&text, "<script>", "</script>");
        inline.extend(contents(&text, "<script type=\"module\">", "</script>"));
        let scripts: Vec<_> = inline.into_iter().map(hash).collect();
        let styles: Vec<_> = contents(&text, "<style>", "</style>")
            .into_iter()
            .map(hash)
            .collect();
        assert_eq!((scripts.len(), styles.len()), (3, 1));
        let expected = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; \
             form-action 'none'",
            scripts.join(" "),
            styles.join(" ")
        );
        assert_eq!(policy, expected);
        // The policy forbids both.
        assert!(!text.contains(" style=\"") && !text.contains(" onclick="));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let text = document(&page());
        for attribute in ["src=", "href=\"http", "@import", "url("] {
            assert!(!text.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn a_plot_that_is_missing_is_replaced_by_the_reason() {
        let text = document(&page());
        assert!(text.contains("<p class=\"missing\">there is none</p>"));
        assert_eq!(text.matches("data-plot=").count(), 1);
    }
}

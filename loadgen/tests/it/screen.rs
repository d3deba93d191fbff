//! What a terminal shows after the escape codes of a progress bar.

/// The lines of a terminal of this width. It has as many as it needs.
pub(crate) struct Screen {
    width: usize,
    lines: Vec<Vec<char>>,
    line: usize,
    column: usize,
}

impl Screen {
    pub(crate) fn new(width: u16) -> Self {
        Self {
            width: width.into(),
            lines: vec![Vec::new()],
            line: 0,
            column: 0,
        }
    }

    /// Shows a text. Before the cursor moves up, what was drawn is complete: it calls `drawn`.
    pub(crate) fn show(&mut self, text: &str, mut drawn: impl FnMut(&[String])) {
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '\n' => (self.line, self.column) = (self.line + 1, 0),
                '\r' => self.column = 0,
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['), "{text:?}");
                    let rest = chars.as_str();
                    let end = rest.find(|it: char| it.is_ascii_alphabetic()).unwrap();
                    if rest[end..].starts_with('A') {
                        drawn(&self.text());
                    }
                    self.obey(&rest[..end], &rest[end..=end]);
                    chars = rest[end + 1..].chars();
                }
                char => self.put(char),
            }
            self.grow();
        }
    }

    /// The lines, without the spaces at their ends, and without empty ones at the end.
    pub(crate) fn text(&self) -> Vec<String> {
        let lines = self.lines.iter().map(String::from_iter);
        let mut lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    fn obey(&mut self, number: &str, letter: &str) {
        let lines = || number.parse().unwrap_or(1);
        match letter {
            "A" => self.line = self.line.saturating_sub(lines()),
            "B" => self.line += lines(),
            "K" => self.lines[self.line].clear(),
            "m" => {}
            _ => panic!("unknown escape code {number}{letter}"),
        }
    }

    /// A full line wraps with the next character, and not before.
    fn put(&mut self, char: char) {
        if self.column == self.width {
            (self.line, self.column) = (self.line + 1, 0);
            self.grow();
        }
        let line = &mut self.lines[self.line];
        if line.len() <= self.column {
            line.resize(self.column + 1, ' ');
        }
        line[self.column] = char;
        self.column += 1;
    }

    fn grow(&mut self) {
        while self.lines.len() <= self.line {
            self.lines.push(Vec::new());
        }
    }
}

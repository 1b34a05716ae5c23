//! Answers: text and tables for people, one JSON document for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::Failure;

/// Where and how answers go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// `data` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output cannot be written; that nobody reads it any more (`| head`) is none.
    pub(super) fn answer<T: Serialize>(&self, data: &T, text: impl FnOnce(&T, &mut Lines)) -> Result<(), Failure> {
        let mut lines = Lines::default();
        match self.json {
            true => lines.0.push(serde_json::to_string_pretty(data).map_err(Failure::failed)?),
            false => text(data, &mut lines),
        }
        let mut out = io::stdout().lock();
        for line in lines.0 {
            match writeln!(out, "{line}").and_then(|()| out.flush()) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }

    /// A line for people at once, of an answer that takes its time.
    pub(super) fn progress(&self, line: &str) {
        if !self.json {
            let _ = writeln!(io::stdout().lock(), "{}", shown(line));
        }
    }

    /// Something that people should know beside the answer, on standard error.
    pub(super) fn note(&self, note: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "clavigerd: {note}");
        }
    }

    /// Whether somebody looks at standard error and wants text.
    pub(super) fn is_watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// What went wrong, on standard error.
    pub(super) fn failure(&self, failure: &Failure) {
        let text = match self.json {
            true => failure.json().to_string(),
            false => failure.text(io::stderr().is_terminal()),
        };
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A line without characters that could steer a terminal.
fn shown(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lines of text.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<String>);

impl Lines {
    /// One line; characters that could steer a terminal are replaced.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.0.push(shown(line.as_ref()));
    }

    /// `NAME  value`, the values below each other; rows without a value are left out.
    pub(super) fn fields<const N: usize>(&mut self, fields: [(&str, Option<String>); N]) {
        let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in fields {
            if let Some(value) = value {
                self.line(format!("{name:width$}  {value}"));
            }
        }
    }

    /// Rows below a head, in columns as wide as their widest cell.
    pub(super) fn table<const N: usize>(&mut self, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        let widths: [usize; N] =
            std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_reach_the_terminal() {
        let mut lines = Lines::default();
        lines.table(["ID", "NAME"], [["ä".into(), "x".into()], ["longer".into(), "\u{1b}[31mr\ned".into()]]);
        lines.fields([("id", Some("a".into())), ("reason", None), ("state", Some("new".into()))]);
        assert_eq!(
            lines.0,
            ["ID      NAME", "ä       x", "longer  \u{fffd}[31mr\u{fffd}ed", "id      a", "state   new"]
        );
    }
}

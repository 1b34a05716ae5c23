//! What is wrong with a configuration, drawn at the place where it stands.

use std::{fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};

/// Everything that is wrong with a configuration, in the order of files and lines.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.render(false))]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// `problems` must not be empty.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| p.place.as_ref().map(|place| (place.layer, place.span.start)));
        Self { problems }
    }

    /// The problems, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All problems with an excerpt each, coloured for a terminal where asked.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut out: Vec<String> = self.problems.iter().map(|p| p.draw(&renderer)).collect();
        if out.len() > 1 {
            out.push(format!("{} problems in the configuration", out.len()));
        }
        out.join("\n\n")
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    pub(super) message: String,
    pub(super) expected: Option<String>,
    pub(super) help: Option<String>,
    pub(super) place: Option<Place>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), expected: None, help: None, place: None }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What would have been right, where one line can say it.
    pub fn expectation(&self) -> Option<&str> {
        self.expected.as_deref()
    }

    /// What to do, such as the key that was probably meant.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The file, or `environment`; `None` when no place can be named.
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|p| p.source.name.as_str())
    }

    /// Line and column, both from 1, the column in characters.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(Place::position)
    }

    fn draw(&self, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut group = match &self.place {
            None => title.elements(self.expected.iter().map(|e| Level::NOTE.message(e.as_str()))),
            Some(place) => {
                let label = self.expected.as_deref();
                let mark = AnnotationKind::Primary.span(place.span.clone()).label(label);
                title.element(
                    Snippet::source(place.source.text.as_str()).path(place.source.name.as_str()).annotation(mark),
                )
            }
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Problem {
    /// One line: `FILE:LINE:COLUMN: message; expected ... (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(file), Some((line, column))) = (self.file(), self.position()) {
            write!(f, "{file}:{line}:{column}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; {expected}")?;
        }
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// A text that configuration was read from.
#[derive(Debug)]
pub(super) struct SourceText {
    /// The file's name as it was given, or `environment`.
    pub(super) name: String,
    pub(super) text: String,
}

/// A range of a text.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Position among the layers, to sort by.
    pub(super) layer: usize,
    pub(super) source: Arc<SourceText>,
    /// Byte range; cut to the text's length and to character boundaries by [`Place::new`].
    span: Range<usize>,
}

impl Place {
    pub(super) fn new(layer: usize, source: &Arc<SourceText>, span: Range<usize>) -> Self {
        let text = &source.text;
        let clip = |at: usize| (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let (start, end) = (clip(span.start), clip(span.end));
        Self { layer, source: source.clone(), span: start..end.max(start) }
    }

    fn position(&self) -> (usize, usize) {
        let before = &self.source.text[..self.span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

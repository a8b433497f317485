//! Text of an SVG picture, piece by piece.

use std::fmt::Write;

use super::STYLE;

/// Mean width of a letter of the page's sans-serif fonts, as a share of the font's size; that of the widest of them.
const LETTER: f64 = 0.63;

/// Width of a text in the picture's units, roughly.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER
}

/// A text cut to a width, with `…` where something is missing.
pub(super) fn cut(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let letters = (width / (size * LETTER)).floor().max(1.0) as usize;
    text.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

/// Text as it may stand in markup. Control characters, which markup does not allow, become spaces.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture in the making. Coordinates are in the picture's units, from its upper left corner.
pub(super) struct Svg {
    text: String,
}

// Writing into a String cannot fail: hence the ignored results below.
impl Svg {
    /// An empty picture; `title` is what it shows, in words, and `points` how many values that are.
    pub(super) fn new(width: f64, height: f64, title: &str, points: usize) -> Self {
        let text = format!(
            r#"<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{}" data-points="{points}">"#,
            escape(title)
        );
        Self { text }
    }

    /// An empty picture that is a file of its own, with a title above it and `margin` around it. It brings its styles.
    pub(super) fn document(width: f64, height: f64, margin: f64, title: &str, points: usize) -> Self {
        let (wide, high) = (width + 2.0 * margin, height + 2.0 * margin);
        let title = escape(title);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"{0} {0} {wide} {high}\" width=\"{wide}\" \
             height=\"{high}\" role=\"img\" aria-label=\"{title}\" data-points=\"{points}\">\n<style>\n{STYLE}\
             svg.plot {{ width: {wide}px; height: {high}px; }}\n</style>\n<rect class=\"ground\" x=\"{0}\" y=\"{0}\" \
             width=\"{wide}\" height=\"{high}\"/>\n<text class=\"title\" x=\"0\" y=\"14\">{title}</text>\n",
            -margin
        );
        Self { text }
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.text,
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    /// A curve through points, or the area within them.
    pub(super) fn path(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>, closed: bool) {
        let _ = write!(self.text, r#"<path class="{class}" d=""#);
        for (index, (x, y)) in points.enumerate() {
            let _ = write!(self.text, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = write!(self.text, r#"{}"/>"#, if closed { "Z" } else { "" });
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let _ =
            write!(self.text, r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{radius}"/>"#, at.0, at.1);
    }

    /// A rectangle, with words for those who point at it.
    pub(super) fn rectangle(&mut self, class: &str, at: (f64, f64), size: (f64, f64), words: &str) {
        let _ = write!(
            self.text,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"><title>{}</title></rect>"#,
            at.0,
            at.1,
            size.0,
            size.1,
            escape(words)
        );
    }

    /// A text on its base line.
    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
        let _ = write!(
            self.text,
            r#"<text{class} x="{:.1}" y="{:.1}"{anchor}>{}</text>"#,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// The whole picture.
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>");
        self.text
    }
}

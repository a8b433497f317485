//! Lines for the person at the terminal. A closed pipe (`scadles … | head`) never ends the program.

use std::io::Write;

use crate::failure::Failure;

/// Writes one line to standard output.
pub fn say(line: impl AsRef<str>) {
    // Nobody reads: there is nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "{}", line.as_ref());
}

/// Writes one line to standard error.
pub fn warn(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", line.as_ref());
}

/// Writes a failure and its remedy to standard error.
pub fn complain(failure: &Failure) {
    warn(format!("scadles: {}", failure.message));
    if !failure.remedy.is_empty() {
        warn(format!("  remedy: {}", failure.remedy));
    }
}

/// A number with spaces between groups of three digits: `1 234 567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A duration as people say it: `9.4 s`, `2 min 05 s`, `1 h 12 min`.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1 234 567");
    }

    #[test]
    fn spans_read_as_people_say_them() {
        assert_eq!(span(9.44), "9.4 s");
        assert_eq!(span(125.0), "2 min 05 s");
        assert_eq!(span(4320.0), "1 h 12 min");
    }
}

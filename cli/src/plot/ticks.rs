//! Round numbers along an axis, and how they are written.

/// What an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scale {
    /// Plain numbers: samples, batches, losses.
    Number,
    /// Seconds, written as seconds, minutes, hours or days.
    Seconds,
    /// Shares between 0 and 1, written in per cent.
    Share,
    /// Bytes, in powers of 1,000.
    Bytes,
    /// Plain numbers by their logarithm; those that are not above 0 have no place.
    Powers,
}

impl Scale {
    /// Whether a number has a place on the axis.
    pub(super) fn holds(self, value: f64) -> bool {
        self != Self::Powers || value > 0.0
    }

    /// How far along `from..=to` a number stands, as a share.
    pub(super) fn along(self, value: f64, (from, to): (f64, f64)) -> f64 {
        match self {
            Self::Powers => (value / from).log10() / (to / from).log10(),
            _ => (value - from) / (to - from),
        }
    }
}

/// Round places within a range.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    /// Place and text.
    pub(super) at: Vec<(f64, String)>,
    /// What the texts are in: `s`, `min`, `%`; empty if that is said elsewhere.
    pub(super) unit: &'static str,
}

/// More ticks than this nobody asks for; a bound for values that are out of all proportion.
const MOST: usize = 40;

/// From here on numbers are written with an exponent.
const EXPONENT: f64 = 1e15;

const THOUSANDS: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
const SIXTIETHS: [f64; 8] = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0];
const HOURS: [f64; 7] = [0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 12.0];

/// Ticks within `from..=to`, at most `at_most` of them (at least 2).
pub(super) fn ticks(scale: Scale, from: f64, to: f64, at_most: usize) -> Ticks {
    if scale == Scale::Powers {
        return powers(from, to).1;
    }
    let (factor, unit) = unit(scale, to);
    let step = step(scale, unit, (to - from) / factor, at_most);
    with_step(scale, (from, to), step)
}

/// The ticks that a range has with a step in the axis' own unit.
fn with_step(scale: Scale, (from, to): (f64, f64), step: f64) -> Ticks {
    let (factor, unit) = unit(scale, to);
    let first = (from / factor / step - 1e-9).ceil();
    let last = (to / factor / step + 1e-9).floor();
    let count = (last - first).max(0.0) as usize;
    let at = (0..=count.min(MOST)).map(|index| {
        let value = (first + index as f64) * step;
        // One notation along an axis: `0, 500 k, 1,000 k` reads worse than `0, 0.5 M, 1 M`.
        let text = match scale {
            Scale::Number | Scale::Bytes | Scale::Powers => {
                in_thousands(value, to.abs().max(from.abs()) / factor, step)
            }
            Scale::Seconds | Scale::Share => decimal(value, step),
        };
        (value * factor, text)
    });
    Ticks { at: at.collect(), unit }
}

/// A range that begins and ends at ticks and holds `from..=to`, and these ticks: `at_most`, or one more for each end.
pub(super) fn rounded(scale: Scale, from: f64, to: f64, at_most: usize) -> ((f64, f64), Ticks) {
    if scale == Scale::Powers {
        return powers(from, to);
    }
    let (factor, unit) = unit(scale, to);
    let step = step(scale, unit, (to - from) / factor, at_most);
    let whole = step * factor;
    let range = ((from / whole + 1e-9).floor() * whole, (to / whole - 1e-9).ceil() * whole);
    (range, with_step(scale, range, step))
}

/// The powers of ten around a range of numbers above 0, and the range from the first to the last of them.
fn powers(from: f64, to: f64) -> ((f64, f64), Ticks) {
    let first = (from.log10() + 1e-9).floor() as i32;
    let last = ((to.log10() - 1e-9).ceil() as i32).max(first + 1);
    let at = (first..=last).take(MOST).map(|exponent| {
        let value = 10_f64.powi(exponent);
        let text = if exponent < -3 { format!("1e{exponent}") } else { short(value) };
        (value, text)
    });
    ((10_f64.powi(first), 10_f64.powi(last)), Ticks { at: at.collect(), unit: "" })
}

/// What a unit of the axis is in the scale's own, and its name.
fn unit(scale: Scale, to: f64) -> (f64, &'static str) {
    match scale {
        Scale::Number | Scale::Powers => (1.0, ""),
        Scale::Bytes => (1.0, "B"),
        Scale::Share => (0.01, "%"),
        Scale::Seconds => match to {
            to if to <= 180.0 => (1.0, "s"),
            to if to <= 3.0 * 3600.0 => (60.0, "min"),
            to if to <= 72.0 * 3600.0 => (3600.0, "h"),
            _ => (86_400.0, "days"),
        },
    }
}

/// The smallest round step that needs no more than `at_most` ticks.
fn step(scale: Scale, unit: &str, span: f64, at_most: usize) -> f64 {
    let least = span.max(f64::MIN_POSITIVE * 1e9) / (at_most.max(2) - 1) as f64;
    let of_clock: &[f64] = match (scale, unit) {
        (Scale::Seconds, "s" | "min") => &SIXTIETHS,
        (Scale::Seconds, "h") => &HOURS,
        _ => &[],
    };
    let fits = |step: &&f64| **step >= least * (1.0 - 1e-9);
    if least > 0.4
        && let Some(step) = of_clock.iter().find(fits)
    {
        return *step;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| fits(&step))
        .unwrap_or(10.0 * power)
}

/// A number with as many decimals as its step has.
fn decimal(value: f64, step: f64) -> String {
    let decimals = (0..9).find(|&decimals| {
        let scaled = step * 10_f64.powi(decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1e-300)
    });
    let text = format!("{value:.*}", decimals.unwrap_or(9) as usize);
    // Rounding can leave a zero with a sign.
    if text.trim_start_matches('-').chars().all(|digit| matches!(digit, '0' | '.')) {
        "0".to_owned()
    } else {
        grouped(text)
    }
}

/// Spaces between groups of three digits before the point, as in the tables beside the plots.
fn grouped(text: String) -> String {
    let digits = text.trim_start_matches('-').split('.').next().map_or(0, str::len);
    if !(4..=15).contains(&digits) {
        return text;
    }
    let sign = usize::from(text.starts_with('-'));
    let mut grouped = String::with_capacity(text.len() + 4);
    for (index, letter) in text.chars().enumerate() {
        let place = index.saturating_sub(sign);
        if index > sign && place < digits && (digits - place).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(letter);
    }
    grouped
}

fn in_thousands(value: f64, greatest: f64, step: f64) -> String {
    if greatest >= EXPONENT {
        return format!("{value:.0e}");
    }
    // Below ten thousand digits are shorter than a unit.
    let (size, letter) = if greatest < 10_000.0 {
        (1.0, "")
    } else {
        THOUSANDS.into_iter().find(|(size, _)| greatest >= *size).unwrap_or((1.0, ""))
    };
    let text = decimal(value / size, step / size);
    if letter.is_empty() || text == "0" { text } else { format!("{text} {letter}") }
}

/// A number in three digits or so, for labels: `0`, `7.25`, `812`, `60.1 k`, `3.68 G`.
pub fn short(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    if number.abs() >= EXPONENT {
        return format!("{number:.1e}");
    }
    let (size, letter) = if number.abs() < 10_000.0 {
        (1.0, "")
    } else {
        THOUSANDS.into_iter().find(|(size, _)| number.abs() >= *size).unwrap_or((1.0, ""))
    };
    let scaled = number / size;
    let decimals = match scaled.abs() {
        0.0..1e-9 => 0,
        1e-9..0.1 => 4,
        0.1..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if letter.is_empty() { grouped(text.to_owned()) } else { format!("{text} {letter}") }
}

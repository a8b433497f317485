//! Times of objects as seconds since 1970, and ages in words. Pure, but for [`now`].

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::screen::span;

/// Seconds since 1970, by this machine's clock.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A time of an object's metadata.
pub fn of(time: &Time) -> f64 {
    time.0.as_millisecond() as f64 / 1000.0
}

/// A time of a status, RFC 3339.
pub fn parse(text: &str) -> Option<f64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

/// `since 2026-01-31T17:59:00Z (2 min 05 s)`; a time that cannot be read stands as it is.
pub fn since(text: &str, now: f64) -> String {
    match parse(text) {
        Some(then) => format!("since {text} ({})", span((now - then).max(0.0))),
        None => format!("since {text}"),
    }
}

/// `45s`, `12m`, `5h`, `3d`: an age in one word, as `kubectl` writes it.
pub fn brief(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..120 => format!("{whole}s"),
        120..7200 => format!("{}m", whole / 60),
        7200..172_800 => format!("{}h", whole / 3600),
        _ => format!("{}d", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_with_the_age_that_follows_from_it() {
        let now = parse("2026-01-31T18:01:05Z").unwrap();
        assert_eq!(since("2026-01-31T17:59:00Z", now), "since 2026-01-31T17:59:00Z (2 min 05 s)");
        assert_eq!(since("yesterday", now), "since yesterday");
    }

    #[test]
    fn an_age_is_one_word() {
        assert_eq!([3.9, 119.0, 120.0, 7300.0, 259_300.0].map(brief), ["3s", "119s", "2m", "2h", "3d"]);
    }
}

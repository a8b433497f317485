//! Small text helpers of messages and tables. No I/O.

/// The nearest DNS label to a name that is none.
pub(crate) fn as_dns_label(name: &str, most: usize) -> String {
    let mapped: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .take(most)
        .collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { "my-name".to_owned() } else { trimmed.to_owned() }
}

/// The known name that a mistyped one most likely means, if any is near.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A number of bytes for people: `5.0 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_fits() {
        let written = [(7, "7 B"), (3073, "3.0 KiB"), (5 << 20, "5.0 MiB"), (24 << 30, "24.0 GiB")];
        for (count, text) in written {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn mistyped_names_find_their_neighbour_and_strangers_do_not() {
        assert_eq!(nearest("LinRate", ["Fixed", "StreamRate", "LineRate"]), Some("LineRate"));
        assert_eq!(nearest("microbatch", ["microBatch", "seed"]), Some("microBatch"));
        assert_eq!(nearest("xyz", ["microBatch", "seed"]), None);
    }

    #[test]
    fn any_name_becomes_a_dns_label() {
        for name in ["My Job", "-a-", "__", "ÄÖ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa-b"] {
            assert!(scadles_api::names::is_dns_label(&as_dns_label(name, 30), 30), "{name}");
        }
    }
}

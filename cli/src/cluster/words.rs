//! The words of other programs, made fit for one sentence. Pure.

/// What is said of an image when nothing is known.
pub const NO_REASON: &str = "the node gives no reason";

/// `a`, `a and b`, `a, b and 3 more`.
pub fn list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [one, two] => format!("{one} and {two}"),
        [one, two, three] => format!("{one}, {two} and {three}"),
        [one, two, rest @ ..] => format!("{one}, {two} and {} more", rest.len()),
    }
}

/// The text between two others.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}

/// White space made single, no full stop at the end.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(['.', ' ']).to_owned()
}

/// What the scheduler says, without what it says about pre-emption.
pub fn scheduler(text: &str) -> String {
    let text = one_line(text);
    let thoughts = [" no new claims to deallocate", " preemption:"];
    let end = thoughts.iter().filter_map(|thought| text.find(thought)).min().unwrap_or(text.len());
    one_line(&text[..end])
}

/// What the API server says against a pod, without the pod's name.
pub fn refusal(text: &str) -> String {
    let text = one_line(text);
    match text.split_once(" is forbidden: ") {
        Some((_, reason)) => reason.to_owned(),
        None => text,
    }
}

/// Why an image cannot be pulled: what the kubelet and the registry said comes down to a few cases.
pub fn pull(reason: &str, text: &str) -> String {
    let said = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if reason == "InvalidImageName" {
        "that is no name of an image".to_owned()
    } else if reason == "ErrImageNeverPull" {
        "it is not on the node, and may not be pulled".to_owned()
    } else if has(&["unauthorized", "denied", "forbidden", "authentication", "authorization"]) {
        "the registry refuses access".to_owned()
    } else if has(&["not found", "notfound", "manifest unknown", "no such manifest"]) {
        "the registry does not have it".to_owned()
    } else if has(&[
        "no such host",
        "timeout",
        "timed out",
        "connection refused",
        "dial tcp",
        "no route to host",
    ]) {
        "the registry cannot be reached from the node".to_owned()
    } else if let Some(last) =
        one_line(text).rsplit(": ").next().filter(|last| !last.contains("pulling image"))
    {
        last.to_owned()
    } else {
        NO_REASON.to_owned()
    }
}

/// The local body goes on with `--resume`; in a cluster there is no such thing.
pub fn in_cluster(text: &str) -> String {
    text.replace("; then go on with --resume", "")
        .replace("go on with --resume, or ", "")
        .replace(", then go on with --resume", "")
        .replace("; go on with --resume", "")
}

/// A rate in samples per second, with as many digits as say something.
pub fn rate(samples_per_second: f64) -> String {
    if samples_per_second >= 10.0 {
        format!("{samples_per_second:.0}/s")
    } else {
        format!("{samples_per_second:.1}/s")
    }
}

/// Bytes as people say them: `134.2 kB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_become_two_and_a_number() {
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&["a", "b", "c", "d", "e"]), "a, b and 3 more");
    }

    #[test]
    fn the_scheduler_is_quoted_without_its_thoughts_on_preemption() {
        let said = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption \
                    victims found for incoming pod.";
        assert_eq!(scheduler(said), "0/2 nodes are available: 2 Insufficient cpu");
    }

    #[test]
    fn a_pull_fails_for_one_of_a_few_reasons() {
        let not_there = "rpc error: code = NotFound desc = failed to pull and unpack image \"docker.io/library/x:1\": \
                         failed to resolve reference \"docker.io/library/x:1\": docker.io/library/x:1: not found";
        assert_eq!(pull("ErrImagePull", not_there), "the registry does not have it");
        let secret = "pull access denied, repository does not exist or may require authorization";
        assert_eq!(pull("ErrImagePull", secret), "the registry refuses access");
        let away = "dial tcp: lookup registry.example on 10.0.0.2:53: no such host";
        assert_eq!(pull("ImagePullBackOff", away), "the registry cannot be reached from the node");
        assert_eq!(pull("ImagePullBackOff", "Back-off pulling image \"x:1\""), "the node gives no reason");
        assert_eq!(
            pull("ErrImagePull", "failed to pull: no space left on device."),
            "no space left on device"
        );
    }

    #[test]
    fn what_only_the_local_body_can_do_is_not_advised() {
        assert_eq!(in_cluster("raise it; then go on with --resume"), "raise it");
        assert_eq!(in_cluster("go on with --resume, or raise it"), "raise it");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(
            [999, 134_200, 44_800_000, 1_230_000_000].map(bytes),
            ["999 B", "134.2 kB", "44.8 MB", "1.23 GB"]
        );
    }
}

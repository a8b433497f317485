use super::*;

#[test]
fn shares_and_bytes_are_written_as_one_reads_them() {
    for (share, text) in [
        (0.0, "0 %"),
        (0.0004, "< 0.1 %"),
        (0.041, "4.1 %"),
        (0.125, "12.5 %"),
        (0.823, "82 %"),
        (1.0, "100 %"),
    ] {
        assert_eq!(percent(share), tight(text));
    }
    for (number, text) in [(0.0, "0 B"), (3_073.0, "3 073 B"), (115_000_000.0, "115 MB"), (3.68e9, "3.68 GB")]
    {
        assert_eq!(bytes(number), tight(text));
    }
    assert_eq!(counted(1, "step", "steps"), "1 step");
    assert_eq!(counted(2_000, "step", "steps"), "2\u{a0}000 steps");
}

#[test]
fn the_policy_of_every_page_forbids_scripts_and_loading() {
    let page = document("<title>", &html! {});
    assert!(page.contains(&format!("content=\"{POLICY}\"")), "{page}");
    assert!(page.contains("<title>&lt;title&gt;</title>"), "{page}");
    for forbidden in ["<script", "http://", "https://", "url(", "@import", "src="] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

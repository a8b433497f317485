use std::path::{Path, PathBuf};

use super::*;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Compares with a stored text; `SCADLES_WRITE_GOLDEN=1` stores it anew.
pub(super) fn assert_stored(path: &Path, text: &str) {
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is not what `scadles reproduce` writes; SCADLES_WRITE_GOLDEN=1 cargo test -p scadles --lib stores it anew",
        path.display()
    );
}

#[test]
fn the_document_and_its_plots_are_what_the_command_writes() {
    let sections = all();
    let page = docs().join("reproduction.md");
    let stored = std::fs::read_to_string(&page).unwrap();
    let trained = stored.find(fair::text::HEADING).map_or("", |place| &stored[place..]);
    assert_stored(&page, &format!("{}\n{trained}", text::markdown(&sections)));
    let plots: Vec<_> = sections.iter().filter_map(Section::plot).collect();
    assert!(plots.len() >= 5);
    for plot in plots {
        assert_stored(&docs().join("reproduction").join(plot.file), &plot.figure.document());
    }
}

/// The numbers take hours: what can be told is whether they are those of today's comparison.
#[test]
fn the_document_ends_with_the_comparison_that_is_trained() {
    let page = std::fs::read_to_string(docs().join("reproduction.md")).unwrap();
    let trained = page.split_once(fair::text::HEADING).unwrap().1;
    for case in fair::cases(&fair::Scale::LONG) {
        assert!(trained.contains(&format!("| {} |", case.method)), "{}", case.draft.name);
    }
    let plots: Vec<&str> =
        trained.split("(reproduction/").skip(1).filter_map(|it| it.split(')').next()).collect();
    assert!(plots.len() >= 7, "{plots:?}");
    for plot in plots {
        assert!(docs().join("reproduction").join(plot).is_file(), "{plot}");
    }
}

#[test]
fn every_number_that_differs_has_its_reason() {
    for section in all() {
        assert!(!section.rows.is_empty(), "{}", section.key);
        for row in &section.rows {
            assert!(row.ours.is_finite(), "{row:?}");
            assert!(row.paper.is_none_or(|paper| paper.value.is_finite()), "{row:?}");
            assert!(row.agrees() || row.reason.as_ref().is_some_and(|reason| reason.len() > 20), "{row:?}");
        }
    }
}

fn row<'a>(section: &'a Section, what: &str) -> &'a Row {
    section.rows.iter().find(|row| row.what.contains(what)).unwrap()
}

#[test]
fn the_baseline_follows_from_the_slowest_stream_alone() {
    let section = steps::baseline();
    let predicted: Vec<&Row> = section.rows.iter().filter(|row| row.paper.is_some()).collect();
    assert_eq!(predicted.len(), 4);
    for row in predicted {
        assert_eq!(row.verdict(), Verdict::Reproduced, "{row:?}");
        assert!(row.deviation().unwrap().abs() < 1e-3, "{row:?}");
    }
    for (set, gain) in [("S1,", 3.177), ("S1′,", 2.518), ("S2′,", 1.180)] {
        let ours = row(&section, set).ours;
        assert!((ours / gain - 1.0).abs() < 0.01, "{set} {ours}");
    }
}

#[test]
fn the_misprint_of_table_2_is_flagged_and_counts_for_nothing() {
    let section = buffers::table2();
    let misprints: Vec<&Row> = section.rows.iter().filter(|row| row.verdict() == Verdict::Misprint).collect();
    assert_eq!(misprints.len(), 1);
    assert_eq!(misprints[0].paper.unwrap().text, "200.6");
    assert!((misprints[0].ours - 206.0).abs() < 0.05, "{}", misprints[0].ours);
    let (reproduced, predicted) = text::score(&[section]);
    assert_eq!((reproduced, predicted), (8, 11), "VGG-19 at 100/s is the odd row");
}

#[test]
fn all_of_fig_1_is_reproduced_and_what_was_read_off_it_is_not_counted() {
    let section = steps::fig1();
    assert!(section.rows.iter().all(Row::agrees));
    assert_eq!(text::score(std::slice::from_ref(&section)), (9, 9));
    assert_eq!(row(&section, "S2,").verdict(), Verdict::NotCounted);
}

#[test]
fn truncation_throws_away_what_the_paper_does_not_tell() {
    let section = buffers::table4();
    let thrown = |network: &str| -> Vec<f64> {
        let rows =
            section.rows.iter().filter(|row| row.what.contains("thrown") && row.what.contains(network));
        rows.map(|row| row.ours).collect()
    };
    assert!(thrown("ResNet").iter().all(|share| (15.0..60.0).contains(share)), "{:?}", thrown("ResNet"));
    assert!(thrown("VGG").iter().all(|share| (3.0..14.0).contains(share)), "{:?}", thrown("VGG"));
}

#[test]
fn three_cells_of_table_5_are_artefacts() {
    let section = bytes::table5();
    assert_eq!(section.rows.iter().filter(|row| row.verdict() == Verdict::Artefact).count(), 3);
    assert_eq!(text::score(&[section]), (0, 0), "fitted numbers count for nothing");
}

#[test]
fn copies_to_all_take_nine_times_the_bytes_of_what_changes_hands() {
    let section = bytes::fig9();
    for fraction in paper::FRACTIONS {
        let copies = row(&section, &format!("S2′, α = β = {fraction}: KB really sent, copies")).ours;
        let moved = row(&section, &format!("S2′, α = β = {fraction}: KB really sent, ours")).ours;
        assert!((copies / moved - 9.0).abs() < 0.2, "{copies} {moved}");
    }
}

#[test]
fn the_tolerance_is_two_percent_or_half_a_unit_of_the_last_digit() {
    let tolerance = |text| Printed::read(text).tolerance();
    assert!((tolerance("0.35") - 0.007).abs() < 1e-12);
    assert!((tolerance("8") - 0.5).abs() < 1e-12);
    assert!((tolerance("4.36e6") - 87_200.0).abs() < 1e-6);
    assert!((tolerance("1e5") - 50_000.0).abs() < 1e-6);
    assert!(Row::predicted("x", 8.5, "8").agrees() && !Row::predicted("x", 8.6, "8").agrees());
}

#[test]
fn every_section_is_found_under_its_own_key() {
    for (key, compute) in SECTIONS {
        assert_eq!(compute().key, key);
    }
    assert!(one("table3").is_none());
}

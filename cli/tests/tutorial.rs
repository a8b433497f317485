//! The book's commands, typed as they stand there: a newcomer gets what the pages promise.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{
    Scratch,
    book::{Reader, root},
    report,
};

#[test]
fn a_newcomer_gets_through_the_first_run_and_what_the_concepts_let_them_try() {
    let scratch = Scratch::new("tutorial");
    let reader = Reader { folder: scratch.path(), instead: Vec::new() };
    let printed = reader.follow("docs/tutorial/first-run.md");
    for promised in [
        "every sample is accounted for",
        "Fixed 64 would have trained",
        "parameters are bit-identical on all 4 ranks",
        "equal, bit for bit",
    ] {
        assert!(printed.contains(promised), "`{promised}` is missing in:\n{printed}");
    }
    let (ours, fixed) =
        (report(&scratch.path().join("runs/first")), report(&scratch.path().join("runs/fixed")));
    let waiting =
        |of: &scadles_api::report::RunReport| -> u64 { of.devices.iter().map(|it| it.buffered).sum() };
    assert!(
        fixed.seconds > ours.seconds && waiting(&fixed) > waiting(&ours),
        "the page promises that `fixed` takes longer and lets more wait: {} s and {}, {} s and {}",
        fixed.seconds,
        waiting(&fixed),
        ours.seconds,
        waiting(&ours)
    );
    assert!(scratch.path().join("runs/first/report.html").is_file());
    assert!(scratch.path().join("compare.html").is_file());
    for curve in ["rate", "buffer", "batch", "weight", "loss", "accuracy"] {
        let svg = std::fs::read_to_string(scratch.path().join(format!("plots/{curve}.svg"))).unwrap();
        assert!(svg.contains("<path") || svg.contains("<polyline"), "{curve} shows nothing:\n{svg}");
    }
    for concept in ["batches", "compression", "injection", "batch-norm", "failures", "virtual-clock"] {
        reader.follow(&format!("docs/concepts/{concept}.md"));
    }
}

/// The page's own Python has written the fixture: PyTorch is not there where tests run.
#[test]
fn a_newcomer_trains_a_network_of_their_own() {
    let scratch = Scratch::new("tutorial-model");
    let fixture = root().join("cli/tests/fixtures/tutorial-net.pt");
    std::fs::copy(fixture, scratch.path().join("net.pt")).unwrap();
    let printed =
        Reader { folder: scratch.path(), instead: Vec::new() }.follow("docs/tutorial/your-model.md");
    assert!(printed.contains("every sample is accounted for"), "{printed}");
    let model = std::fs::read(scratch.path().join("runs/own/model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&model).contains("features.0.weight"), "the names are Python's");
}

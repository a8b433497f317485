use std::path::Path;

use scadles_api::CheckpointRef;

use super::*;
use crate::{
    report::steps::testing::table,
    view::testing::{progress, snapshot},
};

fn about() -> About {
    About {
        program: "scadles 0".to_owned(),
        folder: "/runs/quickstart-1".to_owned(),
        model: "Cnn".to_owned(),
        broker: "the embedded broker".to_owned(),
    }
}

fn sight<'a>(about: &'a About, snapshot: Option<&'a Snapshot>, history: &'a History) -> Sight<'a> {
    static QUIET: Chronicle = Chronicle { events: VecDeque::new(), checkpoint: None };
    Sight { about, snapshot, history, evaluations: &[], chronicle: &QUIET, end: None }
}

fn json(sight: &Sight<'_>) -> serde_json::Value {
    serde_json::to_value(page(sight)).unwrap()
}

/// Compares with a stored text; `SCADLES_WRITE_GOLDEN=1` stores it anew.
fn assert_stored(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("SCADLES_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
}

#[test]
fn the_document_of_a_run_in_its_second_attempt_is_the_stored_one() {
    let about = about();
    let mut snapshot = snapshot();
    snapshot.attempt = 2;
    snapshot.attempts = vec![AttemptReport {
        number: 1,
        from_step: 0,
        to_step: 3,
        ended: "device-1 was lost: killed by signal 9".to_owned(),
        first_cause: Some("device-1".to_owned()),
    }];
    let checkpoint =
        CheckpointRef { job_uid: "uid".to_owned(), name: "1-2".to_owned(), step: 2, restart_streams: false };
    let evaluations = vec![snapshot.progress.as_ref().unwrap().evaluation.clone().unwrap()];
    snapshot.progress = Some(Progress { checkpoint: Some(checkpoint), ..progress() });
    let mut history = History::default();
    table(2, &[(1, 1, 2.3), (1, 2, 2.2), (1, 3, 2.1), (2, 3, 2.05)], |step| history.add(step));
    let mut chronicle = Chronicle::default();
    chronicle.note(1.5, EventKind::Note, "run folder /runs/quickstart-1");
    chronicle.look(&snapshot);
    chronicle.look(&snapshot);
    chronicle.note(9.0, EventKind::Failure, "the worker of device-1 was ended by signal 9");
    let end = End {
        outcome: "Completed".to_owned(),
        well: true,
        message: "complete after 214 steps".to_owned(),
        remedy: String::new(),
        report: Some("/runs/quickstart-1/report.html".to_owned()),
    };
    let sight = Sight {
        about: &about,
        snapshot: Some(&snapshot),
        history: &history,
        evaluations: &evaluations,
        chronicle: &chronicle,
        end: Some(&end),
    };
    assert_stored("live-page.json", &format!("{}\n", serde_json::to_string_pretty(&page(&sight)).unwrap()));
}

#[test]
fn before_the_first_look_and_before_the_first_step_there_is_a_document() {
    let (about, history) = (about(), History::default());
    let nothing = json(&sight(&about, None, &history));
    assert_eq!(nothing["state"]["words"], "starting");
    assert_eq!(nothing["devices"], serde_json::json!([]));
    let early = Snapshot { progress: None, streams: vec![], ..snapshot() };
    let early = json(&sight(&about, Some(&early), &history));
    assert_eq!(early["progress"], serde_json::Value::Null);
    assert_eq!(early["devices"][1]["name"], "device-1");
    assert_eq!(early["devices"][1]["now"], serde_json::Value::Null);
}

#[test]
fn the_document_of_a_thousand_devices_and_a_long_run_is_small_and_has_the_worst_of_them() {
    let (about, devices) = (about(), 1_000);
    let mut many = snapshot();
    let healthy = progress().devices.remove(0);
    let mut rows = vec![healthy.clone(); devices];
    rows[777] = DeviceProgress { state: BufferState::Overflowing, ..healthy };
    many.devices = (0..devices).map(scadles_api::names::numbered_device).collect();
    many.places = vec![100; devices];
    many.streams = vec![];
    many.progress = Some(Progress { devices: rows, ..progress() });
    let mut history = History::default();
    let lines: Vec<_> = (1..=500).map(|step| (1, step, 1.0 / step as f64)).collect();
    table(devices, &lines, |step| history.add(step));
    let mut chronicle = Chronicle::default();
    (0..10_000).for_each(|number| chronicle.note(f64::from(number), EventKind::Note, &"x".repeat(2_000)));
    let evaluations = vec![progress().evaluation.unwrap(); 5_000];
    let sight =
        Sight { evaluations: &evaluations, chronicle: &chronicle, ..sight(&about, Some(&many), &history) };
    let text = serde_json::to_string(&page(&sight)).unwrap();
    assert!(text.len() < 400_000, "{} bytes", text.len());
    let page = page(&sight);
    assert_eq!((page.device_count, page.devices.len()), (1_000, 24));
    assert_eq!(page.devices[0].name, "device-777");
    assert!(page.evaluations.len() <= POINTS && page.events.len() <= MOST_EVENTS);
    assert!(
        page.events.last().is_some_and(|event| (event.seconds - 9_999.0).abs() < 1e-9),
        "the newest stay"
    );
}

#[test]
fn the_last_evaluation_is_always_there() {
    for count in [1, POINTS, POINTS + 1, 3 * POINTS - 1] {
        let evaluation = |step: usize| Evaluation { step: step as u64, ..progress().evaluation.unwrap() };
        let evaluations: Vec<Evaluation> = (1..=count).map(evaluation).collect();
        let kept: Vec<u64> = thinned(&evaluations).map(|evaluation| evaluation.step).collect();
        assert_eq!(kept.last(), Some(&(count as u64)));
        assert!(kept.len() <= POINTS, "{}", kept.len());
    }
}

#[test]
fn a_loss_that_is_no_number_is_none() {
    let (about, history) = (about(), History::default());
    let diverged = Progress { loss: Some(f64::NAN), ..progress() };
    let snapshot = Snapshot { progress: Some(diverged), ..snapshot() };
    assert_eq!(json(&sight(&about, Some(&snapshot), &history))["progress"]["loss"], serde_json::Value::Null);
}

use scadles_api::{
    Tuning,
    job::InjectionMode,
    progress::{CompressionProgress, InjectionProgress},
    tuning::CompressionTuning,
};

use super::*;

fn names() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

#[test]
fn settling_counts_late_arrivals_as_buffered_and_keeps_the_balance() {
    let mut ledger = Ledger { arrived: 100, trained: 90, buffered: 10, ..Ledger::default() };
    let position = |partition, end| PartitionPosition { partition, start: 0, next: 45, end };
    settle(&mut ledger, &[position(0, 50), position(1, 50)], &[(1, 57), (0, 50), (2, 99)]);
    assert_eq!((ledger.arrived, ledger.buffered), (107, 17));
    assert!(ledger.is_balanced());
}

const COMPRESSION: CompressionProgress = CompressionProgress {
    ratio: 0.1,
    sparse_steps: 6,
    half_steps: 0,
    vetoed_steps: 3,
    energy_loss: Some(0.25),
};

pub(crate) fn report() -> RunReport {
    let text = "apiVersion: scadles.io/v1alpha1\nkind: ScadlesJob\nmetadata: {name: two}\nspec:\n  \
                model: {name: Mlp, numClasses: 10, inputShape: [1, 8, 8]}\n  devices: {count: 2}\n  \
                completion: {maxSteps: 10}\n";
    let job = scadles_control::parse_job(text).unwrap();
    let mut memory = Memory::new(
        "two-1".to_owned(),
        "embedded".to_owned(),
        scadles_control::decide::Supervision::new(0.0, None),
    );
    memory.train_seconds = 20.0;
    let outcome = Outcome {
        code: ExitCode::Completed,
        message: "the completion rule is met".to_owned(),
        remedy: String::new(),
    };
    let device = |name: &str, trained, buffered| DeviceProgress {
        name: name.to_owned(),
        ledger: Ledger {
            arrived: trained + buffered,
            trained,
            buffered,
            shared_out: trained / 5,
            ..Ledger::default()
        },
        wait_seconds: 12.5,
        bytes_sent: trained,
        dense_bytes: 4 * trained,
        ..DeviceProgress::default()
    };
    let progress = Progress {
        protocol: scadles_api::PROTOCOL_VERSION,
        device: "a".to_owned(),
        attempt: 1,
        rank: 0,
        phase: scadles_api::Phase::Ended,
        step: 10,
        samples: 5000,
        epoch: 0.1,
        loss: Some(1.0),
        learning_rate: 0.1,
        window_seconds: 0.25,
        step_seconds: 2.0,
        samples_per_second: 250.0,
        train_seconds: 20.0,
        injection: Some(InjectionProgress {
            mode: InjectionMode::Move,
            shared_samples: 1000,
            bytes_sent: 65_000,
        }),
        compression: Some(COMPRESSION),
        evaluation: None,
        checkpoint: None,
        tunings: vec![],
        durable_positions: vec![],
        devices: vec![device("a", 4000, 200), device("b", 1000, 20)],
        last_words: None,
    };
    let report = build(&Ending {
        job: &job,
        outcome: &outcome,
        memory: &memory,
        progress: Some(&progress),
        devices: names(),
        rates_asked: vec![210.0, 50.0],
        rates_measured: vec![209.5, 50.5],
        parameter_hashes: vec!["cafe".to_owned(); 2],
        versions: BTreeMap::new(),
    });
    with_weights(report, &[0.8, 0.2])
}

#[test]
fn the_report_holds_the_account_of_each_device_and_the_conventional_job_beside_it() {
    let report = report();
    let first = &report.devices[0];
    assert_eq!((first.arrived, first.trained, first.buffered), (4200, 4000, 200));
    assert_eq!((first.rate_mean, first.rate_asked, first.batch_mean), (209.5, Some(210.0), 400.0));
    let conventional = report.conventional.unwrap();
    assert_eq!((conventional.steps, conventional.samples), (15, 1920), "15 waits of 64 / 50 s in 20 s");
}

#[test]
fn the_summary_says_what_was_trained_where_every_sample_went_and_what_it_is_worth() {
    let text = summary(&report());
    for part in [
        "two: the completion rule is met",
        "5 000 samples in 20.0 s (250/s), 10 steps, 0 attempts",
        "a        209.5    4 200    4 000       200     800  400.0   0.800  12.5 s",
        "every sample is accounted for",
        "Fixed 64 would have trained 1 920 samples in this time (15 steps; each waits 1.28 s for the slowest stream)",
        "this run trained 2.6 times as many",
        "compression: 6 of 10 steps sent 10 % of the elements (CNC 0.600), 3 were vetoed by the gate",
        "5 000 bytes sent, 25.0 % of the 20 000 of dense steps",
        "injection (Move): 1 000 samples shared, 65 000 bytes sent; by the paper's accounting (3 KB a sample, once) 3 072 000",
        "parameters are bit-identical on all 2 ranks (hash cafe)",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

/// A ratio from a step on.
pub(super) fn tuned(step: u64, generation: u64, ratio: f64) -> Tuned {
    let compression = Some(CompressionTuning { ratio, is_free: false, delta: None });
    Tuned { step, tuning: Tuning { generation, compression, injection: None } }
}

#[test]
fn a_summary_tells_what_was_tuned_from_which_step_on() {
    let plain = report();
    assert!(!summary(&plain).contains("tuned"));
    let report = RunReport { tunings: vec![tuned(1, 1, 0.1), tuned(5, 2, 0.1), tuned(7, 3, 0.05)], ..plain };
    let text = summary(&report);
    assert!(
        text.contains("as the job file says:\n  from step 7: spec.compression.ratio 0.1 → 0.05\n"),
        "{text}"
    );
    assert!(!text.contains("step 5"), "nothing has changed there: {text}");
}

#[test]
fn a_summary_warns_when_the_account_does_not_balance() {
    let mut report = report();
    report.devices[0].arrived += 1;
    assert!(summary(&report).contains("WARNING: the account of samples does not balance"));
}

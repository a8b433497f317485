//! A look at a running job, for the tests of what is shown of it.

use scadles_api::{
    BufferState, DeviceProgress, Ledger, Phase, Progress,
    progress::{Evaluation, TopK},
    worker::Completion,
};

use super::{Snapshot, StreamView};

/// Rank 0's progress of a job of two devices.
pub(crate) fn progress() -> Progress {
    let device = |name: &str, rate: f64, batch, weight, buffered| DeviceProgress {
        name: name.to_owned(),
        ledger: Ledger { buffered, ..Ledger::default() },
        stream_rate: rate,
        local_batch: batch,
        aggregation_weight: weight,
        oldest_seconds: 0.4,
        state: BufferState::Healthy,
        ..DeviceProgress::default()
    };
    Progress {
        protocol: scadles_api::PROTOCOL_VERSION,
        device: "device-0".to_owned(),
        attempt: 1,
        rank: 0,
        phase: Phase::Training,
        step: 214,
        samples: 29_104,
        epoch: 0.58,
        loss: Some(1.4123),
        learning_rate: 0.05,
        window_seconds: 0.25,
        step_seconds: 0.25,
        samples_per_second: 544.0,
        train_seconds: 53.0,
        compression: None,
        injection: None,
        evaluation: Some(Evaluation {
            step: 200,
            samples_trained: 27_000,
            seconds: 50.0,
            pictures: 2000,
            loss: 1.5,
            top_k: vec![TopK { accuracy_k: 1, share: 0.4731 }],
            per_class: vec![],
        }),
        checkpoint: None,
        tunings: vec![],
        durable_positions: vec![],
        devices: vec![device("device-0", 199.8, 50, 0.806, 1112), device("device-1", 47.9, 12, 0.194, 31)],
        last_words: None,
    }
}

/// A look at it.
pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        job: "quickstart".to_owned(),
        phase: "Running",
        activity: "training".to_owned(),
        attempt: 1,
        seconds: 61.2,
        completion: Completion::MaxSamples(60_000),
        epoch_samples: 50_000,
        progress: Some(progress()),
        attempts: vec![],
        devices: vec!["device-0".to_owned(), "device-1".to_owned()],
        places: vec![21_838, 21_838],
        streams: vec![
            StreamView { asked: 200.0, waiting: None },
            StreamView { asked: 48.0, waiting: Some(("for a checkpoint".to_owned(), 3.0)) },
        ],
    }
}

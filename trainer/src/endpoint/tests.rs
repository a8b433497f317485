use axum::body::{Body, to_bytes};
use scadles_api::{progress::DeviceProgress, tuning::CompressionTuning};
use tower::ServiceExt;

use super::*;

fn shared() -> (Arc<Shared>, mpsc::Receiver<Attempt>) {
    Shared::idle("device-0")
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        protocol: PROTOCOL_VERSION,
        number,
        devices: vec!["device-0".to_owned()],
        rank: 0,
        hub: "127.0.0.1:1".to_owned(),
        checkpoint: None,
        tuning: Tuning::default(),
    }
}

async fn call(
    shared: &Arc<Shared>,
    method: &str,
    path: &str,
    token: &str,
    body: String,
) -> (StatusCode, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = router(shared.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn the_checkpoint_that_a_supervisor_has_named_or_read_stays_known_when_a_newer_one_is_announced() {
    let (shared, _attempts) = shared();
    assert!(shared.known_checkpoints().is_empty());
    let reference = |step| {
        let name = scadles_api::names::checkpoint(1, step);
        CheckpointRef { job_uid: "uid".to_owned(), name, step, restart_streams: false }
    };
    let announce = |step| shared.update(|progress| progress.checkpoint = Some(reference(step)));
    shared.supervisor_knows(&reference(10));
    announce(20);
    announce(30);
    assert_eq!(shared.known_checkpoints(), ["0001-00000010", "0001-00000030"], "it has read of none of them");
    announce(40);
    call(&shared, "GET", "/v1/progress", "secret", String::new()).await;
    announce(80);
    announce(120);
    assert_eq!(shared.known_checkpoints(), ["0001-00000040", "0001-00000120"]);
}

#[test]
fn a_stop_with_a_checkpoint_outdoes_one_without() {
    let (shared, _attempts) = shared();
    shared.request_stop(StopRequest { checkpoint: false });
    assert_eq!(shared.stop_request(), Some(StopRequest { checkpoint: false }));
    shared.request_stop(StopRequest { checkpoint: true });
    shared.request_stop(StopRequest { checkpoint: false });
    assert_eq!(shared.stop_request(), Some(StopRequest { checkpoint: true }));
}

async fn post_number(shared: &Arc<Shared>, number: u32) -> StatusCode {
    call(shared, "POST", "/v1/attempt", "secret", serde_json::to_string(&attempt(number)).unwrap()).await.0
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let (shared, _attempts) = shared();
    for (method, path) in [
        ("GET", "/v1/progress"),
        ("POST", "/v1/attempt"),
        ("POST", "/v1/stop"),
        ("POST", "/v1/checkpoint"),
        ("POST", "/v1/tuning"),
        ("GET", "/metrics"),
    ] {
        for token in ["", "guess", "secre", "secrets"] {
            let (status, _) = call(&shared, method, path, token, String::new()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {token}");
        }
    }
    assert_eq!((shared.stop_request(), shared.tuning()), (None, None));
}

#[tokio::test]
async fn an_attempt_is_taken_once_confirmed_again_and_another_one_refused() {
    let (shared, mut attempts) = shared();
    assert_eq!(post_number(&shared, 3).await, StatusCode::OK);
    assert_eq!(post_number(&shared, 3).await, StatusCode::OK);
    assert_eq!(post_number(&shared, 4).await, StatusCode::CONFLICT);
    assert_eq!(attempts.try_recv().unwrap().number, 3);
    assert!(attempts.try_recv().is_err());
    assert_eq!(shared.progress().attempt, 3);
}

#[tokio::test]
async fn a_worker_of_another_protocol_is_refused() {
    let (shared, _attempts) = shared();
    let body = serde_json::to_string(&Attempt { protocol: PROTOCOL_VERSION + 1, ..attempt(1) }).unwrap();
    assert_eq!(call(&shared, "POST", "/v1/attempt", "secret", body).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn the_final_progress_is_known_to_have_been_read() {
    let (shared, _attempts) = shared();
    call(&shared, "GET", "/v1/progress", "secret", String::new()).await;
    assert!(!shared.end_was_seen());
    shared.update(|progress| progress.phase = Phase::Ended);
    let (status, body) = call(&shared, "GET", "/v1/progress", "secret", String::new()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_str::<Progress>(&body).unwrap(), shared.progress());
    assert!(shared.end_was_seen());
}

#[tokio::test]
async fn metrics_name_every_device() {
    let (shared, _attempts) = shared();
    shared.update(|progress| {
        progress.step = 7;
        progress.devices = vec![DeviceProgress {
            name: "device-0".to_owned(),
            stream_rate: 12.5,
            ..DeviceProgress::default()
        }];
    });
    let (status, text) = call(&shared, "GET", "/metrics", "secret", String::new()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("scadles_step 7.0"), "{text}");
    assert!(text.contains("scadles_device_stream_rate{device=\"device-0\"} 12.5"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_request_for_a_checkpoint_stands_until_one_is_agreed() {
    let (shared, _attempts) = shared();
    assert!(!shared.checkpoint_wanted());
    let (status, _) = call(&shared, "POST", "/v1/checkpoint", "secret", String::new()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert!(shared.checkpoint_wanted());
    shared.checkpoint_agreed();
    assert!(!shared.checkpoint_wanted());
}

fn compressed(generation: u64, ratio: f64) -> Tuning {
    let compression = Some(CompressionTuning { ratio, is_free: false, delta: Some(0.3) });
    Tuning { generation, compression, injection: None }
}

#[tokio::test]
async fn the_newest_tuning_is_kept_and_an_impossible_one_refused_in_words() {
    let (shared, mut attempts) = Shared::idle_with(compressed(0, 0.1));
    let tune = async |shared: &Arc<Shared>, tuning: &Tuning| {
        call(shared, "POST", "/v1/tuning", "secret", serde_json::to_string(tuning).unwrap()).await
    };
    for (told, known) in [(2, 2), (1, 2), (2, 2), (3, 3)] {
        assert_eq!(tune(&shared, &compressed(told, 0.05)).await.0, StatusCode::ACCEPTED);
        assert_eq!(shared.tuning().unwrap().generation, known);
    }
    let (status, words) = tune(&shared, &compressed(4, 1.5)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(words, "ratio = 1.5: allowed is a number above 0, at most 1");
    let (status, _) = call(&shared, "POST", "/v1/tuning", "secret", "{\"generation\": -1}".to_owned()).await;
    assert!(status.is_client_error(), "{status}");
    assert_eq!(shared.tuning(), Some(compressed(3, 0.05)));
    let impossible = Attempt { tuning: compressed(4, 0.0), ..attempt(1) };
    let (status, _) =
        call(&shared, "POST", "/v1/attempt", "secret", serde_json::to_string(&impossible).unwrap()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(attempts.try_recv().is_err());
    let (other, _attempts) = Shared::idle_with(Tuning::default());
    let (status, words) = tune(&other, &compressed(1, 0.1)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(words.contains("the job began without it"), "{words}");
    assert_eq!(other.tuning(), None);
}

//! Golden sentences. Statuses are made by the operator's own function, and problems in its own words, so that neither can
//! change without a sentence here.

use k8s_openapi::api::core::v1::{Event, Pod};
use scadles_api::{
    BufferState, CheckpointRef, DeviceProgress, ExitCode, Ledger, Phase, Progress, ScadlesJob,
    attempt::Listening,
    crd::ScadlesJobObject,
    progress::{Accuracy, LastWords, TopK},
    report::AttemptReport,
    status::ResolvedStatus,
};
use scadles_control::{
    decide::{BrokerState, JobPhase, Outcome, ProcessState, Supervision, WorkerObservation},
    status::{self, EndedPod, PodTrouble},
    validate_in_cluster,
};
use scadles_kafka::Error as Kafka;
use serde_json::{Value, json};

use super::*;

/// When everything began.
const BEGAN: &str = "2026-01-31T12:00:00Z";

fn began() -> f64 {
    time::parse(BEGAN).unwrap()
}

fn job() -> Value {
    json!({
        "apiVersion": "scadles.io/v1alpha1",
        "kind": "ScadlesJob",
        "metadata": {
            "name": "fashion", "namespace": "demo", "uid": "u-1", "generation": 1, "creationTimestamp": BEGAN,
        },
        "spec": {
            "model": {"name": "Mlp", "inputShape": [1, 28, 28]},
            "stream": {"transform": {"mean": [0.5], "std": [0.5]}},
            "kafka": {
                "bootstrapServers": "kafka.demo.svc:9092",
                "tls": {"caSecret": "kafka-ca"},
                "sasl": {"mechanism": "ScramSha512", "secret": "kafka-user"},
            },
            "devices": {"count": 4, "template": {"resources": {"limits": {"memory": "512Mi"}}}},
            "checkpoint": {"storage": {"persistentVolumeClaim": {"claimName": "results"}}},
            "completion": {"maxSteps": 1200},
            "image": "registry.example/trainer:9",
            "runPolicy": {"startDeadlineSeconds": 600, "maxRestarts": 3},
        },
    })
}

fn device(index: usize) -> DeviceProgress {
    DeviceProgress {
        name: format!("device-{index}"),
        stream_rate: [199.0, 12.0, 48.0, 9.5][index],
        local_batch: 50,
        aggregation_weight: 0.25,
        state: BufferState::Healthy,
        ledger: Ledger { buffered: 31, ..Ledger::default() },
        ..DeviceProgress::default()
    }
}

/// A cluster with one job that trains, to be changed by each test.
struct World {
    job: Value,
    supervision: Supervision,
    progress: Progress,
    broker: BrokerState,
    troubles: Vec<PodTrouble>,
    ended: Vec<EndedPod>,
    last_words: Option<LastWords>,
    listening: usize,
    pods: Option<Vec<Pod>>,
    events: Vec<Event>,
    /// Seconds from the last status to the question.
    later: f64,
}

impl World {
    fn training() -> Self {
        let supervision = Supervision {
            attempt: 1,
            phase: JobPhase::Running,
            last_step: 214,
            last_samples: 29_104,
            ..Supervision::new(began(), None)
        };
        let progress = Progress {
            protocol: scadles_api::PROTOCOL_VERSION,
            device: "device-0".to_owned(),
            attempt: 1,
            rank: 0,
            phase: Phase::Training,
            step: 214,
            samples: 29_104,
            epoch: 0.5,
            loss: Some(0.4),
            learning_rate: 0.1,
            window_seconds: 0.0,
            step_seconds: 0.2,
            samples_per_second: 540.0,
            train_seconds: 60.0,
            compression: None,
            injection: None,
            evaluation: None,
            checkpoint: None,
            tunings: vec![],
            durable_positions: vec![],
            devices: (0..4).map(device).collect(),
            last_words: None,
        };
        Self {
            job: job(),
            supervision,
            progress,
            broker: BrokerState::Ready,
            troubles: vec![],
            ended: vec![],
            last_words: None,
            listening: 4,
            pods: Some(vec![]),
            events: vec![],
            later: 2.0,
        }
    }

    fn in_phase(phase: JobPhase) -> Self {
        let mut world = Self::training();
        world.supervision.phase = phase;
        world
    }

    fn waiting(problem: &Kafka) -> Self {
        Self::waiting_for(problem.to_string())
    }

    fn waiting_for(problem: String) -> Self {
        let mut world = Self::in_phase(JobPhase::Waiting);
        world.supervision.attempt = 0;
        world.broker = BrokerState::Waiting { since: began(), problem };
        world
    }

    fn starting() -> Self {
        let mut world = Self::in_phase(JobPhase::Starting);
        world.listening = 2;
        world
    }

    fn done(code: ExitCode, message: &str, remedy: &str) -> Self {
        let outcome = Outcome { code, message: message.to_owned(), remedy: remedy.to_owned() };
        Self::in_phase(JobPhase::Done(outcome))
    }

    /// After attempt 1 lost a worker.
    fn restarting(ended: &str, exit_code: Option<i32>) -> Self {
        let mut world = Self::in_phase(JobPhase::Restarting { not_before: began() });
        world.supervision.restarts = 1;
        world.supervision.checkpoint = Some(checkpoint());
        world.supervision.history = vec![AttemptReport {
            number: 1,
            from_step: 0,
            to_step: 214,
            ended: ended.to_owned(),
            first_cause: Some("device-1".to_owned()),
        }];
        world.ended =
            vec![EndedPod { device: "device-1".to_owned(), node: Some("kind-worker".to_owned()), exit_code }];
        world
    }

    fn status(&self) -> ScadlesJobStatus {
        let process = ProcessState::Listening(Listening {
            endpoint: "10.0.0.1:7200".to_owned(),
            hub: "10.0.0.1:7201".to_owned(),
        });
        let worker = |rank| WorkerObservation {
            made_for_attempt: self.supervision.attempt,
            process: if rank < self.listening {
                process.clone()
            } else {
                ProcessState::Starting { since: began() }
            },
            confirmed_attempt: self.supervision.attempt,
        };
        let workers: Vec<WorkerObservation> = (0..4).map(worker).collect();
        let resolved = ResolvedStatus {
            image: "registry.example/trainer:9".to_owned(),
            spec_hash: "h".to_owned(),
            backend: String::new(),
        };
        let facts = status::Facts {
            generation: Some(1),
            now: began(),
            supervision: &self.supervision,
            reason: "because",
            workers: &workers,
            progress: Some(&self.progress),
            broker: &self.broker,
            troubles: &self.troubles,
            ended: &self.ended,
            resolved: &resolved,
            result_uri: "claim://results/u-1",
            last_words: self.last_words.as_ref(),
        };
        let mut status = status::status(&ScadlesJobStatus::default(), &facts);
        status.heartbeat_at = Some(BEGAN.to_owned());
        status
    }

    fn object(&self) -> ScadlesJobObject {
        serde_json::from_value(self.job.clone()).unwrap()
    }

    fn why_of(&self, status: Option<ScadlesJobStatus>) -> Answer {
        let mut object = self.object();
        object.status = status;
        why(&Facts::new(&object, &self.events, self.pods.as_deref(), began() + self.later))
    }

    fn why(&self) -> Answer {
        self.why_of(Some(self.status()))
    }
}

fn checkpoint() -> CheckpointRef {
    CheckpointRef {
        job_uid: "u-1".to_owned(),
        name: "0001-00000200".to_owned(),
        step: 200,
        restart_streams: false,
    }
}

/// A pod of the job; `extra` is merged into `spec` and `status`.
fn pod(device: &str, extra: Value) -> Pod {
    let Value::Object(extra) = extra else { unreachable!("a map of spec and status") };
    let mut pod = json!({
        "metadata": {
            "name": format!("fashion-{device}-1-abcde"), "namespace": "demo", "creationTimestamp": "2026-01-31T11:59:00Z",
            "labels": {"scadles.io/component": "trainer", "scadles.io/device": device, "scadles.io/attempt": "1"},
        },
        "spec": {"containers": [{"name": "trainer", "image": "registry.example/trainer:9"}]},
        "status": {"phase": "Pending"},
    });
    for (key, value) in extra {
        pod[key] = value;
    }
    serde_json::from_value(pod).unwrap()
}

fn waiting_container(device: &str, reason: &str, message: &str) -> Pod {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    let container = json!({
        "name": "trainer", "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": "",
    });
    pod(device, json!({"status": {"phase": "Pending", "containerStatuses": [container]}}))
}

fn ended_container(device: &str, exit_code: i32, reason: &str, at: &str) -> Pod {
    let state = json!({"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": at}});
    let container = json!({
        "name": "trainer", "state": state, "ready": false, "restartCount": 0, "image": "", "imageID": "",
    });
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    pod(device, json!({"status": {"phase": phase, "containerStatuses": [container]}}))
}

fn unplaced(device: &str, message: &str) -> Pod {
    let condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    pod(device, json!({"status": {"phase": "Pending", "conditions": [condition]}}))
}

fn warning(pod: &str, reason: &str, message: &str) -> Event {
    serde_json::from_value(json!({
        "metadata": {"name": "e", "namespace": "demo"},
        "involvedObject": {"kind": "Pod", "name": pod},
        "type": "Warning", "reason": reason, "message": message,
    }))
    .unwrap()
}

fn trouble(device: &str, reason: &str, message: &str) -> PodTrouble {
    PodTrouble { device: device.to_owned(), reason: reason.to_owned(), message: message.to_owned() }
}

#[track_caller]
fn expect_fine(answer: &Answer, sentence: &str) {
    assert_eq!(answer.sentence, sentence);
    assert!(answer.fine, "nothing is wrong");
}

#[track_caller]
fn expect_wrong(answer: &Answer, sentence: &str) {
    assert_eq!(answer.sentence, sentence);
    assert!(!answer.fine, "something is wrong");
}

#[test]
fn a_complete_job() {
    let mut world = World::done(ExitCode::Completed, "complete after 214 steps", "");
    let top_k = vec![TopK { accuracy_k: 1, share: 0.8312 }];
    let accuracy = Some(Accuracy { step: 214, pictures: 10_000, top_k });
    world.last_words = Some(LastWords { accuracy, ..LastWords::new(ExitCode::Completed, "complete") });
    expect_fine(
        &world.why(),
        "nothing is wrong: it is complete after 214 steps and 29 104 samples, Top-1 83.1 %; bring the model here with: \
         scadles fetch fashion -n demo",
    );
}

#[test]
fn a_job_that_trains() {
    expect_fine(
        &World::training().why(),
        "nothing is wrong: it trains at 540 samples/s, step 214, 4/4 workers ready",
    );
}

#[test]
fn a_job_that_trains_again_after_a_loss() {
    let mut world = World::restarting("device-1 (rank 1): killed by signal 9", Some(137));
    world.supervision.phase = JobPhase::Running;
    expect_fine(
        &world.why(),
        "nothing is wrong: it trains at 540 samples/s, step 214, 4/4 workers ready; it has restarted once, the last time \
         because device-1 (rank 1): killed by signal 9",
    );
}

#[test]
fn a_job_that_is_wrong() {
    let mut world = World::training();
    world.job["spec"]["kafka"]["bootstrapServers"] = "kafka:9092".into();
    world.job["spec"]["checkpoint"]["everySteps"] = 0.into();
    let mistakes = validate_in_cluster(&ScadlesJob::from(&world.object())).unwrap_err();
    let status = status::invalid(&ScadlesJobStatus::default(), Some(1), &mistakes, began());
    expect_wrong(
        &world.why_of(Some(status)),
        "the job has 2 mistakes, the first: spec.checkpoint.everySteps = 0: allowed is an integer from 1 to 1000000000000; give \
         such an integer, for instance 40",
    );
    world.job["spec"]["checkpoint"]["everySteps"] = 10.into();
    let mistakes = validate_in_cluster(&ScadlesJob::from(&world.object())).unwrap_err();
    let status = status::invalid(&ScadlesJobStatus::default(), Some(1), &mistakes, began());
    expect_wrong(
        &world.why_of(Some(status.clone())),
        "the job has a mistake: spec.kafka.bootstrapServers = kafka:9092: `kafka` means something else in every namespace; \
         write kafka.demo.svc:9092",
    );
    world.job["metadata"]["generation"] = 2.into();
    let answer = world.why_of(Some(status));
    assert!(
        answer.sentence.ends_with(" (its latest change has not been looked at yet)"),
        "{}",
        answer.sentence
    );
}

#[test]
fn an_image_that_cannot_be_pulled() {
    let mut world = World::starting();
    let back_off = "Back-off pulling image \"registry.example/trainer:9\"";
    world.pods = Some(
        (0..4)
            .map(|rank| waiting_container(&format!("device-{rank}"), "ImagePullBackOff", back_off))
            .collect(),
    );
    world.events = vec![warning(
        "fashion-device-0-1-abcde",
        "Failed",
        "Failed to pull image \"registry.example/trainer:9\": rpc error: code = NotFound desc = failed to pull and unpack \
         image: failed to resolve reference: registry.example/trainer:9: not found",
    )];
    let sentence = "image registry.example/trainer:9 (spec.image) cannot be pulled for device-0, device-1 and 2 more: the \
                    registry does not have it; correct the image's name, or push it there";
    expect_wrong(&world.why(), sentence);
    // Who may not see pods has the operator's word for it.
    world.pods = None;
    world.troubles =
        vec![trouble("device-0", "ImagePullBackOff", &format!("{back_off}: ErrImagePull: not found"))];
    expect_wrong(
        &world.why(),
        "image registry.example/trainer:9 (spec.image) cannot be pulled for device-0: the registry does not have it; correct \
         the image's name, or push it there",
    );
}

#[test]
fn a_pod_that_no_node_takes() {
    let mut world = World::starting();
    let said = "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, 2 Insufficient cpu. preemption: 0/3 \
                nodes are available: 3 No preemption victims found for incoming pod.";
    world.pods = Some(vec![unplaced("device-2", said), unplaced("device-3", said)]);
    expect_wrong(
        &world.why(),
        "no node takes the pod of device-2 and device-3: 0/3 nodes are available: 1 node(s) had untolerated taint {gpu: true}, \
         2 Insufficient cpu; ask for less in spec.devices.template.resources.requests, or add nodes",
    );
}

#[test]
fn a_pod_that_the_api_server_refuses() {
    let mut world = World::starting();
    world.troubles = vec![trouble(
        "device-0",
        "PodRejected",
        "pods \"fashion-device-0-1-abcde\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3",
    )];
    expect_wrong(
        &world.why(),
        "the API server refuses the pod of device-0: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3; \
         raise the quota, or ask for less in spec.devices.template.resources",
    );
    world.troubles[0].message =
        "pods \"fashion-device-0-1-abcde\" is forbidden: violates PodSecurity \"restricted:latest\": \
                                 runAsNonRoot != true"
            .to_owned();
    expect_wrong(
        &world.why(),
        "the API server refuses the pod of device-0: violates PodSecurity \"restricted:latest\": runAsNonRoot != true; lower \
         the namespace's pod security to `restricted`, or change spec.devices.template",
    );
}

#[test]
fn a_broker_that_does_not_answer() {
    let mut world = World::waiting(&Kafka::Unreachable {
        servers: "kafka.demo.svc:9092".to_owned(),
        waited: std::time::Duration::from_secs(15),
        reason: "Connection refused".to_owned(),
    });
    world.later = 190.0;
    expect_wrong(
        &world.why(),
        "no broker answers at kafka.demo.svc:9092 since 2026-01-31T12:00:00Z (3 min 10 s): Connection refused; see that Kafka \
         runs there and that spec.kafka.bootstrapServers is right (it gives up in 6 min 50 s)",
    );
}

#[test]
fn a_topic_of_somebody_else() {
    let world =
        World::waiting(&Kafka::TopicForeign { topic: "orders".to_owned(), prefix: "demo.".to_owned() });
    expect_wrong(
        &world.why(),
        "topic orders is not this job's own, whose names begin with demo.; set spec.kafka.topics.adoption: Adopt to use it as it \
         is, or give another name in spec.kafka.topics.nameTemplate",
    );
}

#[test]
fn topics_that_are_not_ready_for_another_reason() {
    let world =
        World::waiting(&Kafka::TopicCompacted { topic: "orders".to_owned(), policy: "compact".to_owned() });
    assert!(world.why().sentence.starts_with("its topics are not ready: topic \"orders\" is compacted"));
}

#[test]
fn a_secret_that_is_missing() {
    let sentence = "Secret demo/kafka-user (spec.kafka.sasl.secret) is missing; make it: kubectl -n demo create secret generic \
                    kafka-user --from-literal=username=NAME --from-literal=password=PASSWORD";
    let told = "Secret demo/kafka-user is missing: make it with the key username".to_owned();
    expect_wrong(&World::waiting_for(told).why(), sentence);
    // Where the operator does not read it, only the mount tells.
    let mut world = World::starting();
    world.pods = Some(vec![waiting_container("device-0", "ContainerCreating", "")]);
    world.events = vec![warning(
        "fashion-device-0-1-abcde",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"sasl\" : secret \"kafka-user\" not found",
    )];
    expect_wrong(&world.why(), sentence);
    world.job["spec"]["output"] = json!({"storage": {"s3": {"url": "s3://results", "secret": "keys"}}});
    world.events[0].message =
        Some("MountVolume.SetUp failed for volume \"output-keys\" : secret \"keys\" not found".to_owned());
    expect_wrong(
        &world.why(),
        "Secret demo/keys (spec.output.storage.s3.secret) is missing; make it: kubectl -n demo create secret generic keys \
         --from-literal=accessKeyId=ID --from-literal=secretAccessKey=KEY",
    );
}

#[test]
fn a_secret_that_the_operator_may_not_read() {
    let told = "the operator may not read Secret demo/kafka-ca: helm upgrade scadles … --reuse-values --set \
                'kafkaSecrets.namespaces={demo}'";
    expect_wrong(
        &World::waiting_for(told.to_owned()).why(),
        "the operator may not read Secret demo/kafka-ca, which it needs to make the topics; allow it: helm upgrade scadles … \
         --reuse-values --set 'kafkaSecrets.namespaces={demo}'",
    );
}

#[test]
fn a_claim_that_is_missing() {
    let mut world = World::starting();
    let image = waiting_container("device-1", "ErrImagePull", "not found");
    let claim = unplaced(
        "device-0",
        "0/1 nodes are available: persistentvolumeclaim \"results\" not found. not eligible.",
    );
    world.pods = Some(vec![image, claim]);
    expect_wrong(
        &world.why(),
        "PersistentVolumeClaim demo/results (spec.checkpoint.storage.persistentVolumeClaim) is missing; make it (ReadWriteOnce \
         is enough), or correct its name",
    );
}

#[test]
fn a_stream_that_is_silent() {
    let mut world = World::training();
    world.progress.devices[2].silent_seconds = 125.0;
    world.progress.devices[1].state = BufferState::Starved;
    expect_wrong(
        &world.why(),
        "no sample arrives on device-2 since 2026-01-31T11:57:55Z (2 min 07 s); see that something sends to \
         demo.fashion.device-2",
    );
    world.job["spec"]["producer"] = json!({"dataset": {"name": "FashionMnist"}, "rates": {"constant": 10}});
    let labels = json!({"scadles.io/component": "producer"});
    let metadata = json!({"name": "fashion-producer-abcde", "namespace": "demo", "labels": labels});
    world.pods = Some(vec![pod("x", json!({"metadata": metadata, "status": {"phase": "Failed"}}))]);
    expect_wrong(
        &world.why(),
        "no sample arrives on device-2 since 2026-01-31T11:57:55Z (2 min 07 s): its producer's pod is Failed; see its log: \
         kubectl -n demo logs fashion-producer-abcde",
    );
}

#[test]
fn streams_that_are_slow() {
    let mut world = World::training();
    world.job["spec"]["stream"]["batch"] = json!({"rule": "Fixed"});
    world.progress.devices[1].state = BufferState::Starved;
    world.progress.devices[3].state = BufferState::Starved;
    expect_wrong(
        &world.why(),
        "the group waits for the stream of device-1 (12/s) and device-3 (9.5/s), the fastest brings 200/s; send more there, or \
         set spec.stream.batch.rule: LineRate, with which no device waits for another's stream",
    );
}

#[test]
fn a_buffer_that_is_full() {
    let mut world = World::training();
    world.progress.devices[0].state = BufferState::Overflowing;
    world.progress.devices[0].ledger.buffered = 12_000;
    expect_wrong(
        &world.why(),
        "more arrives on device-0 than it trains (200/s, 12 000 samples wait) and its buffer is full; give it more CPU in \
         spec.devices.template.resources, raise spec.stream.batch.max, or drop the oldest with spec.stream.policy: Truncation",
    );
}

#[test]
fn a_worker_that_was_killed() {
    let mut world = World::restarting("device-1 (rank 1): killed by signal 9", Some(137));
    world.pods = Some(vec![ended_container("device-1", 137, "OOMKilled", BEGAN)]);
    let sentence = "device-1 was killed on node kind-worker (exit code 137: out of memory), and attempt 2 goes on from step 200 \
                    (restart 1 of 3); raise spec.devices.template.resources.limits.memory = 512Mi";
    expect_wrong(&world.why(), sentence);
    world.supervision.phase = JobPhase::Starting;
    // The status keeps the failure while the next attempt starts.
    let mut later = world.status();
    later.attempt = 2;
    expect_wrong(&world.why_of(Some(later)), sentence);
    world.supervision.phase = JobPhase::Restarting { not_before: began() };
    world.pods = Some(vec![]);
    expect_wrong(
        &world.why(),
        "device-1 was killed on node kind-worker (exit code 137: signal 9), and attempt 2 goes on from step 200 (restart 1 of \
         3); if nobody did it, ask the node: kubectl describe node kind-worker",
    );
}

#[test]
fn a_worker_that_ended_by_itself() {
    let world = World::restarting("device-1 (rank 1): the broker was away for 130 s", Some(4));
    expect_wrong(
        &world.why(),
        "attempt 1 ended: device-1 (rank 1): the broker was away for 130 s, and attempt 2 goes on from step 200 (restart 1 of \
         3)",
    );
}

#[test]
fn too_many_restarts() {
    let mut world = World::restarting("device-1 (rank 1): killed by signal 9", Some(137));
    world.supervision.phase = JobPhase::Done(Outcome {
        code: ExitCode::TooManyRestarts,
        message: "failed again after 3 restarts (spec.runPolicy.maxRestarts); last: device-1 (rank 1): killed by signal 9"
            .to_owned(),
        remedy: "look into that worker's log; raise spec.runPolicy.maxRestarts if this is expected".to_owned(),
    });
    world.pods = Some(vec![ended_container("device-1", 137, "Error", BEGAN)]);
    expect_wrong(
        &world.why(),
        "it has failed: failed again after 3 restarts (spec.runPolicy.maxRestarts); last: device-1 (rank 1): killed by signal \
         9; look into that worker's log; raise spec.runPolicy.maxRestarts if this is expected; its log: kubectl -n demo logs \
         fashion-device-1-1-abcde; then delete the job and apply it anew",
    );
}

#[test]
fn a_suspended_job() {
    let mut world = World::in_phase(JobPhase::Suspended);
    world.job["spec"]["suspend"] = true.into();
    world.supervision.checkpoint = Some(checkpoint());
    expect_fine(
        &world.why(),
        "nothing is wrong: it rests because spec.suspend is true, and checkpoint 0001-00000200 (step 200) is kept; go on with: \
         kubectl -n demo patch scadlesjob fashion --type merge -p '{\"spec\":{\"suspend\":false}}'",
    );
    world.job["spec"]["suspend"] = false.into();
    world.job["metadata"]["generation"] = 2.into();
    assert!(world.why().sentence.starts_with("it still rests although spec.suspend is no longer true"));
}

#[test]
fn a_deadline_that_passed() {
    let world = World::done(
        ExitCode::DeadlineExceeded,
        "not complete within 60 s (spec.runPolicy.activeDeadlineSeconds): step 214, 29104 samples",
        "go on with --resume, or raise spec.runPolicy.activeDeadlineSeconds",
    );
    expect_wrong(
        &world.why(),
        "it has failed: not complete within 60 s (spec.runPolicy.activeDeadlineSeconds): step 214, 29104 samples; raise \
         spec.runPolicy.activeDeadlineSeconds; then delete the job and apply it anew",
    );
}

#[test]
fn a_job_that_completed_while_the_operator_was_down() {
    let mut world = World::training();
    world.pods = Some(vec![ended_container("device-0", 0, "Completed", "2026-01-31T12:00:10Z")]);
    world.later = 20.0;
    assert!(world.why().fine, "the operator may notice any moment");
    world.later = 330.0;
    expect_wrong(
        &world.why(),
        "its workers completed it 5 min 20 s ago and no operator has noticed: it is down, and the model is safe on its claim; \
         see: kubectl get pods -A -l app.kubernetes.io/part-of=scadles",
    );
}

#[test]
fn a_job_that_no_operator_looks_at() {
    let mut world = World::training();
    world.later = 4.0;
    expect_fine(
        &world.why_of(None),
        "nothing is wrong yet: it was made 4.0 s ago and no operator has looked at it",
    );
    world.later = 130.0;
    expect_wrong(
        &world.why_of(None),
        "no operator has looked at it in the 2 min 10 s since it was made: none runs, or none watches namespace demo; install \
         one: helm install scadles charts/scadles --namespace scadles-system --create-namespace",
    );
    world.job["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue".into();
    expect_fine(
        &world.why_of(None),
        "nothing is done because spec.managedBy = kueue.x-k8s.io/multikueue: scadles leaves it to that controller",
    );
}

#[test]
fn a_status_that_stands_still() {
    let mut world = World::training();
    world.later = 720.0;
    expect_wrong(
        &world.why(),
        "its status has not been written since 2026-01-31T12:00:00Z (12 min 00 s): the operator is down, or the group takes no \
         steps; look at: kubectl get pods -A -l app.kubernetes.io/part-of=scadles",
    );
}

#[test]
fn a_job_that_is_being_deleted() {
    let mut world = World::training();
    world.job["metadata"]["deletionTimestamp"] = BEGAN.into();
    world.job["metadata"]["finalizers"] = json!(["scadles.io/topics"]);
    world.later = 20.0;
    expect_fine(&world.why(), "it is being deleted, for 20.0 s now");
    world.later = 120.0;
    expect_wrong(
        &world.why(),
        "it has been deleted 2 min 00 s ago and is still there, held by scadles.io/topics: its operator is down; start it \
         again, or let go of the job's topics with: kubectl -n demo patch scadlesjob fashion --type merge -p \
         '{\"metadata\":{\"finalizers\":null}}'",
    );
}

#[test]
fn jobs_on_their_way_are_fine() {
    expect_fine(
        &World::starting().why(),
        "nothing is wrong yet: attempt 1 starts, 2/4 workers ready, for 2.0 s now",
    );
    expect_fine(
        &World::waiting_for("its topics are being looked at".to_owned()).why(),
        "nothing is wrong yet: waiting for the broker: its topics are being looked at",
    );
}

#[test]
fn every_sentence_is_one_line_without_a_full_stop() {
    let worlds =
        [World::training(), World::starting(), World::restarting("device-1 (rank 1): bad.\nvery bad.", None)];
    for world in worlds {
        let sentence = world.why().sentence;
        assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
    }
}

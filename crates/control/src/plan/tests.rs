use scadles_api::{job::BackendChoice, worker::Backend};

use super::*;
use crate::{parse_job, validate};

pub(crate) const JOB: &str = "
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {name: s1}
spec:
  model: {name: Cnn}
  devices: {count: 4}
  producer: {dataset: {name: Cifar10}, rates: {list: [200, 152, 48, 144]}}
  evaluation: {}
  completion: {maxSamples: 60000}
";

fn validated(changes: &[(&str, &str)]) -> ValidatedJob {
    let text = changes.iter().fold(JOB.to_owned(), |text, (from, to)| text.replacen(from, to, 1));
    validate(&parse_job(&text).unwrap()).unwrap()
}

pub(crate) fn embedded(memory_bytes_of_machine: u64) -> Body {
    Body {
        broker: BrokerKind::Embedded {
            bootstrap_servers: "127.0.0.1:1234".to_owned(),
            bytes_per_partition: 5 << 20,
            memory_bytes_of_machine,
        },
        uid: "u".to_owned(),
        host: "127.0.0.1".to_owned(),
        output_dir: "runs/s1".into(),
        data_dir: "data".into(),
        checkpoint_root: None,
        buckets: Buckets::default(),
        token: "secret".to_owned(),
        threads: 1,
        cores: 2,
        secrets: SecretFiles::Missing,
        cluster: false,
    }
}

fn servers(list: &str) -> Body {
    Body { broker: BrokerKind::Servers(list.to_owned()), ..embedded(0) }
}

#[test]
fn every_device_gets_a_topic_and_a_worker_that_knows_the_whole_job() {
    let plan = plan(&validated(&[]), &servers("k:9092")).unwrap();
    let topics: Vec<&str> = plan.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(
        topics,
        ["default.s1.device-0", "default.s1.device-1", "default.s1.device-2", "default.s1.device-3"]
    );
    assert!(plan.topics.iter().all(|topic| topic.create && topic.partitions == 1));
    assert_eq!(plan.workers.len(), 4);
    for (index, worker) in plan.workers.iter().enumerate() {
        assert_eq!(worker.device().name, format!("device-{index}"));
        assert_eq!(worker.job, *plan.job().unwrap());
        assert_eq!(worker.job.kafka.bootstrap_servers, "k:9092");
    }
    assert_eq!(plan.producer.unwrap().budget_bytes_per_partition, None);
    assert_eq!(plan.embedded_broker_bytes, None);
}

#[test]
fn an_embedded_stream_is_spread_so_that_the_records_of_one_checkpoint_stay() {
    let plan = plan(&validated(&[]), &embedded(24 << 30)).unwrap();
    let job = plan.job().unwrap();
    let budget = plan.producer.as_ref().unwrap().budget_bytes_per_partition.unwrap();
    assert_eq!(budget, 4_718_592, "4.5 MiB of 5");
    let cost = StepCost::new(&job.model, 4, 2, None);
    let rates = [200.0, 152.0, 48.0, 144.0];
    let step = settle(job.stream.batch, job.stream.batch_bounds, &rates, cost);
    let seconds = 40.0 * step.step_seconds + PAUSE_SECONDS;
    for (device, rate) in job.devices.iter().zip(rates) {
        let needed = 1.5 * rate * 3073.0 * seconds;
        let room = f64::from(device.partitions) * budget as f64;
        assert!(room >= needed && room - needed < budget as f64, "{device:?}: {room} for {needed}");
    }
    let partitions: u64 = job.devices.iter().map(|device| u64::from(device.partitions)).sum();
    assert_eq!(plan.embedded_broker_bytes, Some(partitions * (5 << 20)));
}

#[test]
fn an_embedded_broker_beyond_half_of_the_memory_is_refused_with_the_way_out() {
    let mistakes = plan(&validated(&[("200", "200000")]), &embedded(1 << 30)).unwrap_err();
    assert!(mistakes.to_string().contains("--kafka HOST:PORT"), "{mistakes}");
}

#[test]
fn an_embedded_broker_without_producer_is_refused_and_a_real_one_is_not() {
    let job = validated(&[(
        "  producer: {dataset: {name: Cifar10}, rates: {list: [200, 152, 48, 144]}}\n  evaluation: {}\n",
        "",
    )]);
    let mistakes = plan(&job, &embedded(24 << 30)).unwrap_err();
    let only = mistakes.iter().next().unwrap();
    assert_eq!((mistakes.count(), only.path.as_str()), (1, "spec.producer"));
    assert!(only.remedy.contains("--kafka HOST:PORT"), "{only}");
    assert!(plan(&job, &servers("k:9092")).unwrap().producer.is_none());
}

#[test]
fn servers_that_are_not_host_and_port_are_refused() {
    for bad in ["localhost", "a:0", ":9092", "a:1,b", "a b:1", "[]:1"] {
        assert!(plan(&validated(&[]), &servers(bad)).is_err(), "{bad}");
    }
    for good in ["a:1", "a:1, b:65535", "[::1]:9092"] {
        assert!(plan(&validated(&[]), &servers(good)).is_ok(), "{good}");
    }
}

#[test]
fn external_topics_are_never_created_on_a_real_broker() {
    let job = validated(&[(
        "  evaluation",
        "  kafka: {bootstrapServers: 'k:1', topics: {management: External, partitions: 3}}\n  evaluation",
    )]);
    let plan = plan(&job, &servers("k:1")).unwrap();
    assert!(plan.topics.iter().all(|topic| !topic.create && topic.partitions == 3));
}

#[test]
fn an_arena_shared_by_partitions_must_still_hold_the_largest_batch() {
    let planned = |bytes: u64| {
        let kafka = format!(
            "  kafka: {{bootstrapServers: 'k:1', topics: {{partitions: 200}}}}\n  stream: {{bufferBytes: {bytes}}}\n"
        );
        plan(&validated(&[("  evaluation", &format!("{kafka}  evaluation"))]), &servers("k:1"))
    };
    // 1024 samples over 200 partitions: 6 records of 3,073 bytes in each.
    assert!(planned(6 * 3073 * 200).is_ok());
    let mistakes = planned(6 * 3073 * 200 - 1).unwrap_err();
    let only = mistakes.iter().next().unwrap();
    assert_eq!(only.path, "spec.stream.bufferBytes");
    assert!(only.remedy.contains("3687600"), "{only}");
}

#[test]
fn checkpoints_go_where_the_job_says_else_where_the_body_says_else_to_the_results() {
    let root =
        |job: &ValidatedJob, body: &Body| plan(job, body).unwrap().workers.remove(0).job.checkpoint.root;
    let body = Body { checkpoint_root: Some("of-body".into()), ..servers("k:1") };
    let own = validated(&[("  evaluation", "  checkpoint: {storage: {path: own}}\n  evaluation")]);
    assert_eq!(root(&own, &body), PathBuf::from("own"));
    assert_eq!(root(&validated(&[]), &body), PathBuf::from("of-body"));
    assert_eq!(root(&validated(&[]), &servers("k:1")), PathBuf::from("runs/s1/checkpoints"));
}

const SECURED: &str = "  kafka: {bootstrapServers: 'k:9092', tls: {caSecret: ca}, sasl: {mechanism: ScramSha512, secret: user}}\n";

fn secured(secrets: SecretFiles) -> Result<Plan, Mistakes> {
    let job = validated(&[("  devices:", &format!("{SECURED}  devices:"))]);
    plan(&job, &Body { secrets, ..servers("k:9092") })
}

#[test]
fn files_of_secrets_are_found_by_their_name_or_by_their_role() {
    let files = |secrets| {
        let security = secured(secrets).unwrap().job().unwrap().kafka.security.clone().unwrap();
        let sasl = security.sasl.unwrap();
        (security.ca_file.unwrap(), sasl.username_file, sasl.password_file)
    };
    let named = files(SecretFiles::ByName("s".into()));
    assert_eq!(named, ("s/ca/ca.crt".into(), "s/user/username".into(), "s/user/password".into()));
    let by_role = files(SecretFiles::ByRole("s".into()));
    assert_eq!(by_role, ("s/ca/ca.crt".into(), "s/sasl/username".into(), "s/sasl/password".into()));
}

#[test]
fn secrets_without_a_place_for_their_files_are_a_mistake() {
    let mistakes = secured(SecretFiles::Missing).unwrap_err();
    let only = mistakes.iter().next().unwrap();
    assert_eq!(only.path, "--secrets");
    assert!(only.problem.contains("ca, user"), "{only}");
}

#[test]
fn injection_that_shares_less_than_it_seems_is_noted() {
    let notes = |injection: &str, other: (&str, &str)| {
        let added = format!("  injection: {injection}\n  evaluation");
        plan(&validated(&[("  evaluation", &added), other]), &servers("k:9092")).unwrap().notes
    };
    let none = ("", "");
    let all = notes("{mode: Move, optIn: All}", none);
    let told = "Injection: raw samples of 4 of 4 devices leave them; in a step 2 of these share 50 % of their batches.";
    assert!(all.iter().any(|note| note == told), "{all:?}");
    assert_eq!(all.iter().filter(|note| note.contains("Injection")).count(), 1, "{all:?}");

    // 48 samples per second are twelve a window.
    let small = notes("{mode: Move, optIn: All, sharedFraction: 0.05}", none);
    assert!(
        small.iter().any(|note| note.contains("the batches of 1 of 4 devices are too small")),
        "{small:?}"
    );

    let named = "named: [{name: a, shareData: true}, {name: b}, {name: c}, {name: d}]";
    let few = notes("{mode: Move, donorFraction: 0.75}", ("count: 4", named));
    assert!(
        few.iter().any(|note| note.contains("asks for 3 donors in a step; 1 of 4 devices may share")),
        "{few:?}"
    );

    let alone = [("count: 4", "count: 1"), ("[200, 152, 48, 144]", "[200]")];
    let job = validated(&[
        alone[0],
        alone[1],
        ("  evaluation", "  injection: {mode: Move, optIn: All}\n  evaluation"),
    ]);
    let notes = plan(&job, &servers("k:9092")).unwrap().notes;
    assert!(notes.contains(&"Injection: one device has nobody to share with.".to_owned()), "{notes:?}");
}

#[test]
fn what_only_a_cluster_honours_is_said_to_be_ignored() {
    let job = validated(&[("  devices:", "  suspend: true\n  image: mine\n  devices:")]);
    let note = "Only of use in a cluster, ignored here: spec.image, spec.suspend.".to_owned();
    assert!(plan(&job, &servers("k:9092")).unwrap().notes.contains(&note));
    assert!(!plan(&job, &Body { cluster: true, ..servers("k:9092") }).unwrap().notes.contains(&note));
}

#[test]
fn all_workers_of_a_plan_have_the_backend_that_it_tells() {
    let plan_of = |choice, gpus_per_device, cluster| {
        let job = ValidatedJob { backend: choice, gpus_per_device, ..validated(&[]) };
        plan(&job, &Body { cluster, ..servers("k:9092") }).unwrap()
    };
    let on_gpus = plan_of(BackendChoice::Auto, 1, true);
    assert!(on_gpus.workers.iter().all(|worker| worker.backend == Backend::Nccl));
    assert_eq!(
        on_gpus.backend.to_string(),
        "Nccl: spec.devices.template asks for 1 nvidia.com/gpu per device"
    );
    let on_a_laptop = plan_of(BackendChoice::Auto, 1, false);
    assert!(on_a_laptop.workers.iter().all(|worker| worker.backend == Backend::Gloo));
}

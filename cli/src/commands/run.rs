//! `scadles run`: everything that happens before and after the local body's loop.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use scadles_api::{
    CheckpointRef, ExitCode, ScadlesJob, WorkerConfig,
    report::RunReport,
    worker::{Backend, DeviceConfig, JobConfig},
};
use scadles_control::{Body, Buckets, Plan, TopicPlan, ValidatedJob, decide::Supervision, plan};
use scadles_kafka::{
    DeviceStream, TopicSpec,
    dataset::{Dataset, DatasetError, DatasetSource, Split},
};

use crate::{
    args::{BackendName, RunArgs},
    body::{
        Clock, Ended, LocalBody, Parts,
        streams::{BrokerAccess, MissingTopics, Producer, StreamsPlan, Topic, Venue},
    },
    commands::{
        preset::{self, Place},
        report::PAGE,
    },
    failure::{Failure, Result},
    job::{self, LoadedJob},
    live::{Feed, Live, Subject},
    memory::Memory,
    own_model,
    report::{
        self, Ending,
        run::{REPORT, Run, STEPS},
    },
    resume::{self, Records},
    run_folder::{RunFolder, write_json},
    screen::{complain, say},
    signals::Signals,
    surroundings,
    tensorboard::EventFile,
    trace::{self, TRACE},
    view::{
        Display,
        page::{About, End},
    },
};

/// Runs a job to its end and writes its report.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let clock = Clock::start();
    let data_dir = surroundings::data_dir(args.surroundings.data.as_deref());
    let mut loaded = load(args, &data_dir)?;
    if args.preset.print_job {
        say(loaded.text.trim_end());
        return Ok(ExitCode::Completed);
    }
    own_model::look_at(&mut loaded)?;
    let trainer = surroundings::trainer()?;
    surroundings::raise_file_limit(loaded.validated.devices.len())?;
    let source = load_source(&loaded.validated, &data_dir)?;
    check_held_out_data(&loaded.validated, &data_dir)?;
    let signals = Signals::catch()?;
    let page = args.ui.map(|address| address.unwrap_or_default().listen()).transpose()?;
    let (folder, earlier) = open_folder(args, &loaded.validated.name)?;
    let venue =
        Venue::open(loaded.validated.bootstrap_servers.as_deref()).map_err(|error| Failure::kafka(&error))?;
    let uid = match &earlier {
        Some(earlier) => earlier.job_uid.clone(),
        None => format!("{}-{}", loaded.validated.name, surroundings::random_text(4)?),
    };
    let plan = plan_run(args, &loaded, &folder, &venue, uid.clone())?;
    let config = plan.job().cloned().ok_or_else(|| Failure::internal("a plan without workers"))?;
    let feed = if page.is_some() || args.tensorboard.is_some() { Feed::open() } else { Feed::default() };
    let display = Display::new(args.plain, clock.began(), feed.clone());
    display.event(&format!("run folder {}", folder.path().display()));
    for note in loaded.notes.iter().chain(&plan.notes) {
        display.event(note);
    }
    let backend = backend(args, &plan, &display);
    let memory = match earlier {
        None => Memory::new(uid, venue.name(), Supervision::new(clock.now(), None)),
        Some(earlier) => take_up(earlier, &folder, &config, &venue, &clock, &display)?,
    };
    write_inputs(&folder, &loaded, &plan, &config, backend)?;
    if args.trace {
        trace::begin(&folder)?;
    }
    feed.evaluated(&memory.accuracy);
    let subject = subject(args, page, &folder, &config, &memory.broker)?;
    announce(&subject, &display);
    let live = Live::begin(subject, feed)?;
    let topics = plan.topics.iter().map(topic).collect();
    let access = BrokerAccess::open(&venue, &config.kafka, topics, MissingTopics::Refuse, clock.now())
        .map_err(|error| Failure::kafka(&error))?;
    let token = plan.workers.first().map(|worker| worker.token.clone()).unwrap_or_default();
    let ended = LocalBody::new(Parts {
        folder,
        trainer,
        trace: args.trace,
        job: loaded.job.clone(),
        backend,
        config: config.clone(),
        token,
        memory,
        access,
        producer: Producer::new(source.and_then(|source| plan_streams(&plan, source))),
        clock,
        display,
        signals,
    })
    .run();
    if args.trace
        && let Err(failure) = trace::gather(&ended.folder)
    {
        complain(&failure);
    }
    let code = finish(&loaded.job, &config, &ended);
    live.end(how_it_ended(&ended));
    code
}

/// What carries the workers' sums: what the plan says, or the one way to start workers that no job asks for.
fn backend(args: &RunArgs, plan: &Plan, display: &Display) -> Backend {
    let backend = if args.backend == Some(BackendName::Mpi) { Backend::Mpi } else { plan.backend.backend };
    if backend == Backend::Nccl {
        display.event("the workers compute on GPUs and exchange over NCCL");
    }
    backend
}

/// The job that is named: a file, or a preset that this machine has the memory for; with the command line's backend, if it
/// names one.
fn load(args: &RunArgs, data_dir: &Path) -> Result<LoadedJob> {
    let kafka = args.surroundings.kafka.as_deref();
    let mut loaded = match (&args.job, &args.preset.preset) {
        (Some(path), _) => job::load(path, kafka),
        (None, Some(name)) => preset::load(name, &args.preset.size(), data_dir, Place::Processes { kafka }),
        (None, None) => Err(Failure::internal("neither a job nor a preset")),
    }?;
    if let Some(choice) = args.backend.and_then(BackendName::choice) {
        loaded.choose_backend(choice)?;
    }
    Ok(loaded)
}

/// What those who look at the run from elsewhere are shown, and where.
fn subject(
    args: &RunArgs,
    page: Option<TcpListener>,
    folder: &RunFolder,
    config: &JobConfig,
    broker: &str,
) -> Result<Subject> {
    let (steps, devices) = (folder.path().join(STEPS), names(config));
    let begin = |asked: &Path| EventFile::begin(asked, &report::run::name(folder.path()), &steps, &devices);
    Ok(Subject {
        about: About {
            program: format!("scadles {}", env!("CARGO_PKG_VERSION")),
            folder: folder.path().display().to_string(),
            model: format!("{:?}", config.model.name),
            broker: report::html::broker(broker),
        },
        tensorboard: args.tensorboard.as_deref().map(begin).transpose()?,
        steps,
        devices,
        page,
    })
}

/// Says where to look.
fn announce(subject: &Subject, display: &Display) {
    if let Some(address) = subject.page.as_ref().and_then(|listener| listener.local_addr().ok()) {
        display.event(&format!("live page http://{address}/"));
        if !address.ip().is_loopback() {
            display
                .event(&format!("whoever reaches {address} can look at this run: the page has no password"));
        }
    }
    if let Some(file) = &subject.tensorboard {
        display.event(&format!("for TensorBoard: {}", file.path().display()));
    }
}

fn how_it_ended(ended: &Ended) -> End {
    let page = ended.folder.path().join(PAGE);
    End {
        outcome: format!("{:?}", ended.outcome.code),
        well: report::ends_well(ended.outcome.code),
        message: ended.outcome.message.clone(),
        remedy: ended.outcome.remedy.clone(),
        report: page.is_file().then(|| page.display().to_string()),
    }
}

fn open_folder(args: &RunArgs, name: &str) -> Result<(RunFolder, Option<Memory>)> {
    let Some(asked) = &args.resume else {
        let folder = RunFolder::create(name, args.out.as_deref(), SystemTime::now())?.with_workers()?;
        return Ok((folder, None));
    };
    let path = match asked {
        Some(path) => path.clone(),
        None => RunFolder::latest(name)?,
    };
    let folder = RunFolder::resume(&path)?;
    let memory = Memory::load(folder.path())?;
    Ok((folder, Some(memory)))
}

fn plan_run(
    args: &RunArgs,
    loaded: &LoadedJob,
    folder: &RunFolder,
    venue: &Venue,
    uid: String,
) -> Result<Plan> {
    let body = Body {
        broker: surroundings::broker_kind(Some(venue)),
        uid,
        host: "127.0.0.1".to_owned(),
        output_dir: folder.path().to_owned(),
        data_dir: surroundings::data_dir(args.surroundings.data.as_deref()),
        checkpoint_root: None,
        buckets: Buckets::default(),
        token: surroundings::random_text(16)?,
        threads: args.threads,
        cores: surroundings::cores(),
        secrets: surroundings::secret_files(
            args.surroundings.secrets.as_deref(),
            &loaded.validated.kafka_secrets,
        ),
        cluster: false,
    };
    plan(&loaded.validated, &body).map_err(|mistakes| {
        Failure::configuration(format!("{}: {mistakes}", loaded.origin.display()).trim_end(), "")
    })
}

/// A topic of the plan as the broker wants to hear of it.
pub fn topic(plan: &TopicPlan) -> Topic {
    Topic {
        spec: TopicSpec {
            name: plan.name.clone(),
            partitions: plan.partitions,
            replication: Some(plan.replication),
        },
        create: plan.create,
    }
}

/// Reads the data set of the simulated streams, if the job has them.
pub fn load_source(job: &ValidatedJob, data_dir: &Path) -> Result<Option<DatasetSource>> {
    let Some(producer) = &job.producer else { return Ok(None) };
    let failed = |error: DatasetError| Failure::kafka(&error.into());
    let dataset = Dataset::load(&producer.dataset, Split::Train, data_dir, &job.samples()).map_err(failed)?;
    DatasetSource::new(Arc::new(dataset), producer.partition, producer.seed, job.devices.len())
        .map(Some)
        .map_err(failed)
}

/// The simulated streams: one per device, the records from `source`.
pub fn plan_streams(plan: &Plan, source: DatasetSource) -> Option<StreamsPlan> {
    let producer = plan.producer.as_ref()?;
    let stream = |(device, rate): (&DeviceConfig, &f64)| DeviceStream {
        topic: device.topic.clone(),
        partitions: device.partitions,
        samples_per_second: *rate,
        max_records: None,
    };
    Some(StreamsPlan {
        streams: producer.devices.iter().zip(&producer.config.rates).map(stream).collect(),
        source,
    })
}

/// Finds a missing evaluation set now, and not after the first hundred steps.
pub fn check_held_out_data(job: &ValidatedJob, data_dir: &Path) -> Result<()> {
    let Some(evaluation) = &job.evaluation else { return Ok(()) };
    Dataset::load(&evaluation.dataset, Split::Test, data_dir, &job.samples())
        .map(drop)
        .map_err(|error| Failure::kafka(&error.into()))
}

/// Job, resolved job, one configuration per worker: readable by this user alone, since they carry the token.
fn write_inputs(
    folder: &RunFolder,
    loaded: &LoadedJob,
    plan: &Plan,
    config: &JobConfig,
    backend: Backend,
) -> Result<()> {
    folder.write_text("job.yaml", &loaded.text)?;
    folder.write_json("job.json", config)?;
    plan.workers.iter().try_for_each(|worker: &WorkerConfig| {
        let worker = WorkerConfig { backend, ..worker.clone() };
        write_json(&folder.worker_config(&worker.device().name), &worker, 0o600)
    })
}

/// Takes up an earlier run: its last durable checkpoint, its numbers, its broker.
fn take_up(
    earlier: Memory,
    folder: &RunFolder,
    config: &JobConfig,
    venue: &Venue,
    clock: &Clock,
    display: &Display,
) -> Result<Memory> {
    same_job(folder, config, &earlier)?;
    let records = resume::records(&earlier.broker, &venue.name())?;
    let complete = complete_checkpoints(config);
    let checkpoint = resume::checkpoint(&earlier.supervision, &config.uid, &complete).map(|checkpoint| {
        let restart_streams = checkpoint.restart_streams || records != Records::Kept;
        CheckpointRef { restart_streams, ..checkpoint }
    });
    display.event(&match &checkpoint {
        Some(checkpoint) => {
            format!("going on from checkpoint {}, after step {}", checkpoint.name, checkpoint.step)
        }
        None => "the run has no checkpoint yet: it starts from nothing".to_owned(),
    });
    match records {
        Records::Kept => {}
        Records::Gone => display.event(
            "the records of the earlier run died with its embedded broker: the model goes on, the streams start anew \
             (a real Kafka keeps them: --kafka HOST:PORT)",
        ),
        Records::LeftBehind => display.event(&format!(
            "the records of the earlier run stay on its Kafka: the model goes on, the streams start anew (to go on with \
             those records: --kafka {})",
            earlier.broker
        )),
    }
    let supervision = Supervision::resume(earlier.supervision.clone(), clock.now(), checkpoint);
    Ok(Memory { broker: venue.name(), supervision, ..earlier })
}

/// A run goes on with the model and the devices that it began with, and only if something is left to do.
fn same_job(folder: &RunFolder, config: &JobConfig, earlier: &Memory) -> Result<()> {
    let path = folder.path().join("job.json");
    let begun: Option<JobConfig> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(begun) = begun else { return Ok(()) };
    let complete = earlier.supervision.outcome().is_some_and(|outcome| outcome.code == ExitCode::Completed);
    if complete && begun.completion == config.completion {
        return Err(Failure::configuration(
            format!("--resume {}: this run is complete", folder.path().display()),
            "raise spec.completion in the job file to train further, or start without --resume",
        ));
    }
    let changed = if begun.name != config.name {
        Some(("metadata.name", begun.name.clone()))
    } else if begun.model.without_file() != config.model.without_file() {
        Some(("spec.model", format!("{:?}", begun.model.name)))
    } else if names(&begun) != names(config) {
        Some(("spec.devices", names(&begun).join(", ")))
    } else {
        None
    };
    match changed {
        None => Ok(()),
        Some((field, was)) => Err(Failure::configuration(
            format!(
                "{field}: the run in {} began with `{was}`, the job file says otherwise",
                folder.path().display()
            ),
            "give the job file of that run (its copy is job.yaml in the run folder), or start without --resume",
        )),
    }
}

/// The checkpoints of the run whose manifests are written.
fn complete_checkpoints(config: &JobConfig) -> Vec<String> {
    fs::read_dir(config.checkpoint.root.join(&config.uid))
        .into_iter()
        .flatten()
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.path().join("manifest.json").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Writes the report and prints its summary, however the run ended.
fn finish(job: &ScadlesJob, config: &JobConfig, ended: &Ended) -> Result<ExitCode> {
    let folder = &ended.folder;
    let written = write_report(
        folder,
        &Ending {
            job,
            outcome: &ended.outcome,
            memory: &ended.memory,
            progress: ended.progress.as_ref(),
            devices: names(config),
            rates_asked: config.producer.as_ref().map(|producer| producer.rates.clone()).unwrap_or_default(),
            rates_measured: ended.rates.clone(),
            parameter_hashes: ended.parameter_hashes.clone(),
            versions: versions(folder.path()),
        },
    );
    let code = ended.outcome.code;
    if code != ExitCode::Completed {
        complain(&Failure {
            code,
            message: ended.outcome.message.clone(),
            remedy: ended.outcome.remedy.clone(),
        });
        say(format!("go on with it: scadles run JOB --resume {}", folder.path().display()));
    }
    match written {
        Err(failure) if code == ExitCode::Completed => Err(failure),
        Err(failure) => {
            complain(&failure);
            Ok(code)
        }
        Ok(()) => Ok(code),
    }
}

/// Writes report and page to the folder of a run.
pub fn store_report(folder: &RunFolder, ending: &Ending<'_>) -> (RunReport, Result<()>) {
    let mut run = Run::of(folder.path(), report::build(ending));
    run.report = report::with_weights(run.report, &run.curves.mean_weights);
    let page = report::html::page(&run);
    let written = folder.write_json(REPORT, &run.report).and_then(|()| folder.write_text(PAGE, &page));
    (run.report, written)
}

/// The same, and says what came of it and where it lies.
pub fn write_report(folder: &RunFolder, ending: &Ending<'_>) -> Result<()> {
    let (report, written) = store_report(folder, ending);
    say(format!("\n{}", report::summary(&report)));
    let there: Vec<&str> =
        [REPORT, PAGE, "steps.csv", TRACE, "model.safetensors", "checkpoints", "journal", "logs"]
            .into_iter()
            .filter(|name| folder.path().join(name).exists())
            .collect();
    say(format!("{}: {}", folder.path().display(), there.join(", ")));
    written
}

/// Names of the devices in the order of ranks.
pub fn names(config: &JobConfig) -> Vec<String> {
    config.devices.iter().map(|device| device.name.clone()).collect()
}

/// What took part. The worker notes libtorch's version in its journal: this program does not link it.
pub fn versions(folder: &Path) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::from([("scadles".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    let header = newest_journal_header(folder);
    let noted = |name: &str| header.as_ref()?.get(name)?.as_str().map(str::to_owned);
    versions.extend(noted("torch").map(|torch| ("torch".to_owned(), torch)));
    versions.extend(noted("cpu").or_else(cpu_model).map(|cpu| ("cpu".to_owned(), cpu)));
    versions
}

fn newest_journal_header(folder: &Path) -> Option<serde_json::Value> {
    let segments = fs::read_dir(folder.join("journal")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut line = String::new();
    BufReader::new(fs::File::open(segments.max()?).ok()?).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches(['\t', ' ', ':']).to_owned())
}

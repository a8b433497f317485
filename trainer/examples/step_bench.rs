//! Time and memory of one training step of ResNet-18 on two ranks: the worker's path (decoding, forward and backward on flat
//! buffers, exchange over Gloo, optimizer) against PyTorch's DistributedDataParallel on Gloo, each rank a process with one
//! compute thread, block by block in turn. Both begin with the same parameters and must show the same losses.
//!
//! `step_bench prepare FOLDER` and `step_bench rank SETTINGS` serve `scripts/bench/links.py`, which lets the same ranks meet over
//! limited links.
//!
//! Usage: `cargo run --release -p scadles-trainer --example step_bench -- PYTHON SCRIPT [PAIRS [MICRO_BATCH
//! [CONFIGURATION]]]`, where SCRIPT is `scripts/bench/ddp.py`, PYTHON has torch, MICRO_BATCH is ours
//! (`spec.training.microBatch`), and CONFIGURATION is one that the script knows.
//!
//! Or `... --example step_bench -- overlap [PAIRS [MICRO_BATCH]]`: ours with the exchange during backward against ours with
//! the exchange after it, which must show the same losses to the last bit.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: it prints, and a failure ends it"
)]

mod support;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use scadles_api::job::ModelName;
use scadles_api::worker::{CompressionConfig, ModelConfig, RecordFormat, SampleShape, Transform};
use scadles_core::compress::gate::{CompressionDecision, EnergyOf};
use scadles_core::random::RandomStream;
use scadles_trainer::batch::{Batch, BatchAssembler, SampleRef};
use scadles_trainer::engine::GlooEngine;
use scadles_trainer::exchange::{GradientExchange, rule};
use scadles_trainer::learner::{Learner, set_up_torch};
use scadles_trainer::optimizer::{Sgd, SgdState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::{Cpu, check, choice::Choice, interval, quantile, ranks::serve, spread};
use torch_ext::TcpStore;

const WORLD_SIZE: usize = 2;
const BATCH: usize = 16;
/// Batches of a rank that come round.
const BATCHES: usize = 8;
/// Steps of one side between two turns.
const BLOCK: usize = 3;
/// Starts of each side.
const STARTS: usize = 5;
/// Steps whose losses are compared.
const COMPARED: usize = 5;
/// Largest relative difference between the sides' losses: rounding, and nothing else.
const MOST_OFF: f64 = 2e-3;
const SEED: u64 = 7;
const PATIENCE: Duration = Duration::from_mins(2);
const SGD: Sgd = Sgd { momentum: 0.9, weight_decay: 5e-4 };
const LEARNING_RATE: f64 = 0.01;
/// The quickest of those that were tried on two cores, see docs/benchmarks.md.
const CONFIGURATION: &str = "view,static,fused,malloc";
/// In a configuration with `malloc` the C library keeps what a step frees, as it does for our workers.
const ALLOCATOR: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "1000000000"), ("MALLOC_TRIM_THRESHOLD_", "1000000000")];
/// Upper end of the interval of our time over theirs.
const MOST_TIME: f64 = 1.05;
/// Our peak of memory over theirs.
const MOST_MEMORY: f64 = 0.6;

/// What a rank of either side is told.
#[derive(Clone, Serialize, Deserialize)]
struct Settings {
    rank: usize,
    world_size: usize,
    /// Address of each rank; the store is at the first.
    hosts: Vec<String>,
    port: u16,
    /// `Auto` down to this ratio; `None`: dense.
    least_ratio: Option<f64>,
    batch: usize,
    /// Samples that our side takes at a time.
    micro_batch: usize,
    /// File of this rank's batches, as PyTorch's side reads them.
    batches: PathBuf,
    parameters: u64,
    learning_rate: f64,
    momentum: f64,
    weight_decay: f64,
    configuration: String,
    /// Whether our side exchanges gradients while backward computes.
    overlaps: bool,
}

/// What a rank answers to an order to take steps; seconds of all of them.
#[derive(Default, Serialize, Deserialize)]
struct Steps {
    seconds: f64,
    cpu: f64,
    compute: f64,
    exchange: f64,
    update: f64,
    /// Mean loss of this rank's batch, step by step.
    losses: Vec<f64>,
    /// Dense steps, those in half precision, sparse ones.
    #[serde(default)]
    decisions: [u64; 3],
}

impl Steps {
    fn count(&mut self, decision: CompressionDecision) {
        self.decisions[match decision {
            CompressionDecision::Dense => 0,
            CompressionDecision::Half => 1,
            CompressionDecision::Sparse(_) => 2,
        }] += 1;
    }
}

fn model() -> ModelConfig {
    ModelConfig::built_in(ModelName::ResNet18, [3, 32, 32], 10)
}

/// Records of noise: a label byte and a picture each.
fn records(rank: usize, batch: usize) -> Vec<Vec<u8>> {
    let record = |sample: usize| {
        let stream = RandomStream::new(SEED, (rank * BATCHES + batch) as u64).substream(sample as u64);
        let mut record = vec![(stream.word(0) % 10) as u8];
        record.extend((1..=384).flat_map(|index| stream.word(index).to_le_bytes()));
        record
    };
    (0..BATCH).map(record).collect()
}

fn assembler() -> (BatchAssembler<f32>, Transform) {
    let transform = Transform {
        mean: vec![0.4914, 0.4822, 0.4465],
        std: vec![0.247, 0.2435, 0.2616],
        random_crop_padding: 0,
        horizontal_flip: false,
    };
    (
        BatchAssembler::new(&SampleShape::new(RecordFormat::CifarBinary, &model()), &transform, BATCH)
            .unwrap(),
        transform,
    )
}

fn assemble<'a>(
    assembler: &'a mut BatchAssembler<f32>,
    transform: &Transform,
    records: &[Vec<u8>],
) -> &'a Batch {
    assembler.assemble(records.iter().map(|record| SampleRef::plain(record, transform))).unwrap()
}

// ---- one rank of ours --------------------------------------------------------------------------------------------

struct Rank {
    learner: Learner<f32>,
    momentum: SgdState<f32>,
    exchange: GradientExchange,
    choice: Option<Choice>,
    communicator: GlooEngine,
    assembler: BatchAssembler<f32>,
    transform: Transform,
    records: Vec<Vec<Vec<u8>>>,
    micro_batch: usize,
    next: usize,
}

impl Rank {
    fn form(settings: &Settings) -> Self {
        set_up_torch(1).unwrap();
        let (hub, own) = (&settings.hosts[0], &settings.hosts[settings.rank]);
        let store = match settings.rank {
            0 => TcpStore::serve(hub, settings.port, WORLD_SIZE, PATIENCE).unwrap(),
            _ => TcpStore::connect(hub, settings.port, WORLD_SIZE, PATIENCE).unwrap(),
        };
        let communicator = GlooEngine::connect(&store, settings.rank, WORLD_SIZE, own, PATIENCE).unwrap();
        let learner = Learner::<f32>::new(&model(), SEED).unwrap();
        let compression = settings.least_ratio.map(|ratio| CompressionConfig {
            ratio,
            is_free: true,
            delta: None,
            energy_of: EnergyOf::Compensated,
        });
        let choice = compression.as_ref().map(|config| Choice::new(rule(learner.flat(), WORLD_SIZE, config)));
        let exchange = GradientExchange::new(learner.flat(), WORLD_SIZE, compression);
        let exchange = if settings.overlaps { exchange } else { exchange.after_compute() };
        let (assembler, transform) = assembler();
        let records = (0..BATCHES).map(|batch| records(settings.rank, batch)).collect();
        let momentum = SgdState::new(learner.flat().len());
        let micro_batch = settings.micro_batch;
        Self {
            learner,
            momentum,
            exchange,
            choice,
            communicator,
            assembler,
            transform,
            records,
            micro_batch,
            next: 0,
        }
    }

    /// Adds a step to `steps`; without an exchange each rank is by itself.
    fn step(&mut self, steps: &mut Steps, exchanges: bool) {
        let began = Instant::now();
        let records = &self.records[self.next % BATCHES];
        self.next += 1;
        let batch = assemble(&mut self.assembler, &self.transform, records);
        let scale = 1.0 / (BATCH * WORLD_SIZE) as f64;
        let micro_batch = self.micro_batch;
        let compute = |learner: &mut Learner<f32>| {
            learner.last_is_next();
            let statistics = learner.contribute(batch, scale, micro_batch)?;
            Ok::<_, Box<dyn Error>>((statistics, began.elapsed().as_secs_f64()))
        };
        let (communicator, learner) = (&mut self.communicator, &mut self.learner);
        let (statistics, computed) = if exchanges {
            let decision = match &mut self.choice {
                None => CompressionDecision::Dense,
                Some(choice) => choice.agree(communicator, &self.exchange.report().unwrap()),
            };
            steps.count(decision);
            let decision = (decision, LEARNING_RATE);
            self.exchange.compute_and_combine(communicator, learner, decision, compute).unwrap().0
        } else {
            compute(learner).unwrap()
        };
        if let Some(choice) = &mut self.choice {
            choice.compute_seconds = computed;
        }
        let exchanged = began.elapsed().as_secs_f64();
        let (parameters, gradients) = self.learner.parameters_and_gradients_mut().unwrap();
        SGD.step(LEARNING_RATE, parameters, gradients, &mut self.momentum).unwrap();
        steps.compute += computed;
        steps.exchange += exchanged - computed;
        steps.update += began.elapsed().as_secs_f64() - exchanged;
        steps.losses.push(statistics.loss_sum / statistics.samples as f64);
    }

    fn steps(&mut self, count: usize, exchanges: bool) -> Steps {
        let (cpu, began) = (Cpu::now().process, Instant::now());
        let mut steps = Steps::default();
        (0..count).for_each(|_| self.step(&mut steps, exchanges));
        Steps { seconds: began.elapsed().as_secs_f64(), cpu: Cpu::now().process - cpu, ..steps }
    }

    /// Start values from a file, no momentum, the first batch.
    fn load(&mut self, path: &Path) {
        self.learner.load(path).unwrap();
        self.momentum.momentum.fill(0.0);
        self.next = 0;
    }

    fn answer(&mut self, order: &Value) -> Value {
        if let Some(path) = order["load"].as_str() {
            self.load(Path::new(path));
            return json!({});
        }
        for (name, exchanges) in [("steps", true), ("steps_alone", false)] {
            if let Some(count) = order[name].as_u64() {
                return serde_json::to_value(self.steps(count as usize, exchanges)).unwrap();
            }
        }
        json!({ "peak_mebibytes": peak_mebibytes() })
    }
}

fn peak_mebibytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn run_rank(settings: &Settings) {
    let mut rank = Rank::form(settings);
    rank.steps(1, true);
    serve(&json!({ "version": torch_ext::torch_version() }), |order| rank.answer(order));
}

// ---- both sides, driven ------------------------------------------------------------------------------------------

/// A rank's process; ended with this value.
struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn answer<T: serde::de::DeserializeOwned>(&mut self) -> T {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "a rank has ended");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        // Whoever does not end by himself now hangs in a collective.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the ranks of one side are started: program, leading arguments, settings.
struct Side {
    command: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    settings: Vec<Settings>,
}

impl Side {
    fn start(&self, port: u16) -> Vec<Process> {
        let start = |settings: &Settings| {
            let settings = Settings { port, ..settings.clone() };
            let mut child = Command::new(&self.command[0])
                .args(&self.command[1..])
                .arg(serde_json::to_string(&settings).unwrap())
                .env("OMP_NUM_THREADS", "1")
                .envs(self.environment.clone())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let answers = BufReader::new(child.stdout.take().unwrap());
            Process { orders: child.stdin.take(), child, answers }
        };
        self.settings.iter().map(start).collect()
    }

    /// Ranks that have taken their first step, how long that took from the start, and their version of torch.
    fn start_timed(&self) -> (Vec<Process>, f64, String) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let began = Instant::now();
        let mut ranks = self.start(port);
        let versions: Vec<Value> = ranks.iter_mut().map(Process::answer).collect();
        (ranks, began.elapsed().as_secs_f64(), versions[0]["version"].as_str().unwrap().to_owned())
    }
}

/// Gives all ranks one order and waits for their answers.
fn ask<T: serde::de::DeserializeOwned>(ranks: &mut [Process], order: &Value) -> Vec<T> {
    for rank in ranks.iter_mut() {
        writeln!(rank.orders.as_mut().unwrap(), "{order}").unwrap();
    }
    ranks.iter_mut().map(Process::answer).collect()
}

/// Writes the batches of a rank as PyTorch's side reads them: pictures, then labels.
fn write_batches(folder: &Path, rank: usize) -> PathBuf {
    let (mut assembler, transform) = assembler();
    let mut bytes = Vec::new();
    for batch in 0..BATCHES {
        let batch = assemble(&mut assembler, &transform, &records(rank, batch));
        let pictures = Vec::<f32>::try_from(batch.pictures.flatten(0, -1)).unwrap();
        bytes.extend(pictures.iter().flat_map(|value| value.to_le_bytes()));
        let labels = Vec::<i64>::try_from(&batch.labels).unwrap();
        bytes.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
    }
    let path = folder.join(format!("batches-{rank}"));
    std::fs::write(&path, bytes).unwrap();
    path
}

fn sides(
    folder: &Path,
    start_values: &Path,
    python: &[String],
    (micro_batch, configuration): (usize, &str),
) -> [Side; 2] {
    let learner = Learner::<f32>::new(&model(), SEED).unwrap();
    learner.save(start_values).unwrap();
    let settings = |rank| Settings {
        rank,
        world_size: WORLD_SIZE,
        hosts: vec!["127.0.0.1".to_owned(); WORLD_SIZE],
        port: 0,
        least_ratio: None,
        batch: BATCH,
        micro_batch,
        batches: write_batches(folder, rank),
        parameters: learner.parameter_count(),
        learning_rate: LEARNING_RATE,
        momentum: SGD.momentum,
        weight_decay: SGD.weight_decay,
        configuration: configuration.to_owned(),
        overlaps: true,
    };
    let settings: Vec<Settings> = (0..WORLD_SIZE).map(settings).collect();
    let own = std::env::current_exe().unwrap().display().to_string();
    let environment = if configuration.contains("malloc") { ALLOCATOR.to_vec() } else { vec![] };
    [
        Side { command: vec![own, "rank".to_owned()], environment: vec![], settings: settings.clone() },
        Side { command: python.to_vec(), environment, settings },
    ]
}

/// Writes each rank's batches and settings, for those who start the ranks themselves.
fn prepare(folder: &Path) {
    set_up_torch(1).unwrap();
    let python = ["python3".to_owned()];
    let [ours, _] = sides(folder, &folder.join("start.safetensors"), &python, (BATCH, "plain"));
    println!("{}", serde_json::to_string(&ours.settings).unwrap());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "rank" => return run_rank(&serde_json::from_str(&args[1]).unwrap()),
        "prepare" => return prepare(Path::new(&args[1])),
        _ => {}
    }
    if args[0] == "overlap" {
        std::process::exit(i32::from(!compare_overlap(&args[1..])));
    }
    let pairs: usize = args.get(2).map_or(24, |text| text.parse().unwrap());
    let micro_batch = args.get(3).map_or(BATCH, |text| text.parse().unwrap());
    let configuration = args.get(4).map_or(CONFIGURATION, String::as_str);
    set_up_torch(1).unwrap();
    let folder = scratch();
    let start_values = folder.join("start.safetensors");
    let sides = sides(&folder, &start_values, &args[..2], (micro_batch, configuration));
    println!("       microBatch of ours: {micro_batch}; PyTorch's configuration: {configuration}");
    let mut ranks = cold_starts(&sides, &start_values);
    let quick = measure_steps(&mut ranks, pairs, ["ours", "PyTorch"]);
    let small = compare_memory(&mut ranks);
    std::fs::remove_dir_all(&folder).unwrap();
    std::process::exit(i32::from(!(quick && small)));
}

fn scratch() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("scadles-step-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Our side against itself, with and without an exchange during backward.
fn compare_overlap(args: &[String]) -> bool {
    let pairs = args.first().map_or(24, |text| text.parse().unwrap());
    let micro_batch = args.get(1).map_or(BATCH, |text| text.parse().unwrap());
    set_up_torch(1).unwrap();
    let folder = scratch();
    let start_values = folder.join("start.safetensors");
    let sides = sides(&folder, &start_values, &[], (micro_batch, ""));
    let start = |overlaps| {
        let settings = sides[0].settings.iter().map(|settings| Settings { overlaps, ..settings.clone() });
        let side =
            Side { settings: settings.collect(), command: sides[0].command.clone(), environment: vec![] };
        side.start_timed().0
    };
    let mut ranks = [start(true), start(false)];
    let [during, after] = ranks.each_mut().map(|ranks| first_losses(ranks, &start_values));
    assert_eq!(during, after, "the bits are the same");
    println!(
        "       microBatch: {micro_batch}; losses of the first {COMPARED} steps on both ranks: the same bits"
    );
    let quick = measure_steps(&mut ranks, pairs, ["during backward", "after it"]);
    let [during, after] = peaks(&mut ranks);
    println!("       peak of resident memory: {during:.0} against {after:.0} MiB");
    std::fs::remove_dir_all(&folder).unwrap();
    quick
}

/// Starts both sides in turn, several times; the last ranks stay. The first ones show that both compute the same.
fn cold_starts(sides: &[Side; 2], start_values: &Path) -> [Vec<Process>; 2] {
    let (mut seconds, mut losses) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    let mut ranks = [const { Vec::new() }; 2];
    for start in 0..STARTS {
        for (index, side) in sides.iter().enumerate() {
            ranks[index].clear();
            let (started, took, version) = side.start_timed();
            ranks[index] = started;
            seconds[index].push(took);
            if start == 0 {
                println!("       {}: torch {version}", side.command[0]);
                losses[index] = first_losses(&mut ranks[index], start_values);
            }
        }
    }
    assert_equal(&losses);
    let [ours, theirs] = &mut seconds;
    println!(
        "       start to the end of the first step: ours {} s, PyTorch {} s",
        spread(ours),
        spread(theirs)
    );
    ranks
}

/// Mean losses of all ranks in some steps from the given start values.
fn first_losses(ranks: &mut [Process], start_values: &Path) -> Vec<f64> {
    let _: Vec<Value> = ask(ranks, &json!({ "load": start_values }));
    let steps: Vec<Steps> = ask(ranks, &json!({ "steps": COMPARED }));
    steps.into_iter().flat_map(|steps| steps.losses).collect()
}

/// The same start values and batches must give the same losses, or the sides do not compute the same.
fn assert_equal([ours, theirs]: &[Vec<f64>; 2]) {
    let off = ours.iter().zip(theirs).map(|(ours, theirs)| (ours / theirs - 1.0).abs());
    let off = off.fold(0.0, f64::max);
    assert!(off <= MOST_OFF, "the losses differ by {off}:\n{ours:?}\n{theirs:?}");
    println!("       losses of the first {COMPARED} steps on both ranks: equal within {off:.1e}");
}

/// Medians of a side's blocks, in milliseconds a step.
fn print_side(name: &str, blocks: &[Steps]) {
    let of = |part: fn(&Steps) -> f64| {
        let mut values: Vec<f64> = blocks.iter().map(|steps| part(steps) * 1e3 / BLOCK as f64).collect();
        spread(&mut values)
    };
    println!(
        "       {name}, ms a step: {}; CPU {}; compute {}, exchange {}, update {}",
        of(|steps| steps.seconds),
        of(|steps| steps.cpu),
        of(|steps| steps.compute),
        of(|steps| steps.exchange),
        of(|steps| steps.update)
    );
}

fn measure_steps(ranks: &mut [Vec<Process>; 2], pairs: usize, names: [&str; 2]) -> bool {
    let mut blocks = [const { Vec::new() }; 2];
    for pair in 0..pairs {
        for turn in 0..2 {
            let side = (pair + turn) % 2;
            let steps: Vec<Steps> = ask(&mut ranks[side], &json!({ "steps": BLOCK }));
            let slower = steps.into_iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
            blocks[side].push(slower.unwrap());
        }
    }
    let [ours, theirs] = &blocks;
    print_side(names[0], ours);
    print_side(names[1], theirs);
    let names = names.join(" / ");
    let ratios = |part: fn(&Steps) -> f64| -> Vec<f64> {
        ours.iter().zip(theirs).map(|(ours, theirs)| part(ours) / part(theirs)).collect()
    };
    let mut of_cpu = ratios(|steps| steps.cpu);
    println!("       CPU time of a step, {names}: {}", spread(&mut of_cpu));
    let mut of_time = ratios(|steps| steps.seconds);
    let median = quantile(&mut of_time, 0.5);
    let (low, high) = interval(&mut of_time);
    let text = format!("{median:.3}, 95 % interval {low:.3} to {high:.3}");
    check(&format!("time of a step, {names}"), high, &text, MOST_TIME)
}

/// Of each side's larger rank, in MiB.
fn peaks(ranks: &mut [Vec<Process>; 2]) -> [f64; 2] {
    [0, 1].map(|side| {
        let answers: Vec<Value> = ask(&mut ranks[side], &json!({}));
        answers.iter().map(|answer| answer["peak_mebibytes"].as_f64().unwrap()).fold(0.0, f64::max)
    })
}

fn compare_memory(ranks: &mut [Vec<Process>; 2]) -> bool {
    let [ours, theirs] = peaks(ranks);
    let ratio = ours / theirs;
    let text = format!("{ratio:.3}: {ours:.0} against {theirs:.0} MiB");
    check("peak of resident memory, ours / PyTorch", ratio, &text, MOST_MEMORY)
}

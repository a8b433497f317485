//! Ranks, or a whole group, in processes of their own that run the calling test again.
#![allow(clippy::print_stdout)] // A child tells its result on its standard output.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[cfg(feature = "mpi")]
use scadles_trainer::engine::MpiEngine;
use scadles_trainer::engine::{Communicator, GlooEngine};
use scadles_trainer::learner::set_up_torch;
use torch_ext::TcpStore;

pub const HOST: &str = "127.0.0.1";

/// Which call of the test a child is for.
const LABEL: &str = "SCADLES_TEST_LABEL";
const RANK: &str = "SCADLES_TEST_RANK";
const PORT: &str = "SCADLES_TEST_PORT";
#[cfg(feature = "mpi")]
const FOLDER: &str = "SCADLES_TEST_FOLDER";
/// Runs a rank, notes how it ended, and stays until all have: a rank of a process that is gone is not gone for `mpiexec`.
#[cfg(feature = "mpi")]
const RANK_SCRIPT: &str = r#"
    rank=${OMPI_COMM_WORLD_RANK:-$PMI_RANK} size=${OMPI_COMM_WORLD_SIZE:-$PMI_SIZE}
    "$0" "$@"
    echo $? >"$SCADLES_TEST_FOLDER/$rank.new" && mv "$SCADLES_TEST_FOLDER/$rank.new" "$SCADLES_TEST_FOLDER/$rank.ended"
    while [ "$(ls "$SCADLES_TEST_FOLDER" | grep -c ended)" -lt "$size" ]; do sleep 0.05; done
"#;
/// What makes Open MPI start more ranks than there are cores, and as root; MPICH does so by itself.
#[cfg(feature = "mpi")]
const OPEN_MPI: [(&str, &str); 4] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
];
/// Precedes a child's result on its standard output.
const RESULT: &str = "rank result: ";
/// The result of a rank that a test lets die in a process that goes on.
const DEAD: &str = "dead";
/// How a process ends whose rank a test lets die.
const DIED: i32 = 9;

/// Runs `body` as every rank of a Gloo group, each in a process of its own that runs `test` again, and gives the numbers
/// that the ranks returned; a rank that returns none dies there and then. A test with several calls tells them apart by
/// `label`: in a process of another call this gives nothing; in one of this call it does not return.
pub fn on_gloo(
    test: &str,
    label: &str,
    world_size: usize,
    timeout: Duration,
    body: impl Fn(&mut dyn Communicator) -> Option<u64>,
) -> Option<Vec<Option<u64>>> {
    if let Some(own) = own_label() {
        if own != label {
            return None;
        }
        let number = |name: &str| std::env::var(name).unwrap().parse::<usize>().unwrap();
        set_up_torch(1).unwrap();
        let mut comm = gloo_rank(number(PORT) as u16, number(RANK), world_size, timeout);
        end(&[body(&mut comm)]);
    }
    let store = TcpStore::serve(HOST, 0, world_size, super::TIMEOUT).unwrap();
    let port = store.port().to_string();
    let ranks: Vec<Child> = (0..world_size)
        .map(|rank| again(test, label).env(RANK, rank.to_string()).env(PORT, &port).spawn().unwrap())
        .collect();
    Some(ranks.into_iter().flat_map(outcomes).collect())
}

/// One rank of a Gloo group whose collectives have `timeout`. It bounds connecting too: where it is short all ranks meet
/// before, so that no start of a process counts.
pub fn gloo_rank(port: u16, rank: usize, world_size: usize, timeout: Duration) -> GlooEngine {
    let store = TcpStore::connect(HOST, port, world_size, super::TIMEOUT).unwrap();
    let connect = |timeout| GlooEngine::connect(&store, rank, world_size, HOST, timeout).unwrap();
    if timeout >= super::TIMEOUT {
        return connect(timeout);
    }
    let mut met = connect(super::TIMEOUT);
    met.all_gather_equal(&[1], &mut vec![0; world_size]).unwrap();
    connect(timeout)
}

/// Runs `body`, which is all ranks of a group, in one process of its own, otherwise as [`on_gloo`] does.
pub fn in_one(test: &str, label: &str, body: impl FnOnce() -> Vec<Option<u64>>) -> Option<Vec<Option<u64>>> {
    if let Some(own) = own_label() {
        if own != label {
            return None;
        }
        end(&body());
    }
    Some(outcomes(again(test, label).spawn().unwrap()))
}

/// Runs `body` as every rank of MPI's world, in processes that `mpiexec` starts, otherwise as [`on_gloo`] does. A rank that
/// dies leaves a shell behind until all have ended, since `mpiexec` would end the others with it.
#[cfg(feature = "mpi")]
pub fn on_mpi(
    test: &str,
    label: &str,
    world_size: usize,
    timeout: Duration,
    body: impl Fn(&mut dyn Communicator) -> Option<u64>,
) -> Option<Vec<Option<u64>>> {
    if let Some(own) = own_label() {
        if own != label {
            return None;
        }
        set_up_torch(1).unwrap();
        let rank = ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].into_iter().find_map(|name| std::env::var(name).ok());
        let rank = rank.expect("a rank told by mpiexec").parse().unwrap();
        let mut comm = MpiEngine::connect(rank, world_size, super::TIMEOUT, timeout).unwrap();
        let result = body(&mut comm);
        if let Some(result) = result {
            let folder = std::env::var(FOLDER).unwrap();
            std::fs::write(format!("{folder}/{rank}"), result.to_string()).unwrap();
            // Refused where the group has failed.
            let _ = comm.finalize();
        }
        end(&[result]);
    }
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::var("MPIEXEC").unwrap_or_else(|_| "mpiexec".to_owned());
    let mut command = Command::new(&program);
    command
        .args(["-n", &world_size.to_string(), "sh", "-c", RANK_SCRIPT])
        .arg(std::env::current_exe().unwrap());
    command.args(arguments(test)).env(LABEL, label).env(FOLDER, folder.path()).envs(OPEN_MPI);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}; set MPIEXEC"));
    let outcome = |rank: usize| {
        let read = |name: String| std::fs::read_to_string(folder.path().join(name)).ok();
        let code = read(format!("{rank}.ended")).and_then(|code| code.trim().parse::<i32>().ok());
        let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        match code {
            Some(DIED) => None,
            Some(0) => Some(read(rank.to_string()).expect("a result").parse().unwrap()),
            other => panic!("rank {rank} ended with {other:?}: {}\n{}", text[0], text[1]),
        }
    };
    Some((0..world_size).map(outcome).collect())
}

#[cfg(not(feature = "mpi"))]
pub fn on_mpi(
    _test: &str,
    _label: &str,
    _world_size: usize,
    _timeout: Duration,
    _body: impl Fn(&mut dyn Communicator) -> Option<u64>,
) -> Option<Vec<Option<u64>>> {
    panic!(
        "built without MPI: cargo test --workspace --features scadles-trainer/mpi, as scripts/test.sh does"
    )
}

fn own_label() -> Option<String> {
    std::env::var(LABEL).ok()
}

fn again(test: &str, label: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(test)).env(LABEL, label).stdout(Stdio::piped());
    command
}

fn arguments(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// Tells the results of this process's ranks and ends it; without any it dies.
fn end(results: &[Option<u64>]) -> ! {
    if results.iter().all(Option::is_none) {
        std::process::exit(DIED);
    }
    for result in results {
        println!("\n{RESULT}{}", result.map_or_else(|| DEAD.to_owned(), |number| number.to_string()));
    }
    std::process::exit(0);
}

/// What the ranks of one process have told.
fn outcomes(child: Child) -> Vec<Option<u64>> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if output.status.code() == Some(DIED) {
        return vec![None];
    }
    assert!(output.status.success(), "a rank ended with {}: {text}", output.status);
    let told = text.lines().filter_map(|line| line.strip_prefix(RESULT));
    let results: Vec<_> = told.map(|result| (result != DEAD).then(|| result.parse().unwrap())).collect();
    assert!(!results.is_empty(), "a rank told no result: {text}");
    results
}

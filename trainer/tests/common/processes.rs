//! Ranks, or a whole group, in processes of their own that run the calling test again.
#![allow(clippy::print_stdout)] // A child tells its result on its standard output.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scadles_trainer::engine::{Communicator, GlooEngine};
use scadles_trainer::learner::set_up_torch;
use torch_ext::TcpStore;

pub const HOST: &str = "127.0.0.1";

/// Which call of the test a child is for.
const LABEL: &str = "SCADLES_TEST_LABEL";
const RANK: &str = "SCADLES_TEST_RANK";
const PORT: &str = "SCADLES_TEST_PORT";
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
        let store = TcpStore::connect(HOST, number(PORT) as u16, world_size, super::TIMEOUT).unwrap();
        let mut comm = GlooEngine::connect(&store, number(RANK), world_size, HOST, timeout).unwrap();
        end(&[body(&mut comm)]);
    }
    let store = TcpStore::serve(HOST, 0, world_size, super::TIMEOUT).unwrap();
    let port = store.port().to_string();
    let ranks: Vec<Child> = (0..world_size)
        .map(|rank| again(test, label).env(RANK, rank.to_string()).env(PORT, &port).spawn().unwrap())
        .collect();
    Some(ranks.into_iter().flat_map(outcomes).collect())
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

fn own_label() -> Option<String> {
    std::env::var(LABEL).ok()
}

fn again(test: &str, label: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(LABEL, label)
        .stdout(Stdio::piped());
    command
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

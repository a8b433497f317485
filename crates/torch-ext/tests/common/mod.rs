//! Ranks for tests and the benchmark: as threads, or as processes that run the same test again.
#![allow(dead_code, unreachable_pub, missing_docs)] // Shared by several programs, each of which uses a part.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_wrap)] // Test code.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tch::Tensor;
use torch_ext::{Element, Gloo, TcpStore};

pub const HOST: &str = "127.0.0.1";
const RANK: &str = "TORCH_EXT_TEST_RANK";
const WORLD_SIZE: &str = "TORCH_EXT_TEST_WORLD_SIZE";
const PORT: &str = "TORCH_EXT_TEST_PORT";
/// Far beyond what any test takes: a hang becomes a failure.
const DEADLINE: Duration = Duration::from_mins(2);

/// Runs `body` as each of `world_size` ranks in threads of this process; a panic of one fails the caller.
pub fn threads<T: Send>(world_size: usize, timeout: Duration, body: impl Fn(&Gloo) -> T + Sync) -> Vec<T> {
    torch_ext::set_threads(1).unwrap();
    let server = TcpStore::serve(HOST, 0, world_size, timeout).unwrap();
    let port = server.port();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| {
                let body = &body;
                scope.spawn(move || {
                    let store = TcpStore::connect(HOST, port, world_size, timeout).unwrap();
                    body(&Gloo::connect(&store, rank, world_size, HOST, timeout).unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What this process is: the test itself, or one of its ranks.
pub enum Role {
    /// The ranks that were started, in order.
    Parent(Vec<RankProcess>, TcpStore),
    /// A rank of the group.
    Rank(Gloo),
}

/// Starts this binary again as `world_size` ranks, with `args` (for a test: its name and `--exact`).
pub fn processes(args: &[&str], world_size: usize, timeout: Duration) -> Role {
    torch_ext::set_threads(1).unwrap();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<usize>().unwrap());
    if let (Some(rank), Some(port)) = (number(RANK), number(PORT)) {
        let world_size = number(WORLD_SIZE).unwrap();
        let store = TcpStore::connect(HOST, port as u16, world_size, timeout).unwrap();
        return Role::Rank(Gloo::connect(&store, rank, world_size, HOST, timeout).unwrap());
    }
    let store = TcpStore::serve(HOST, 0, world_size, timeout).unwrap();
    let ranks = (0..world_size)
        .map(|rank| {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(args)
                .env(RANK, rank.to_string())
                .env(WORLD_SIZE, world_size.to_string())
                .env(PORT, store.port().to_string())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            RankProcess { child }
        })
        .collect();
    Role::Parent(ranks, store)
}

/// A rank in a process of its own, killed when dropped.
pub struct RankProcess {
    pub child: Child,
}

impl RankProcess {
    /// Waits for the end, at most until the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        let (send, receive) = mpsc::channel::<()>();
        let id = self.child.id();
        // `Child::wait` closes stdin first, which is how a rank in `until_released` is let go.
        let stdin = self.child.stdin.take();
        let status = std::thread::scope(|scope| {
            scope.spawn(move || {
                if receive.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
                }
            });
            let status = self.child.wait().unwrap();
            drop(send);
            status
        });
        drop(stdin);
        status
    }

    /// Lets a rank that is in [`until_released`] go on.
    pub fn release(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a rank: waits for the parent to release it.
pub fn until_released() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// The same numbers for the same seed: signed, of very different sizes, so that the order of addition shows.
pub fn random<T: Element>(seed: u64, len: usize) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let numbers: Vec<f64> = (0..len)
        .map(|_| {
            let bits = next();
            let mantissa = (bits >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
            mantissa * f64::exp2((bits & 15) as f64 - 8.0)
        })
        .collect();
    Tensor::from_slice(&numbers).to_kind(T::KIND)
}

/// The rank-ordered sum put together from the collectives of any engine: ranges to their owners, the owner adds
/// rank 0, 1, …, all gather.
pub fn composed_rank_ordered_sum(group: &Gloo, tensor: &mut Tensor) -> Result<(), torch_ext::Error> {
    let (len, ranks) = (tensor.numel(), group.world_size());
    let each = len.div_ceil(ranks);
    let counts: Vec<i64> = (0..ranks).map(|rank| (len - len.min(each * rank)).min(each) as i64).collect();
    let own = counts[group.rank()];
    let mut received = Tensor::zeros([own * ranks as i64], (tensor.kind(), tch::Device::Cpu));
    group.all_to_all_v(tensor, &counts, &mut received, &vec![own; ranks])?;
    let mut sum = received.narrow(0, 0, own).copy();
    for rank in 1..ranks {
        let _ = sum.g_add_(&received.narrow(0, rank as i64 * own, own));
    }
    group.all_gather_v(&sum, tensor, &counts)
}

/// The resident memory of this process in bytes.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The CPU time of this process so far, all threads, in milliseconds (resolution 10 ms).
pub fn cpu_milliseconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
}

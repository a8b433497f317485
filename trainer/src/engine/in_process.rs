//! Ranks as threads of one process, over shared memory. For tests, the virtual clock and replay. No I/O.
//!
//! A collective is: publish what this rank sends, meet, read what the others published, meet again. Each rank's mailbox
//! is written by its owner only, between the meetings, and its memory is reused.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::{Communicator, EngineError, SumOrder, check_counts, check_gather, sum_bytes_sent};
use crate::numeric::{Real, ValuesMut, bytes_of, bytes_of_mut};

/// One rank of a group of threads.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    timeout: Duration,
    group: Arc<Group>,
    bytes_sent: u64,
}

#[derive(Debug)]
struct Group {
    meeting: Mutex<Meeting>,
    changed: Condvar,
    mailboxes: Vec<RwLock<Mailbox>>,
}

/// Where the ranks wait for each other.
#[derive(Debug, Default)]
struct Meeting {
    arrived: usize,
    /// Meetings that have ended.
    generation: u64,
    /// The first failure; it ends the group for all.
    failure: Option<EngineError>,
}

/// What a rank sends in the present collective.
#[derive(Debug, Default)]
struct Mailbox {
    operation: &'static str,
    counts: Vec<usize>,
    bytes: Vec<u8>,
}

impl InProcess {
    /// The ranks of a new group, in order. A rank that is dropped ends the group for the others at their next
    /// collective; one that does not come is an error after `timeout`.
    pub fn group(world_size: usize, timeout: Duration) -> Vec<Self> {
        let group = Arc::new(Group {
            meeting: Mutex::default(),
            changed: Condvar::new(),
            mailboxes: (0..world_size).map(|_| RwLock::default()).collect(),
        });
        (0..world_size).map(|rank| Self { rank, timeout, group: Arc::clone(&group), bytes_sent: 0 }).collect()
    }

    /// One collective: publishes, meets, lets `read` take what it needs from each rank's mailbox in rank order.
    fn exchange(
        &mut self,
        operation: &'static str,
        counts: &[usize],
        bytes: &[u8],
        mut read: impl FnMut(usize, &Mailbox) -> Result<(), String>,
    ) -> Result<(), EngineError> {
        self.group.publish(self.rank, operation, counts, bytes);
        self.meet(operation)?;
        for (sender, mailbox) in self.group.mailboxes.iter().enumerate() {
            let mailbox = mailbox.read().unwrap_or_else(PoisonError::into_inner);
            let fits = if mailbox.operation == operation {
                read(sender, &mailbox)
            } else {
                Err(format!("rank {sender} is in {}", mailbox.operation))
            };
            if let Err(difference) = fits {
                let message = format!("rank {}: {difference}", self.rank);
                self.group.fail(EngineError::Mismatch { operation, message });
                break;
            }
        }
        self.meet(operation)
    }

    /// Waits until all ranks have come here.
    fn meet(&self, operation: &'static str) -> Result<(), EngineError> {
        let deadline = Instant::now() + self.timeout;
        let mut meeting = self.group.lock();
        meeting.arrived += 1;
        if meeting.arrived == self.world_size() && meeting.failure.is_none() {
            meeting.arrived = 0;
            meeting.generation += 1;
            self.group.changed.notify_all();
            return Ok(());
        }
        let generation = meeting.generation;
        while meeting.generation == generation {
            if let Some(failure) = &meeting.failure {
                return Err(failure.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing = self.world_size() - meeting.arrived;
                let message = format!(
                    "{missing} of {} ranks did not come within {:?}",
                    self.world_size(),
                    self.timeout
                );
                let failure = EngineError::PeerLost { operation, message };
                meeting.failure = Some(failure.clone());
                self.group.changed.notify_all();
                return Err(failure);
            }
            let waited = self.group.changed.wait_timeout(meeting, left);
            meeting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn sum<T: Real>(&mut self, values: &mut [T]) -> Result<(), EngineError> {
        let own = bytes_of(values).to_vec();
        let mut term = vec![T::default(); values.len()];
        self.exchange("all_reduce_sum", &[own.len()], &own, |sender, mailbox| {
            same_length(sender, mailbox, own.len())?;
            bytes_of_mut(&mut term).copy_from_slice(&mailbox.bytes);
            if sender == 0 {
                values.copy_from_slice(&term);
            } else {
                values.iter_mut().zip(&term).for_each(|(sum, &term)| *sum += term);
            }
            Ok(())
        })
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, rank: usize, operation: &'static str, counts: &[usize], bytes: &[u8]) {
        let mut mailbox = self.mailboxes[rank].write().unwrap_or_else(PoisonError::into_inner);
        mailbox.operation = operation;
        mailbox.counts.clear();
        mailbox.counts.extend_from_slice(counts);
        mailbox.bytes.clear();
        mailbox.bytes.extend_from_slice(bytes);
    }

    /// Ends the group; the first failure is the one that all report.
    fn fail(&self, failure: EngineError) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let message = format!("rank {} has left the group", self.rank);
        self.group.fail(EngineError::PeerLost { operation: "meet the other ranks", message });
    }
}

impl Communicator for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.group.mailboxes.len()
    }

    fn all_to_all_v(
        &mut self,
        send: &[u8],
        send_counts: &[usize],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_to_all_v";
        check_counts(OPERATION, "send", send.len(), send_counts, self.world_size())?;
        check_counts(OPERATION, "recv", recv.len(), recv_counts, self.world_size())?;
        self.bytes_sent += (send.len() - send_counts[self.rank]) as u64;
        let (own, mut rest) = (self.rank, recv);
        self.exchange(OPERATION, send_counts, send, |sender, mailbox| {
            let (sent, expected) = (mailbox.counts[own], recv_counts[sender]);
            if sent != expected {
                return Err(format!("expects {expected} bytes from rank {sender}, which sends {sent}"));
            }
            let start: usize = mailbox.counts[..own].iter().sum();
            let (part, others) = std::mem::take(&mut rest).split_at_mut(expected);
            part.copy_from_slice(&mailbox.bytes[start..start + sent]);
            rest = others;
            Ok(())
        })
    }

    fn all_gather_equal(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), EngineError> {
        let counts = vec![send.len(); self.world_size()];
        self.all_gather_v(send, recv, &counts)
    }

    fn all_gather_v(
        &mut self,
        send: &[u8],
        recv: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "all_gather_v";
        check_gather(OPERATION, self.rank, send, recv, recv_counts, self.world_size())?;
        self.bytes_sent += (send.len() * (self.world_size() - 1)) as u64;
        let mut rest = recv;
        self.exchange(OPERATION, recv_counts, send, |sender, mailbox| {
            same_length(sender, mailbox, recv_counts[sender])?;
            let (part, others) = std::mem::take(&mut rest).split_at_mut(recv_counts[sender]);
            part.copy_from_slice(&mailbox.bytes);
            rest = others;
            Ok(())
        })
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<(), EngineError> {
        const OPERATION: &str = "broadcast";
        if root >= self.world_size() {
            let message = format!("root is {root}; it must be below {}", self.world_size());
            return Err(EngineError::Argument { operation: OPERATION, message });
        }
        let expected = bytes.len();
        let own = if self.rank == root { bytes.to_vec() } else { Vec::new() };
        self.bytes_sent += (own.len() * (self.world_size() - 1)) as u64;
        self.exchange(OPERATION, &[root], &own, |sender, mailbox| {
            if mailbox.counts != [root] {
                return Err(format!("root is {root}, but {:?} on rank {sender}", mailbox.counts));
            }
            if sender == root {
                same_length(sender, mailbox, expected)?;
                bytes.copy_from_slice(&mailbox.bytes);
            }
            Ok(())
        })
    }

    /// Rank order is this engine's own order too.
    fn all_reduce_sum(&mut self, values: ValuesMut<'_>, _order: SumOrder) -> Result<(), EngineError> {
        self.bytes_sent += sum_bytes_sent(values.len_bytes(), self.world_size());
        match values {
            ValuesMut::F32(values) => self.sum(values),
            ValuesMut::F64(values) => self.sum(values),
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }
}

fn same_length(sender: usize, mailbox: &Mailbox, expected: usize) -> Result<(), String> {
    let found = mailbox.bytes.len();
    if found == expected {
        Ok(())
    } else {
        Err(format!("expects {expected} bytes from rank {sender}, which sends {found}"))
    }
}

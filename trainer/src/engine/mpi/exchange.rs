//! One collective as messages between pairs of ranks: first what each is about, then the data in pieces.

use std::time::Instant;

use super::raw::{Flight, Trouble, World};
use crate::engine::EngineError;
use crate::engine::collective::Collective;
use crate::numeric::{Real, bytes_of};

/// Data travels in messages of this many bytes at most, so that the copies of two of them stay in the cache, and no count
/// comes near the 2^31 that MPI takes. A multiple of every number's size.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// What a message is. Between two ranks, each kind keeps its order.
const CALL: i32 = 1;
const DATA: i32 = 2;

/// A call as it travels: kind, the common numbers, bytes for the receiver.
const CALL_WORDS: usize = 4;
const CALL_BYTES: usize = CALL_WORDS * size_of::<u64>();

/// Which collective a rank is in.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) kind: Collective,
    /// What has to be the same on all ranks: bytes, and the root if there is one.
    pub(super) common: [usize; 2],
    pub(super) deadline: Instant,
}

/// What a rank gives and takes. Offsets count from the start of what goes to, or comes from, that peer.
pub(super) trait Traffic {
    /// Bytes for a peer.
    fn send_len(&self, peer: usize) -> usize;

    /// Bytes expected from a peer.
    fn receive_len(&self, peer: usize) -> usize;

    /// Some of the bytes for a peer.
    fn part(&self, peer: usize, start: usize, len: usize) -> &[u8];

    /// Takes bytes of a peer; what goes out from before their end has been fetched by now.
    fn arrive(&mut self, peer: usize, start: usize, bytes: &[u8]);
}

/// One collective on its way.
pub(super) struct Exchange<'a, T> {
    pub(super) world: &'a World,
    pub(super) call: Call,
    pub(super) traffic: T,
    /// Memory of pieces that have ended, to be used again.
    pub(super) spare: &'a mut Vec<Vec<u8>>,
}

impl<'a, T: Traffic> Exchange<'a, T> {
    /// Carries it out. While a piece arrives the next one is sent.
    pub(super) fn run(mut self) -> Result<(), EngineError> {
        let lens = self.peers().map(|peer| self.traffic.send_len(peer).max(self.traffic.receive_len(peer)));
        let pieces = lens.max().unwrap_or_default().div_ceil(PIECE_BYTES);
        let told = self.tell()?;
        // At once, behind what was told: a peer begins to receive it when it knows that it fits.
        let mut next = self.send_piece(0)?;
        self.hear(told)?;
        for piece in 0..pieces {
            let (mut flight, sent) = next;
            let arriving = self.receive_piece(&mut flight, piece)?;
            next = self.send_piece(piece + 1)?;
            let mut messages = self.wait(flight)?;
            for (peer, message) in arriving.into_iter().zip(&messages[sent..]) {
                self.traffic.arrive(peer, piece * PIECE_BYTES, message);
            }
            self.spare.append(&mut messages);
        }
        Ok(())
    }

    /// The other ranks, beginning with the right neighbour, so that not all send to rank 0 first.
    fn peers(&self) -> impl Iterator<Item = usize> + use<T> {
        let (rank, size) = (self.world.rank(), self.world.size());
        (1..size).map(move |step| (rank + step) % size)
    }

    /// Tells every rank what this one is about to do, and begins to hear the same of it.
    fn tell(&self) -> Result<Flight<'a>, EngineError> {
        let mut flight = Flight::new(self.world);
        let [first, second] = self.call.common;
        for peer in self.peers() {
            let words = [first, second, self.traffic.send_len(peer)].map(|word| word as u64);
            let words = std::iter::once(self.call.kind.word()).chain(words);
            let message = words.flat_map(u64::to_ne_bytes).collect();
            self.done(flight.send(message, peer, CALL))?;
        }
        for peer in self.peers() {
            self.done(flight.receive(vec![0; CALL_BYTES], peer, CALL))?;
        }
        Ok(flight)
    }

    /// Hears of every rank what it is about to do. All have come when this returns.
    fn hear(&self, told: Flight<'a>) -> Result<(), EngineError> {
        let messages = self.wait(told)?;
        let heard = &messages[messages.len() / 2..];
        for (peer, message) in self.peers().zip(heard) {
            let (words, _) = message.as_chunks::<{ size_of::<u64>() }>();
            let mut word = words.iter().map(|bytes| u64::from_ne_bytes(*bytes));
            let kind = word.next().unwrap_or_default();
            let mut next = || word.next().unwrap_or_default() as usize;
            let (common, sent) = ([next(), next()], next());
            self.fits(peer, kind, common, sent).map_err(|difference| {
                let message = format!("rank {}: {difference}", self.world.rank());
                EngineError::Mismatch { operation: self.call.operation, message }
            })?;
        }
        Ok(())
    }

    fn fits(&self, peer: usize, kind: u64, common: [usize; 2], sent: usize) -> Result<(), String> {
        let expected = self.traffic.receive_len(peer);
        let own = self.call.kind.word();
        if kind != own {
            let [own, other] = [own, kind].map(Collective::name);
            Err(format!("rank {peer} is in {other}, this one in {own}"))
        } else if common != self.call.common {
            let [own, other] =
                [self.call.common, common].map(|[bytes, root]| format!("{bytes} bytes, root {root}"));
            Err(format!("rank {peer} has {other}, this one {own}"))
        } else if sent != expected {
            Err(format!("expects {expected} bytes from rank {peer}, which sends {sent}"))
        } else {
            Ok(())
        }
    }

    /// Begins to send a piece to every rank that gets one; how many there are.
    fn send_piece(&mut self, piece: usize) -> Result<(Flight<'a>, usize), EngineError> {
        let mut flight = Flight::new(self.world);
        let mut sent = 0;
        for peer in self.peers() {
            let len = len_of_piece(self.traffic.send_len(peer), piece);
            if len > 0 {
                let mut message = self.spare.pop().unwrap_or_default();
                message.clear();
                message.extend_from_slice(self.traffic.part(peer, piece * PIECE_BYTES, len));
                self.done(flight.send(message, peer, DATA))?;
                sent += 1;
            }
        }
        Ok((flight, sent))
    }

    /// Begins to receive a piece of every rank that sends one; of whom.
    fn receive_piece(&mut self, flight: &mut Flight<'a>, piece: usize) -> Result<Vec<usize>, EngineError> {
        let mut arriving = Vec::new();
        for peer in self.peers() {
            let len = len_of_piece(self.traffic.receive_len(peer), piece);
            if len > 0 {
                let mut message = self.spare.pop().unwrap_or_default();
                message.resize(len, 0);
                self.done(flight.receive(message, peer, DATA))?;
                arriving.push(peer);
            }
        }
        Ok(arriving)
    }

    fn wait(&self, flight: Flight<'a>) -> Result<Vec<Vec<u8>>, EngineError> {
        self.done(flight.wait(self.call.deadline))
    }

    fn done<R>(&self, outcome: Result<R, Trouble>) -> Result<R, EngineError> {
        outcome.map_err(|trouble| trouble.during(self.call.operation))
    }
}

/// Bytes of one piece of `len`.
fn len_of_piece(len: usize, piece: usize) -> usize {
    len.saturating_sub(piece * PIECE_BYTES).min(PIECE_BYTES)
}

/// A part for every rank, and a place for every rank's; nothing for this rank itself.
pub(super) struct Parts<'a> {
    pub(super) sends: Vec<&'a [u8]>,
    pub(super) receives: Vec<&'a mut [u8]>,
}

impl Traffic for Parts<'_> {
    fn send_len(&self, peer: usize) -> usize {
        self.sends[peer].len()
    }

    fn receive_len(&self, peer: usize) -> usize {
        self.receives[peer].len()
    }

    fn part(&self, peer: usize, start: usize, len: usize) -> &[u8] {
        &self.sends[peer][start..start + len]
    }

    fn arrive(&mut self, peer: usize, start: usize, bytes: &[u8]) {
        self.receives[peer][start..start + bytes.len()].copy_from_slice(bytes);
    }
}

/// The sum of two ranks, in place: both send all that they have. Its bits are those of rank order, since a + b = b + a.
pub(super) struct SumOfTwo<'a, T> {
    pub(super) values: &'a mut [T],
}

impl<T: Term> Traffic for SumOfTwo<'_, T> {
    fn send_len(&self, _peer: usize) -> usize {
        size_of_val(self.values)
    }

    fn receive_len(&self, _peer: usize) -> usize {
        size_of_val(self.values)
    }

    fn part(&self, _peer: usize, start: usize, len: usize) -> &[u8] {
        &bytes_of(self.values)[start..start + len]
    }

    fn arrive(&mut self, _peer: usize, start: usize, bytes: &[u8]) {
        T::add_bytes(&mut self.values[start / size_of::<T>()..], bytes);
    }
}

/// A number that is added as it arrives.
pub(super) trait Term: Real {
    /// Adds numbers, given by their bytes, to the first of `values`.
    fn add_bytes(values: &mut [Self], bytes: &[u8]);
}

impl Term for f32 {
    fn add_bytes(values: &mut [Self], bytes: &[u8]) {
        let (terms, _) = bytes.as_chunks();
        values.iter_mut().zip(terms).for_each(|(sum, term)| *sum += Self::from_ne_bytes(*term));
    }
}

impl Term for f64 {
    fn add_bytes(values: &mut [Self], bytes: &[u8]) {
        let (terms, _) = bytes.as_chunks();
        values.iter_mut().zip(terms).for_each(|(sum, term)| *sum += Self::from_ne_bytes(*term));
    }
}

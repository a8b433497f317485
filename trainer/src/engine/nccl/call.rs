//! What the ranks tell each other of a collective before its data: which it is, and how much goes from whom to whom. Pure.

use crate::engine::collective::Collective;

/// A rank's part in a collective, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    kind: Collective,
    /// What must be the same on all ranks: a sum's bytes, a broadcast's root.
    common: usize,
    /// What it sends to each rank.
    sends: Vec<usize>,
    /// What it expects of each rank.
    receives: Vec<usize>,
}

/// Words before the parts.
const HEAD: usize = 2;

impl Call {
    /// A collective of one length on all ranks.
    pub(super) fn common(kind: Collective, bytes: usize, ranks: usize) -> Self {
        Self { kind, common: bytes, sends: vec![0; ranks], receives: vec![0; ranks] }
    }

    /// A collective with a part for, and of, each rank.
    pub(super) fn parts(kind: Collective, sends: Vec<usize>, receives: Vec<usize>) -> Self {
        Self { kind, common: 0, sends, receives }
    }

    /// Everybody, `root` too, gets `bytes` of `root`; this is what rank `own` says.
    pub(super) fn broadcast(root: usize, own: usize, bytes: usize, ranks: usize) -> Self {
        let mut call = Self::common(Collective::Broadcast, root, ranks);
        call.receives[root] = bytes;
        if own == root {
            call.sends.fill(bytes);
        }
        call
    }

    /// As it travels: as many words on every rank, whatever the collective.
    pub(super) fn words(&self) -> Vec<u64> {
        let parts = self.sends.iter().chain(&self.receives);
        let head = [self.kind.word(), self.common as u64];
        head.into_iter().chain(parts.map(|bytes| *bytes as u64)).collect()
    }
}

/// How the calls of `ranks` ranks, their words one after another, do not fit together; every rank finds the same.
pub(super) fn difference(words: &[u64], ranks: usize) -> Option<String> {
    let calls: Vec<&[u64]> = words.chunks_exact(HEAD + 2 * ranks).collect();
    let first = calls[0];
    for (rank, call) in calls.iter().enumerate() {
        if call[0] != first[0] {
            let [here, there] = [first[0], call[0]].map(Collective::name);
            return Some(format!("rank 0 is in {here}, rank {rank} in {there}"));
        }
        if call[1] != first[1] {
            let what =
                if first[0] == Collective::Broadcast.word() { "the root" } else { "the number of bytes" };
            return Some(format!("{what} is {} on rank 0 and {} on rank {rank}", first[1], call[1]));
        }
    }
    for (from, sender) in calls.iter().enumerate() {
        for (to, receiver) in calls.iter().enumerate() {
            let (sent, expected) = (sender[HEAD + to], receiver[HEAD + ranks + from]);
            if sent != expected {
                return Some(format!(
                    "rank {to} expects {expected} bytes from rank {from}, which sends {sent}"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference_of(calls: &[Call]) -> Option<String> {
        let words: Vec<u64> = calls.iter().flat_map(Call::words).collect();
        difference(&words, calls.len())
    }

    #[test]
    fn calls_that_fit_together_have_no_difference() {
        let exchange = |sends: [usize; 2], receives: [usize; 2]| {
            Call::parts(Collective::AllToAll, sends.to_vec(), receives.to_vec())
        };
        assert_eq!(difference_of(&[exchange([1, 2], [1, 7]), exchange([7, 0], [2, 0])]), None);
        assert_eq!(difference_of(&[Call::common(Collective::SumF32, 8, 1)]), None);
        assert_eq!(difference_of(&[0, 1, 2].map(|own| Call::broadcast(1, own, 5, 3))), None);
    }

    #[test]
    fn the_first_difference_is_said_in_words() {
        let sum = |kind: Collective, bytes: usize| Call::common(kind, bytes, 2);
        let cases = [
            (
                [sum(Collective::SumF32, 8), Call::parts(Collective::Gather, vec![8; 2], vec![8; 2])],
                "rank 0 is in a sum of f32, rank 1 in all_gather",
            ),
            (
                [sum(Collective::SumF32, 8), sum(Collective::SumF64, 8)],
                "rank 0 is in a sum of f32, rank 1 in a sum of f64",
            ),
            (
                [sum(Collective::SumF32, 8), sum(Collective::SumF32, 12)],
                "the number of bytes is 8 on rank 0 and 12 on rank 1",
            ),
            (
                [Call::broadcast(0, 0, 5, 2), Call::broadcast(1, 1, 5, 2)],
                "the root is 0 on rank 0 and 1 on rank 1",
            ),
            (
                [Call::broadcast(0, 0, 5, 2), Call::broadcast(0, 1, 6, 2)],
                "rank 1 expects 6 bytes from rank 0, which sends 5",
            ),
        ];
        for (calls, expected) in cases {
            assert_eq!(difference_of(&calls).as_deref(), Some(expected));
        }
    }
}

//! The collectives by the word that ranks tell each other, on transports that do not look at it themselves. Pure.

/// Which collective a rank is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collective {
    AllToAll,
    Gather,
    Broadcast,
    SumF32,
    SumF64,
}

impl Collective {
    const ALL: [Self; 5] = [Self::AllToAll, Self::Gather, Self::Broadcast, Self::SumF32, Self::SumF64];

    /// A sum of numbers of this kind.
    pub(super) fn sum(numbers: tch::Kind) -> Self {
        if numbers == tch::Kind::Double { Self::SumF64 } else { Self::SumF32 }
    }

    /// As it travels.
    pub(super) const fn word(self) -> u64 {
        self as u64
    }

    /// What a rank is in that told this word.
    pub(super) fn name(word: u64) -> &'static str {
        match Self::ALL.into_iter().find(|it| it.word() == word) {
            Some(Self::AllToAll) => "all_to_all",
            Some(Self::Gather) => "all_gather",
            Some(Self::Broadcast) => "broadcast",
            Some(Self::SumF32) => "a sum of f32",
            Some(Self::SumF64) => "a sum of f64",
            None => "an unknown collective",
        }
    }
}

//! Settings that change while a group trains: what it is told, and until when.

use scadles_api::{Phase, Tuning};

use super::{
    situation::{Situation, renewed},
    types::{Action, AfterStop},
};

impl Situation<'_> {
    /// What the group is to be told: the job's settings, under a new number if they are not those that it was told last.
    pub(super) fn wanted_tuning(&self) -> Tuning {
        let (wanted, told) = (Tuning::of(self.job), self.next.tuning);
        if wanted.has_settings_of(&told) {
            told
        } else {
            Tuning { generation: told.generation + 1, ..wanted }
        }
    }

    /// Tells rank 0 of settings that changed, until the group has agreed on them. A group that says nothing of settings
    /// cannot change them while it trains (its worker is older than this supervisor): then it gets a new attempt.
    pub(super) fn tune(&mut self) {
        let before = self.next.tuning;
        self.next.tuning = self.wanted_tuning();
        let Some(progress) = self.progress().filter(|progress| progress.phase == Phase::Training) else {
            return;
        };
        let tuning = self.next.tuning;
        match progress.tunings.last() {
            Some(agreed) if agreed.tuning.generation < tuning.generation => {
                self.actions.push(Action::PostTuning { rank: 0, tuning });
            }
            None if before.generation > 0 && before != tuning => self.begin_stop(renewed(), AfterStop::Renew),
            _ => {}
        }
    }
}

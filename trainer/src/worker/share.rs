//! Compute of a step, in which samples may change hands: they travel while the rank computes on those that it keeps.
//!
//! The group's communicator is idle during compute, so a thread borrows it for that time; nothing of a shared sample
//! outlives its step. What is computed separately is added: own samples first, then those of others.

use std::time::Instant;

use scadles_api::ExitCode;
use scadles_core::{agree::StepPlan, inject::InjectionPlan};

use super::{
    Failure,
    phase_times::StepPhase,
    rank::{Agreed, Rank},
    watchdog::Watched,
};
use crate::{
    inject::{exchange_samples, received_samples},
    learner::StepStatistics,
};

/// What compute has come to.
#[derive(Default)]
pub(super) struct Computed {
    pub(super) statistics: StepStatistics,
    /// Bytes of samples that this rank has sent.
    pub(super) sample_bytes: u64,
    /// Forward and backward, from the agreement on.
    pub(super) compute_seconds: f64,
    /// Waiting for samples that were still on their way.
    pub(super) share_seconds: f64,
}

impl Rank {
    /// Forward and backward of all that the rank trains in this step; the gradients are left to be combined.
    pub(super) fn compute(&mut self, agreed: &Agreed, plan: &StepPlan) -> Result<Computed, Failure> {
        let micro_batch = self.config.job.training.micro_batch as usize;
        let loss_scale = plan.loss_scales[self.position];
        let mut computed = Computed::default();
        if plan.injection.is_empty() {
            self.times.enter(StepPhase::Compute);
            computed.statistics = self.learner.contribute(self.batches.batch(), loss_scale, micro_batch)?;
        } else {
            let kept = plan.local_batches[self.position] - plan.injection.given_away(self.position);
            self.batches.keep(kept)?;
            let received = self.compute_while_samples_travel(agreed, plan, &mut computed)?;
            self.times.enter(StepPhase::Compute);
            self.watch_own("compute");
            let samples = self.received(&plan.injection, &received);
            let epoch = self.epoch_after(self.state.samples);
            self.batches.receive(samples, epoch)?;
            computed.statistics +=
                self.learner.contribute_more(self.batches.batch(), loss_scale, micro_batch)?;
        }
        computed.compute_seconds = agreed.at.elapsed().as_secs_f64() - computed.share_seconds;
        Ok(computed)
    }

    /// Own samples, and meanwhile the exchange of the shared ones; the records that have come.
    fn compute_while_samples_travel(
        &mut self,
        agreed: &Agreed,
        plan: &StepPlan,
        computed: &mut Computed,
    ) -> Result<Vec<u8>, Failure> {
        let micro_batch = self.config.job.training.micro_batch as usize;
        let (loss_scale, record_bytes) =
            (plan.loss_scales[self.position], self.config.job.samples().sample_bytes());
        let shared = self.source.last_records(&agreed.peeked, plan.injection.shared_out(self.position));
        let patience = self.patience();
        let sent_before = self.communicator.bytes_sent();
        self.times.enter(StepPhase::Compute);
        let (communicator, learner, batch) =
            (&mut *self.communicator, &mut self.learner, self.batches.batch());
        let (times, watchdog) = (&mut self.times, &self.watchdog);
        let received = std::thread::scope(|scope| {
            let travel = std::thread::Builder::new().name("samples".to_owned());
            let travel = travel
                .spawn_scoped(scope, || {
                    exchange_samples(communicator, &plan.injection, &shared, record_bytes)
                })
                .map_err(|error| lost_thread(&error.to_string()))?;
            let own = learner.contribute(batch, loss_scale, micro_batch);
            times.enter(StepPhase::Share);
            watchdog.arm(patience, Watched::Exchange);
            let waiting = Instant::now();
            let received = travel.join().map_err(|_| lost_thread("it has panicked"))?;
            computed.share_seconds = waiting.elapsed().as_secs_f64();
            computed.statistics = own?;
            Ok::<_, Failure>(received?)
        })?;
        computed.sample_bytes = self.communicator.bytes_sent() - sent_before;
        Ok(received)
    }

    /// Samples of others with the numbers of their devices, which are in the order of ranks.
    fn received<'a>(
        &self,
        injection: &'a InjectionPlan,
        records: &'a [u8],
    ) -> impl Iterator<Item = (usize, crate::source::Sample<'a>)> + use<'a> {
        received_samples(injection, self.position, records, self.config.job.samples().sample_bytes())
    }
}

fn lost_thread(reason: &str) -> Failure {
    Failure::new(ExitCode::Internal, format!("the thread that exchanges samples is lost: {reason}"))
}

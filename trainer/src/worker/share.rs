//! Compute of a step, in which samples may change hands and gradients leave: shared samples travel while the rank computes
//! on those that it keeps, and buckets of gradients while it computes the others.
//!
//! The group's communicator is idle during compute, so threads borrow it for that time, first for samples, then for
//! gradients; nothing of a shared sample outlives its step. What is computed separately is added: own samples first, then
//! those of others.

use std::time::Instant;

use scadles_api::ExitCode;
use scadles_core::{agree::StepPlan, inject::InjectionPlan, learning_rate::energy};

use super::{
    Failure,
    phase_times::StepPhase,
    rank::{Agreed, OWN_SHARE, Rank},
    watchdog::Watched,
};
use crate::{
    exchange::Exchanged,
    inject::{exchange_samples, received_samples},
    learner::{Learner, StepStatistics},
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
    /// ‖u_i‖², in jobs that scale the learning rate by the noise of gradients.
    pub(super) own_energy: Option<f64>,
}

impl Rank {
    /// Forward and backward of all that the rank trains in this step, and the sum of the gradients over the ranks, which
    /// begins while backward still runs. Shared samples have travelled by then.
    pub(super) fn compute_and_combine(
        &mut self,
        agreed: &Agreed,
        plan: &StepPlan,
    ) -> Result<(Computed, Exchanged), Failure> {
        let (began, patience) = (Instant::now(), self.patience());
        let mut computed = Computed::default();
        let shares = !plan.injection.is_empty();
        if shares {
            self.compute_while_samples_travel(agreed, plan, &mut computed)?;
        }
        self.times.enter(StepPhase::Compute);
        let micro_batch = self.config.job.training.micro_batch as usize;
        let loss_scale = plan.loss_scales[self.position];
        let measures = self.config.job.training.learning_rate_scaling.reads_gradients();
        let Self { learner, exchange, communicator, batches, times, watchdog, .. } = self;
        let last = |learner: &mut Learner<f32>| {
            learner.last_is_next();
            let trained = if shares {
                learner.contribute_more(batches.batch(), loss_scale, micro_batch)
            } else {
                learner.contribute(batches.batch(), loss_scale, micro_batch)
            };
            // From here on it is the others that this rank waits for.
            times.enter(StepPhase::Exchange);
            let left = patience.saturating_sub(began.elapsed());
            watchdog.arm(left.max(patience.mul_f64(1.0 - OWN_SHARE)), Watched::Exchange);
            computed.compute_seconds = agreed.at.elapsed().as_secs_f64() - computed.share_seconds;
            computed.statistics += trained?;
            computed.own_energy = measures.then(|| learner.gradients().map(energy)).transpose()?;
            Ok::<_, Failure>(())
        };
        let decision = (plan.compression, plan.scaled_learning_rate);
        let ((), exchanged) = exchange.compute_and_combine(&mut **communicator, learner, decision, last)?;
        Ok((computed, exchanged))
    }

    /// Own samples, and meanwhile the exchange of the shared ones, which are the batch then.
    fn compute_while_samples_travel(
        &mut self,
        agreed: &Agreed,
        plan: &StepPlan,
        computed: &mut Computed,
    ) -> Result<(), Failure> {
        let kept = plan.local_batches[self.position] - plan.injection.given_away(self.position);
        self.batches.keep(kept)?;
        let received = self.travel(agreed, plan, computed)?;
        self.watch_own("compute");
        let samples = self.received(&plan.injection, &received);
        let epoch = self.epoch_after(self.state.samples);
        self.batches.receive(samples, plan.injection.received(self.position), epoch)?;
        Ok(())
    }

    /// The records that have come, and the passes over own samples meanwhile.
    fn travel(
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

//! The worker's loop over one attempt: report, agree, then step, wait or part.
//!
//! Role: shell around `scadles-core`. Each rank drives its own stream, model and optimiser; what the group does next is
//! decided once, on rank 0, from all reports. See ARCHITECTURE.md, "Life of a step".

mod failure;
mod form;
mod leader;
mod phase_times;
mod rank;
mod restore;
mod round;
mod share;
mod trace;
mod watchdog;

use std::{sync::Arc, time::Instant};

use scadles_api::{Attempt, LastWords, WorkerConfig};
use scadles_core::agree::Action;
use tokio::{net::TcpListener, runtime::Handle};

use crate::{endpoint::Shared, gpu::Gpu};

pub use failure::Failure;
pub(crate) use form::agree_settings;
use phase_times::StepPhase;
pub(crate) use restore::decode_residuals;

/// What a worker has for its whole life.
#[derive(Clone)]
pub struct Context {
    /// Its configuration file.
    pub config: WorkerConfig,
    /// Where its network computes, if not on the CPU.
    pub gpu: Option<Gpu>,
    /// What its endpoint shows and takes in.
    pub shared: Arc<Shared>,
    /// Carries endpoint and control channel.
    pub runtime: Handle,
    /// Ends the worker from another thread while the training thread may be stuck; does not return in a process.
    pub end: Arc<dyn Fn(Failure) + Send + Sync>,
}

/// An attempt that the group has ended together.
pub struct Ended {
    /// How.
    pub words: LastWords,
    /// To be dropped after the last words are said: its threads are waited for, one of them for seconds where the broker
    /// is away, and a supervisor does not wait as long.
    _rank: rank::Rank,
}

/// Runs one attempt to its end. `hub` is the listener of the control hub that this worker announced; it is used if the
/// attempt makes this worker rank 0. A failure of a formed group is told to `context.end` before anything is torn down,
/// so that the others, who see it then, do not speak first.
pub fn run_attempt(context: &Context, attempt: &Attempt, hub: TcpListener) -> Result<Ended, Failure> {
    let mut rank = form::form(context, attempt, hub)?;
    match train(&mut rank) {
        Ok(words) => Ok(Ended { words, _rank: rank }),
        Err(failure) => {
            (context.end)(failure.clone());
            Err(failure)
        }
    }
}

fn train(rank: &mut rank::Rank) -> Result<LastWords, Failure> {
    loop {
        let agreed = rank.agree()?;
        if let Action::Stop { checkpoint, .. } = agreed.agreement.action {
            if checkpoint {
                rank.compare_parameters()?;
                rank.gather_residuals()?;
            }
            // The results have them too.
            rank.agree_statistics()?;
        }
        rank.watch_own("bookkeeping");
        if let Some(leader) = &mut rank.leader {
            let (began, before) = (Instant::now(), leader.submitted());
            leader.round(&agreed, &rank.state, &rank.learner, &rank.momentum)?;
            if leader.submitted() != before {
                rank.times.own("checkpoint", began);
            }
        }
        match &agreed.agreement.action {
            Action::Wait => {}
            Action::Stop { reason, .. } => return rank.part(*reason),
            Action::Step(plan) => {
                let before = rank.state;
                rank.train(&agreed, plan)?;
                if plan.agrees_statistics() {
                    rank.agree_statistics()?;
                }
                if plan.checkpoint {
                    rank.gather_residuals()?;
                }
                if let Some(leader) = &mut rank.leader {
                    leader.committed(&agreed, plan, &before, rank.hash)?;
                }
                if plan.evaluate {
                    rank.times.enter(StepPhase::Evaluation);
                    evaluate(rank)?;
                }
                rank.times.step_done(rank.state.step);
            }
        }
    }
}

fn evaluate(rank: &mut rank::Rank) -> Result<(), Failure> {
    let began = Instant::now();
    let limit = rank.config.job.evaluation.as_ref().map_or(0, |evaluation| evaluation.samples);
    rank.evaluate(limit)?;
    if let Some(leader) = &mut rank.leader {
        leader.evaluated(began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A parameter hash as it is written in files.
pub(crate) fn hash_text(hash: u64) -> String {
    format!("{hash:016x}")
}

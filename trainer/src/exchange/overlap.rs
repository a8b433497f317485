//! The exchange of gradients while backward still computes: buckets leave as soon as they are complete. No I/O of its own.
//!
//! Guarantees: the bits of an exchange after compute, since buckets, what is done with each, and the order of addition are the
//! same; buckets go strictly in order, on every rank, so that collectives meet; those that backward has not reached (no samples,
//! parameters without a gradient) go when compute is over. After an error in compute nothing more is sent: a group must not
//! commit a sum that lacks a rank. Assumptions: nobody else uses the communicator meanwhile.

use std::ops::Range;
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use torch_ext::LentGradients;

use super::{DenseExchange, ExchangeStatistics};
use crate::engine::{Communicator, EngineError};
use crate::learner::{Learner, LearnerError};
use crate::numeric::Real;

/// When a bucket was on the wire, waiting for slower ranks included, and what a compressed exchange works beside it.
#[derive(Debug, Clone, Copy)]
pub struct WireTime {
    /// The bucket's exchange began.
    pub began: Instant,
    /// It ended.
    pub ended: Instant,
}

/// What an exchange has come to.
#[derive(Debug, Clone, Default)]
pub struct Exchanged {
    /// Bytes and time.
    pub statistics: ExchangeStatistics,
    /// Bucket after bucket; empty for an exchange after compute.
    pub wire: Vec<WireTime>,
}

/// How compute and exchange went beside each other.
pub(super) struct Overlap {
    /// Bucket after bucket.
    pub(super) wire: Vec<WireTime>,
    /// When backward completed each bucket, if it did.
    completed: Vec<Option<Instant>>,
    /// When compute was over.
    computed: Instant,
}

impl Overlap {
    /// Seconds in exchanges of buckets.
    pub(super) fn seconds(&self) -> f64 {
        self.wire.iter().map(|wire| (wire.ended - wire.began).as_secs_f64()).sum()
    }

    /// Seconds by which the exchange outlasted compute.
    pub(super) fn added_seconds(&self) -> f64 {
        let ended = self.wire.last().map(|wire| wire.ended.saturating_duration_since(self.computed));
        ended.unwrap_or_default().as_secs_f64()
    }

    /// How long before the end of compute each bucket could have left, in seconds; nothing on a rank whose backward has
    /// completed none. A bucket follows those before it.
    pub(super) fn leads(&self) -> Option<Vec<f64>> {
        self.completed.iter().any(Option::is_some).then(|| {
            let mut lead = f64::INFINITY;
            let of_bucket = |completed: &Option<Instant>| {
                let own =
                    completed.map_or(0.0, |at| self.computed.saturating_duration_since(at).as_secs_f64());
                lead = lead.min(own);
                lead
            };
            self.completed.iter().map(of_bucket).collect()
        })
    }
}

/// Runs `compute`, which contributes to the gradients of `learner` and says before the last contribution that it is the last
/// ([`Learner::last_is_next`]); meanwhile another thread calls `combine` with the number and the gradients of each of
/// `buckets`, in order, as soon as it is complete. After an error the gradients hold no sum.
pub(super) fn while_computing<T: Real, C, E>(
    learner: &mut Learner<T>,
    buckets: &[Range<usize>],
    compute: impl FnOnce(&mut Learner<T>) -> Result<C, E>,
    combine: impl FnMut(usize, &mut [T]) -> Result<(), EngineError> + Send,
) -> Result<(C, Overlap), E>
where
    E: From<EngineError> + From<LearnerError>,
{
    let (lent, loan) = learner.lend_gradients(buckets)?;
    thread::scope(|scope| {
        let wire = thread::Builder::new().name("gradients".to_owned());
        let wire = wire
            .spawn_scoped(scope, || combine_lent(lent, combine))
            .map_err(|error| lost_thread(&error.to_string()))?;
        let computed = compute(learner);
        let ended = Instant::now();
        // An error drops the loan instead, also in a panic: the other thread would wait for ever.
        if computed.is_ok() {
            loan.complete();
        } else {
            drop(loan);
        }
        let exchanged = join(wire);
        let computed = computed?;
        let (wire, completed) = exchanged?;
        Ok((computed, Overlap { wire, completed, computed: ended }))
    })
}

type Combined = Result<(Vec<WireTime>, Vec<Option<Instant>>), EngineError>;

/// Combines each bucket as soon as it is complete.
fn combine_lent<T: Real>(
    mut lent: LentGradients,
    mut combine: impl FnMut(usize, &mut [T]) -> Result<(), EngineError>,
) -> Combined {
    let mut wire: Vec<WireTime> = Vec::new();
    while let Some(bucket) = lent.next_part::<T>().map_err(|error| refused(&error))? {
        let began = Instant::now();
        combine(wire.len(), bucket)?;
        wire.push(WireTime { began, ended: Instant::now() });
    }
    Ok((wire, lent.completed()))
}

impl DenseExchange {
    /// Runs `compute`, which contributes to the gradients of `learner` and says before the last contribution that it is the
    /// last ([`Learner::last_is_next`]); meanwhile another thread replaces each bucket by its sum over the ranks of `comm`. The
    /// gradients are combined when this returns; after an error they hold no sum.
    pub fn combine_while<T: Real, C, E>(
        &self,
        comm: &mut dyn Communicator,
        learner: &mut Learner<T>,
        compute: impl FnOnce(&mut Learner<T>) -> Result<C, E>,
    ) -> Result<(C, Exchanged), E>
    where
        E: From<EngineError> + From<LearnerError>,
    {
        self.check(comm.world_size(), learner.flat().len())?;
        let sent_before = comm.bytes_sent();
        let combine = |_, bucket: &mut [T]| self.combine_bucket(comm, bucket);
        let (computed, overlap) = while_computing(learner, &self.ranges(), compute, combine)?;
        let statistics =
            ExchangeStatistics { bytes_sent: comm.bytes_sent() - sent_before, seconds: overlap.seconds() };
        Ok((computed, Exchanged { statistics, wire: overlap.wire }))
    }

    /// Elements of each bucket.
    pub(super) fn ranges(&self) -> Vec<Range<usize>> {
        self.buckets.iter().map(|bucket| bucket.range.clone()).collect()
    }
}

fn join(wire: ScopedJoinHandle<'_, Combined>) -> Combined {
    wire.join().unwrap_or_else(|_| Err(lost_thread("it has panicked")))
}

fn lost_thread(reason: &str) -> EngineError {
    let message = format!("the thread that exchanges gradients is lost: {reason}");
    EngineError::Argument { operation: "combine", message }
}

fn refused(error: &torch_ext::Error) -> EngineError {
    EngineError::Argument { operation: "combine", message: error.to_string() }
}

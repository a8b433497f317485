//! The exchange of gradients while backward still computes: buckets leave as soon as they are complete. No I/O of its own.
//!
//! Guarantees: the bits of [`DenseExchange::combine`] after compute, since buckets and order of addition are the same;
//! buckets go strictly in order, on every rank, so that collectives meet; those that backward has not reached (no samples,
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

/// When a bucket was on the wire, waiting for slower ranks included.
#[derive(Debug, Clone, Copy)]
pub struct WireTime {
    /// The collective began.
    pub began: Instant,
    /// It ended.
    pub ended: Instant,
}

/// What an exchange has come to.
#[derive(Debug, Clone, Default)]
pub struct Exchanged {
    /// Bytes and time.
    pub statistics: ExchangeStatistics,
    /// Bucket after bucket; empty where the exchange does not go by buckets of its own.
    pub wire: Vec<WireTime>,
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
        let parts: Vec<Range<usize>> = self.buckets.iter().map(|bucket| bucket.range.clone()).collect();
        let (lent, loan) = learner.lend_gradients(&parts)?;
        thread::scope(|scope| {
            let wire = thread::Builder::new().name("gradients".to_owned());
            let wire = wire
                .spawn_scoped(scope, || self.combine_lent::<T>(comm, lent))
                .map_err(|error| lost_thread(&error.to_string()))?;
            let computed = compute(learner);
            // An error drops the loan instead, also in a panic: the other thread would wait for ever.
            if computed.is_ok() {
                loan.complete();
            } else {
                drop(loan);
            }
            let exchanged = join(wire);
            Ok((computed?, exchanged?))
        })
    }

    /// Each bucket's sum over the ranks, as soon as the bucket is complete.
    fn combine_lent<T: Real>(
        &self,
        comm: &mut dyn Communicator,
        mut lent: LentGradients,
    ) -> Result<Exchanged, EngineError> {
        let sent_before = comm.bytes_sent();
        let mut exchanged = Exchanged::default();
        while let Some(bucket) = lent.next_part::<T>().map_err(|error| refused(&error))? {
            let began = Instant::now();
            comm.all_reduce_sum(T::values_mut(bucket), self.order)?;
            exchanged.wire.push(WireTime { began, ended: Instant::now() });
        }
        let seconds = exchanged.wire.iter().map(|wire| (wire.ended - wire.began).as_secs_f64());
        exchanged.statistics =
            ExchangeStatistics { bytes_sent: comm.bytes_sent() - sent_before, seconds: seconds.sum() };
        Ok(exchanged)
    }
}

fn join(wire: ScopedJoinHandle<'_, Result<Exchanged, EngineError>>) -> Result<Exchanged, EngineError> {
    wire.join().unwrap_or_else(|_| Err(lost_thread("it has panicked")))
}

fn lost_thread(reason: &str) -> EngineError {
    let message = format!("the thread that exchanges gradients is lost: {reason}");
    EngineError::Argument { operation: "combine", message }
}

fn refused(error: &torch_ext::Error) -> EngineError {
    EngineError::Argument { operation: "combine", message: error.to_string() }
}

//! How a reduction combines what the ranks give.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use crate::communicator::Communicator;
use crate::error::Error;
use crate::memory::Element;
use crate::sys;

/// NCCL's own reductions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum. The order of its additions is NCCL's, so that its bits depend on ranks, lengths and machines.
    Sum,
    /// The product.
    Product,
    /// The greatest.
    Max,
    /// The least.
    Min,
    /// The sum divided by the number of ranks.
    Average,
}

/// What an all-reduce or reduce-scatter of `T` takes: a [`ReduceOp`] or a reference to a [`PreMultipliedSum`].
pub trait Operator<T: Element>: Raw {}

impl<T: Element> Operator<T> for ReduceOp {}

impl<T: Element> Operator<T> for &PreMultipliedSum<'_, T> {}

mod sealed {
    use super::{Communicator, Error, c_int};

    pub trait Raw {
        /// NCCL's number for it on this communicator.
        fn raw(self, operation: &'static str, comm: &Communicator) -> Result<c_int, Error>;
    }
}

pub(crate) use sealed::Raw;

impl Raw for ReduceOp {
    fn raw(self, _operation: &'static str, _comm: &Communicator) -> Result<c_int, Error> {
        Ok(match self {
            Self::Sum => sys::SUM,
            Self::Product => sys::PROD,
            Self::Max => sys::MAX,
            Self::Min => sys::MIN,
            Self::Average => sys::AVG,
        })
    }
}

/// A sum to which this rank's numbers go multiplied by a factor of its own, such as its weight. Made by
/// [`Communicator::pre_multiplied_sum`].
#[derive(Debug)]
pub struct PreMultipliedSum<'c, T> {
    comm: &'c Communicator,
    op: c_int,
    element: PhantomData<T>,
}

impl<T> Raw for &PreMultipliedSum<'_, T> {
    fn raw(self, operation: &'static str, comm: &Communicator) -> Result<c_int, Error> {
        if std::ptr::eq(self.comm, comm) {
            return Ok(self.op);
        }
        Err(Error::argument(operation, "op is a pre-multiplied sum of another communicator"))
    }
}

impl Communicator {
    /// Makes a sum to which this rank gives `factor` times its numbers. Every rank makes its own, with any factor.
    pub fn pre_multiplied_sum<T: Element>(&self, factor: T) -> Result<PreMultipliedSum<'_, T>, Error> {
        const OPERATION: &str = "pre_multiplied_sum";
        let (mut op, mut factor) = (0, factor);
        self.shared().call(OPERATION, |functions, comm| {
            let scalar = (&raw mut factor).cast::<c_void>();
            // SAFETY: the communicator is live; the factor is in host memory and read before the call returns.
            unsafe {
                (functions.red_op_create_pre_mul_sum)(
                    &raw mut op,
                    scalar,
                    T::TYPE.raw(),
                    sys::SCALAR_HOST_IMMEDIATE,
                    comm,
                )
            }
        })?;
        Ok(PreMultipliedSum { comm: self, op, element: PhantomData })
    }
}

impl<T> Drop for PreMultipliedSum<'_, T> {
    fn drop(&mut self) {
        self.comm.shared().release(|functions, comm| {
            // SAFETY: made on this live communicator and ended once; calls that used it have returned, since they borrow
            // it.
            unsafe { (functions.red_op_destroy)(self.op, comm) }
        });
    }
}

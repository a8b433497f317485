//! The pure training decisions of ScaDLES: rates, windows, batches, weights, the step agreement, the stream ledger,
//! the producer's schedule, the exchange layout and the counters of accuracy.
//!
//! Nothing here does I/O, reads a clock, starts a thread or draws hidden randomness. Time is `f64` seconds since the
//! attempt began, randomness is a seed; the same arguments give the same bits on every machine. That is why the virtual
//! clock, the replay and the live run can share this code.
//!
//! | module | decides |
//! |---|---|
//! | [`rate`] | how quickly samples arrive, from end offsets |
//! | [`batch`] | when a device's window ends and how many samples it trains |
//! | [`agree`] | what all ranks do next: step, wait or stop |
//! | [`weights`], [`learning_rate`] | aggregation weights, the step's learning rate |
//! | [`partition_queue`], [`device_stream`], [`ledger`] | which samples are trained, in which order, and that none is unaccounted for |
//! | [`inject`] | which samples devices share, and who trains them |
//! | [`norm_statistics`] | the running statistics of BatchNorm over all ranks |
//! | [`outlook`] | which sample is expected in which row of the coming batch |
//! | [`schedule`], [`rates`] | what a simulated stream sends; the papers' rate sets |
//! | [`augment`] | the random crop and flip of one sample |
//! | [`compress`] | top-k with error feedback, the gate, the sparse wire format, which exchange |
//! | [`exchange_plan`] | buckets, owner ranges, the order of addition |
//! | [`evaluate`] | Top-k, per-class and prequential accuracy |
//! | [`buffer_state`] | the word for a device's buffer |
//! | [`sim`] | step times, waits, buffers and bytes on a virtual clock |
// The tests ask for the same bits, not for about the same number: that is the claim.
#![cfg_attr(test, allow(clippy::float_cmp))]

pub mod agree;
pub mod augment;
pub mod batch;
pub mod buffer_state;
pub mod compress;
pub mod device_stream;
pub mod evaluate;
pub mod ewma;
pub mod exchange_plan;
pub mod inject;
pub mod learning_rate;
pub mod ledger;
pub mod norm_statistics;
pub mod outlook;
pub mod partition_queue;
pub mod random;
pub mod rate;
pub mod rates;
pub mod schedule;
pub mod sim;
pub mod weights;

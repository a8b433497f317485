//! Two batch buffers used in turn: while a step computes and exchanges on one, a thread decodes what the stream will give
//! next into the other. Shell around [`scadles_core::outlook`] and [`BatchAssembler`].
//!
//! # Guarantees
//! A batch has the bits that plain assembly gives: a row that was decoded ahead is kept only if it holds the very sample
//! (partition, offset, epoch) that the fixed batch has there; all else, be it late, dropped or expected elsewhere, is
//! decoded when the batch is fixed. Nothing leaves the stream here. The thread looks for an order after every
//! chunk of 32 samples and never holds the stream's lock while it decodes, so that whoever wants the buffer back waits for
//! one chunk at most; it ends with the buffers.
//!
//! # Caveats
//! Where a batch comes from several partitions, all rows but those of the first shift when its size is not that of the
//! batch before: they are decoded again. With one partition, or `Fixed` batches, everything that came in time is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use scadles_api::WorkerConfig;
use scadles_api::worker::{SampleShape, Transform};
use scadles_core::augment::{SampleIdentity, augmentation};
use scadles_core::outlook::Outlook;

use crate::batch::{Batch, BatchAssembler, BatchError, SampleRef};
use crate::source::{Chunk, Peeked, Reader, Sample, Source};

/// Samples that are copied under one lock and decoded before the next look for an order: about 100 KB of CIFAR-10.
const CHUNK: usize = 32;
/// How often the thread looks for samples that have arrived. Being woken by each of them would cost more than decoding.
const LOOK: Duration = Duration::from_millis(10);

/// From a record to a sample of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleMaker {
    /// Seed of the job.
    pub seed: u64,
    /// Device number in the job.
    pub device: u64,
    /// Pixels around a picture, within which it is cropped at random.
    pub padding: u32,
    /// Whether half of the pictures are mirrored.
    pub horizontal_flip: bool,
}

impl SampleMaker {
    /// As a worker's configuration says.
    pub fn of_worker(config: &WorkerConfig) -> Self {
        let (job, transform) = (&config.job, &config.job.stream.transform);
        Self {
            seed: job.training.seed,
            device: config.device_index as u64,
            padding: transform.random_crop_padding,
            horizontal_flip: transform.horizontal_flip,
        }
    }

    /// The maker of another device's samples.
    #[must_use]
    pub fn of_device(self, device: u64) -> Self {
        Self { device, ..self }
    }

    /// The sample as it looks in `epoch`.
    pub fn sample<'a>(&self, sample: Sample<'a>, epoch: u64) -> (SampleIdentity, SampleRef<'a>) {
        let Sample { partition, offset, payload } = sample;
        let identity = SampleIdentity { device: self.device, partition, offset, epoch };
        let augmentation = augmentation(self.seed, identity, self.padding, self.horizontal_flip);
        (identity, SampleRef { payload, augmentation })
    }
}

/// Where the samples of a batch were decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeCounts {
    /// By the thread, before the batch was fixed.
    pub ahead: u64,
    /// By the training thread, afterwards.
    pub late: u64,
}

/// What the thread is asked for.
enum Order {
    /// Decode until the buffer is asked for.
    Decode { buffer: Box<BatchAssembler<f32>>, outlook: Outlook, epoch: u64 },
    /// Give the buffer back, however far it is.
    Return,
}

/// The two buffers, seen from the training thread.
///
/// Each has room for `max_batch` samples at 4 bytes a value and 48 beside them: 12 MiB for 1,024 pictures of CIFAR-10, so
/// 24 MiB for both. The pages of a tensor that no batch has reached are never touched and cost nothing.
pub struct BatchBuffers {
    maker: SampleMaker,
    current: BatchAssembler<f32>,
    /// `None`: the thread has it.
    spare: Option<BatchAssembler<f32>>,
    /// `None`: all is over.
    orders: Option<Sender<Order>>,
    returned: Receiver<BatchAssembler<f32>>,
    prepared: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl BatchBuffers {
    /// Room for two batches of up to `max_batch` samples, and the thread, which reads from `reader`.
    pub fn new(
        shape: &SampleShape,
        transform: &Transform,
        maker: SampleMaker,
        max_batch: usize,
        reader: Reader,
    ) -> Result<Self, BatchError> {
        let buffer = || BatchAssembler::new(shape, transform, max_batch);
        let (current, spare) = (buffer()?, buffer()?);
        let (orders, taken) = channel();
        let (sender, returned) = channel();
        let prepared = Arc::new(AtomicU64::new(0));
        let decoder =
            Decoder { maker, reader, orders: taken, returned: sender, prepared: Arc::clone(&prepared) };
        let thread = std::thread::Builder::new().name("decode".to_owned()).spawn(move || decoder.run());
        let thread = thread.map_err(|error| BatchError::Thread { reason: error.to_string() })?;
        let (spare, orders, thread) = (Some(spare), Some(orders), Some(thread));
        Ok(Self { maker, current, spare, orders, returned, prepared, thread })
    }

    /// Makes `peeked`, which is fixed now, the current batch; one of no samples changes nothing.
    pub fn assemble(
        &mut self,
        source: &Source,
        peeked: &Peeked,
        epoch: u64,
    ) -> Result<DecodeCounts, BatchError> {
        if peeked.samples() == 0 {
            return Ok(DecodeCounts::default());
        }
        let mut buffer = self.take_spare()?;
        let maker = self.maker;
        let kept = source.with_samples(peeked, |samples| {
            buffer.complete(samples.map(|sample| maker.sample(sample, epoch)))
        });
        self.spare = Some(std::mem::replace(&mut self.current, buffer));
        let ahead = kept?;
        Ok(DecodeCounts { ahead, late: peeked.samples() - ahead })
    }

    /// From now on, until a batch is fixed, the thread decodes what comes behind `peeked` as it looks in `epoch`. To be
    /// called before `peeked` is committed. Behind a batch of no samples it goes on with what it has.
    pub fn decode_behind(&mut self, source: &Source, peeked: &Peeked, epoch: u64) -> Result<(), BatchError> {
        if peeked.samples() == 0 {
            return Ok(());
        }
        let buffer = Box::new(self.take_spare()?);
        let order = Order::Decode { buffer, outlook: source.outlook(peeked), epoch };
        if self.send(order) { Ok(()) } else { Err(thread_has_ended()) }
    }

    /// Whether the thread is there to take the order.
    fn send(&self, order: Order) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok())
    }

    /// The buffer that is not trained on.
    fn take_spare(&mut self) -> Result<BatchAssembler<f32>, BatchError> {
        if let Some(spare) = self.spare.take() {
            return Ok(spare);
        }
        // A thread that has ended hangs up on both channels: this cannot wait for ever.
        let buffer = if self.send(Order::Return) { self.returned.recv().ok() } else { None };
        buffer.ok_or_else(thread_has_ended)
    }

    /// The current batch.
    pub fn batch(&self) -> &Batch {
        self.current.batch()
    }

    /// Class numbers of the current batch.
    pub fn labels(&self) -> &[i64] {
        self.current.labels()
    }

    /// The first `kept` samples of the current batch are the current batch.
    pub fn keep(&mut self, kept: u64) -> Result<(), BatchError> {
        self.current.keep(kept as usize).map(|_| ())
    }

    /// Makes `samples` samples of other devices the current batch, each as it would look at home in `epoch`. They may be
    /// more than any own batch: a job can be tuned to share more than it began with.
    pub fn receive<'a>(
        &mut self,
        received: impl Iterator<Item = (usize, Sample<'a>)>,
        samples: u64,
        epoch: u64,
    ) -> Result<(), BatchError> {
        self.current.make_room(samples as usize)?;
        let maker = self.maker;
        let samples = received.map(|(device, sample)| maker.of_device(device as u64).sample(sample, epoch));
        self.current.complete(samples).map(|_| ())
    }

    /// Makes the current batch one of no samples.
    pub fn clear(&mut self) -> Result<(), BatchError> {
        self.current.assemble([]).map(|_| ())
    }

    /// Samples that the thread has decoded so far, kept in a batch or not.
    pub fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }
}

fn thread_has_ended() -> BatchError {
    BatchError::Thread { reason: "the thread has ended".to_owned() }
}

impl Drop for BatchBuffers {
    fn drop(&mut self) {
        // The thread ends when nobody can give it an order any more.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Decoder {
    maker: SampleMaker,
    reader: Reader,
    orders: Receiver<Order>,
    returned: Sender<BatchAssembler<f32>>,
    prepared: Arc<AtomicU64>,
}

impl Decoder {
    fn run(self) {
        // `Return` is only sent for a buffer that is out, and `decode` takes it.
        while let Ok(Order::Decode { mut buffer, mut outlook, epoch }) = self.orders.recv() {
            self.decode(&mut buffer, &mut outlook, epoch);
            if self.returned.send(*buffer).is_err() {
                return;
            }
        }
    }

    /// Until there is an order, or nobody left to give one.
    fn decode(&self, buffer: &mut BatchAssembler<f32>, outlook: &mut Outlook, epoch: u64) {
        let mut chunk = Chunk::default();
        loop {
            self.reader.copy_next(outlook, CHUNK, &mut chunk);
            let samples = chunk.samples().map(|(row, sample)| {
                let (identity, sample) = self.maker.sample(sample, epoch);
                (row, identity, sample)
            });
            if let Err(error) = buffer.prepare(samples) {
                // The training thread meets it again, if it matters, and can end the worker.
                tracing::debug!(%error, "failed to decode ahead");
            }
            self.prepared.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let patience = if chunk.is_empty() { LOOK } else { Duration::ZERO };
            if !matches!(self.orders.recv_timeout(patience), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

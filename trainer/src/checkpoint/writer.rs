//! Writes checkpoints beside the training: one thread, one snapshot at a time. Shell.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use scadles_api::CheckpointRef;

use super::error::CheckpointError;
use super::store::{CheckpointStore, Snapshot};
use crate::storage::mirror::{Extent, SharedMirror, push};

/// A background writer. At most one snapshot is being written and one waits; the training never waits for the disk
/// unless it is a whole checkpoint ahead of it.
pub struct CheckpointWriter {
    submit: Option<Sender<Snapshot>>,
    results: Receiver<Result<CheckpointRef, CheckpointError>>,
    pending: usize,
    thread: Option<JoinHandle<()>>,
}

/// Snapshots that may be on their way at once: each is a copy of the model.
const MAX_PENDING: usize = 2;

impl CheckpointWriter {
    /// Starts the thread. `mirror` is brought up to date before each write: what a checkpoint needs of the results is where
    /// the checkpoint is. After each write all but checkpoint 0, the newest `keep` checkpoints of the same job and those
    /// named by `spared` are removed. `spared` is asked after each write: a supervisor may start the next attempt from a
    /// checkpoint that it heard of some time ago.
    pub fn start(
        store: CheckpointStore,
        mirror: SharedMirror,
        keep: usize,
        spared: impl Fn() -> Vec<String> + Send + 'static,
    ) -> Result<Self, CheckpointError> {
        let place = store.root();
        let (submit, snapshots) = channel::<Snapshot>();
        let (report, results) = channel();
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                for snapshot in snapshots {
                    let result = push(&mirror, Extent::Due)
                        .and_then(|()| write_and_prune(&store, snapshot, keep, &spared));
                    if report.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| CheckpointError::Open { place, reason: format!("no thread: {error}") })?;
        Ok(Self { submit: Some(submit), results, pending: 0, thread: Some(thread) })
    }

    /// Hands a snapshot over. If two are on their way already, waits for the older one and returns its result.
    pub fn submit(&mut self, snapshot: Snapshot) -> Result<Option<CheckpointRef>, CheckpointError> {
        let finished = if self.pending == MAX_PENDING { Some(self.wait()?) } else { None };
        let sender = self.submit.as_ref().ok_or(CheckpointError::WriterEnded)?;
        sender.send(snapshot).map_err(|_| CheckpointError::WriterEnded)?;
        self.pending += 1;
        Ok(finished)
    }

    /// The next finished checkpoint, in the order of submission, if one is finished. Never waits.
    pub fn poll(&mut self) -> Result<Option<CheckpointRef>, CheckpointError> {
        if self.pending == 0 {
            return Ok(None);
        }
        match self.results.try_recv() {
            Ok(result) => {
                self.pending -= 1;
                result.map(Some)
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(CheckpointError::WriterEnded),
        }
    }

    /// Waits until everything submitted is written; the last reference, if anything was pending.
    pub fn finish(&mut self) -> Result<Option<CheckpointRef>, CheckpointError> {
        let mut last = None;
        while self.pending > 0 {
            last = Some(self.wait()?);
        }
        Ok(last)
    }

    fn wait(&mut self) -> Result<CheckpointRef, CheckpointError> {
        let result = self.results.recv().map_err(|_| CheckpointError::WriterEnded)?;
        self.pending -= 1;
        result
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        self.submit = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported as `WriterEnded`; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

/// A checkpoint that is written counts, whether or not old ones could be removed.
fn write_and_prune(
    store: &CheckpointStore,
    snapshot: Snapshot,
    keep: usize,
    spared: &impl Fn() -> Vec<String>,
) -> Result<CheckpointRef, CheckpointError> {
    let reference = store.write(snapshot)?;
    match store.prune(&reference.job_uid, keep, &spared()) {
        Ok(removed) if !removed.is_empty() => tracing::debug!(?removed, "pruned checkpoints"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "old checkpoints stay"),
    }
    Ok(reference)
}

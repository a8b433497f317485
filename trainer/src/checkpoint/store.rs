//! Where checkpoints lie: folders of this machine, or a bucket. Shell.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use scadles_api::worker::CheckpointConfig;
use scadles_api::{CheckpointRef, PROTOCOL_VERSION};
use tokio::runtime::Runtime;

use super::error::CheckpointError;
use super::manifest::{FileEntry, Manifest};
use crate::storage;

/// The network's parameters.
pub const MODEL_FILE: &str = "model.safetensors";
/// The optimiser's momentum, in tensors of the same names.
pub const MOMENTUM_FILE: &str = "momentum.safetensors";
/// Written last.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What is saved, and loaded again bit for bit. The tensors are safetensors files, see
/// [`crate::learner::Learner::encode`].
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Everything beside the tensors. `manifest.files` is filled in by the store.
    pub manifest: Manifest,
    /// Bytes of [`MODEL_FILE`].
    pub model: Vec<u8>,
    /// Bytes of [`MOMENTUM_FILE`].
    pub momentum: Vec<u8>,
    /// Per rank, the bytes of its residual's file, in tensors of the same names; empty where nothing was kept back.
    pub residuals: Vec<Vec<u8>>,
}

/// Where the root is.
enum Root {
    Folder(PathBuf),
    /// Its URL.
    Bucket(String),
}

/// The checkpoints below one root.
///
/// Guarantees: a checkpoint that `list`, `latest` or `load` sees is complete and was durable (file contents and
/// directory entries synced; in a bucket: acknowledged) before its manifest appeared; a manifest is never overwritten.
/// Caveat: calls block, and must not be made from within an async task.
pub struct CheckpointStore {
    root: Root,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl CheckpointStore {
    /// Opens the store of a job.
    pub fn of(config: &CheckpointConfig) -> Result<Self, CheckpointError> {
        let Some(bucket) = &config.bucket else { return Self::open(&config.root) };
        let (store, runtime) =
            storage::open(bucket).map_err(|reason| CheckpointError::Open { place: bucket.url(), reason })?;
        Ok(Self { root: Root::Bucket(bucket.url()), store, runtime })
    }

    /// Opens the store at `root`, a folder that is made if it is missing.
    pub fn open(root: &FilePath) -> Result<Self, CheckpointError> {
        let failed = |reason: String| CheckpointError::Open { place: root.display().to_string(), reason };
        std::fs::create_dir_all(root).map_err(|error| failed(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(|error| failed(error.to_string()))?;
        // No worker threads: every call blocks its own.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| failed(format!("no runtime for file access: {error}")))?;
        Ok(Self { root: Root::Folder(root.to_owned()), store: Arc::new(store.with_fsync(true)), runtime })
    }

    /// The root, for messages.
    pub fn root(&self) -> String {
        self.place_of(&[])
    }

    /// Writes all files of `snapshot`, the manifest last. A half-written folder of the same name is overwritten.
    pub fn write(&self, snapshot: Snapshot) -> Result<CheckpointRef, CheckpointError> {
        let Snapshot { mut manifest, model, momentum, residuals } = snapshot;
        let reference = manifest.reference();
        // What cannot be looked at will fail to be written, with the right message.
        if matches!(self.is_complete(&reference), Ok(true)) {
            return Err(CheckpointError::Exists { place: self.place(&reference, MANIFEST_FILE) });
        }
        manifest.files.clear();
        let tensors = [(MODEL_FILE.to_owned(), model), (MOMENTUM_FILE.to_owned(), momentum)];
        let residuals = residuals.into_iter().enumerate().map(|(rank, bytes)| (residual_file(rank), bytes));
        for (name, bytes) in tensors.into_iter().chain(residuals) {
            let len = bytes.len() as u64;
            self.put(&reference, &name, bytes, PutMode::Overwrite)?;
            manifest.files.push(FileEntry { name, bytes: len });
        }
        let place = self.place(&reference, MANIFEST_FILE);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| CheckpointError::Write { place, reason: error.to_string() })?;
        self.put_manifest(&reference, text)?;
        Ok(reference)
    }

    /// Writes a manifest, unless another writer has: the store itself decides who was first.
    pub(super) fn put_manifest(
        &self,
        reference: &CheckpointRef,
        text: Vec<u8>,
    ) -> Result<(), CheckpointError> {
        self.put(reference, MANIFEST_FILE, text, PutMode::Create)
    }

    /// Loads one checkpoint and checks that it is whole and of the named job.
    pub fn load(&self, reference: &CheckpointRef) -> Result<Snapshot, CheckpointError> {
        let manifest = self.manifest(reference)?;
        let read = |name: &str| -> Result<Vec<u8>, CheckpointError> {
            let bytes = self.get(reference, name)?;
            let expected = manifest.files.iter().find(|file| file.name == name).map(|file| file.bytes);
            if expected == Some(bytes.len() as u64) {
                return Ok(bytes);
            }
            let reason = match expected {
                Some(expected) => format!("it has {} bytes, the manifest says {expected}", bytes.len()),
                None => "the manifest does not name it".to_owned(),
            };
            Err(CheckpointError::Damaged { place: self.place(reference, name), reason })
        };
        let (model, momentum) = (read(MODEL_FILE)?, read(MOMENTUM_FILE)?);
        let is_there = |name: &String| manifest.files.iter().any(|file| file.name == *name);
        let files = (0..manifest.devices.len()).map(residual_file).filter(is_there);
        let residuals = files.map(|name| read(&name)).collect::<Result<_, _>>()?;
        Ok(Snapshot { manifest, model, momentum, residuals })
    }

    /// The manifest alone.
    pub fn manifest(&self, reference: &CheckpointRef) -> Result<Manifest, CheckpointError> {
        let text = self.get(reference, MANIFEST_FILE)?;
        let damaged =
            |reason| Err(CheckpointError::Damaged { place: self.place(reference, MANIFEST_FILE), reason });
        let manifest: Manifest = match serde_json::from_slice(&text) {
            Ok(manifest) => manifest,
            Err(error) => return damaged(error.to_string()),
        };
        if manifest.protocol != PROTOCOL_VERSION {
            return damaged(format!(
                "it has protocol {}, this program {PROTOCOL_VERSION}",
                manifest.protocol
            ));
        }
        if manifest.job_uid != reference.job_uid || manifest.name() != reference.name {
            return damaged(format!("it describes {}/{}", manifest.job_uid, manifest.name()));
        }
        Ok(manifest)
    }

    /// The complete checkpoints of a job, oldest first (attempt, then step).
    pub fn list(&self, job_uid: &str) -> Result<Vec<CheckpointRef>, CheckpointError> {
        let mut references = Vec::new();
        for name in self.folders(job_uid)? {
            let Some((_, step)) = parse_name(&name) else { continue };
            let reference = CheckpointRef { job_uid: job_uid.to_owned(), name, step, restart_streams: false };
            if self.is_complete(&reference)? {
                references.push(reference);
            }
        }
        references.sort_by_key(|reference| parse_name(&reference.name));
        Ok(references)
    }

    /// The newest complete checkpoint of a job: of the highest attempt, since an attempt continues the checkpoint that
    /// it loaded and supersedes later ones of attempts before it.
    pub fn latest(&self, job_uid: &str) -> Result<Option<CheckpointRef>, CheckpointError> {
        Ok(self.list(job_uid)?.pop())
    }

    /// Removes all but checkpoint 0, the newest `keep` (at least one) complete checkpoints and those in `spared`, and
    /// half-written ones that are older than the newest complete one. Returns the names removed.
    pub fn prune(
        &self,
        job_uid: &str,
        keep: usize,
        spared: &[String],
    ) -> Result<Vec<String>, CheckpointError> {
        let complete = self.list(job_uid)?;
        let Some(newest) = complete.last() else { return Ok(Vec::new()) };
        let kept: Vec<&str> =
            complete.iter().rev().take(keep.max(1)).map(|kept| kept.name.as_str()).collect();
        let mut removed = Vec::new();
        for name in self.folders(job_uid)? {
            let Some(age) = parse_name(&name) else { continue };
            let is_complete = complete.iter().any(|reference| reference.name == name);
            let goes = if is_complete {
                age.1 != 0 && !kept.contains(&name.as_str()) && !spared.contains(&name)
            } else {
                Some(age) < parse_name(&newest.name)
            };
            if goes {
                self.remove(job_uid, &name)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Removes one checkpoint, its manifest first, so that what is left over counts as half-written.
    fn remove(&self, job_uid: &str, name: &str) -> Result<(), CheckpointError> {
        let folder = Path::from_iter([job_uid, name]);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&folder)));
        let failed = |error: &object_store::Error| CheckpointError::Write {
            place: self.place_of(&[job_uid, name]),
            reason: storage::reason(error),
        };
        let others =
            listed.map_err(|error| failed(&error))?.objects.into_iter().map(|object| object.location);
        for path in std::iter::once(folder.clone().join(MANIFEST_FILE)).chain(others) {
            match self.runtime.block_on(self.store.delete(&path)) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        // Only a folder can be left over.
        let Root::Folder(root) = &self.root else { return Ok(()) };
        let folder = root.join(job_uid).join(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::Write { place: folder.display().to_string(), reason: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn folders(&self, job_uid: &str) -> Result<Vec<String>, CheckpointError> {
        let prefix = Path::from(job_uid);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&prefix)));
        let listed = listed.map_err(|error| CheckpointError::Read {
            place: self.place_of(&[job_uid]),
            reason: storage::reason(&error),
        })?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    fn is_complete(&self, reference: &CheckpointRef) -> Result<bool, CheckpointError> {
        let path = Path::from_iter([&reference.job_uid, &reference.name, MANIFEST_FILE]);
        match self.runtime.block_on(self.store.head(&path)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.unread(reference, MANIFEST_FILE, &error)),
        }
    }

    fn put(
        &self,
        reference: &CheckpointRef,
        name: &str,
        bytes: Vec<u8>,
        mode: PutMode,
    ) -> Result<(), CheckpointError> {
        let path = Path::from_iter([&reference.job_uid, &reference.name, name]);
        let options = PutOptions { mode, ..PutOptions::default() };
        let place = self.place(reference, name);
        match self.runtime.block_on(self.store.put_opts(&path, bytes.into(), options)) {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => Err(CheckpointError::Exists { place }),
            Err(error) => Err(CheckpointError::Write { place, reason: storage::reason(&error) }),
        }
    }

    fn get(&self, reference: &CheckpointRef, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let path = Path::from_iter([&reference.job_uid, &reference.name, name]);
        let bytes = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
        bytes.map(Into::into).map_err(|error| self.unread(reference, name, &error))
    }

    fn unread(&self, reference: &CheckpointRef, name: &str, error: &object_store::Error) -> CheckpointError {
        match error {
            object_store::Error::NotFound { .. } => {
                CheckpointError::Missing { place: self.place_of(&[&reference.job_uid, &reference.name]) }
            }
            _ => CheckpointError::Read { place: self.place(reference, name), reason: storage::reason(error) },
        }
    }

    fn place(&self, reference: &CheckpointRef, name: &str) -> String {
        self.place_of(&[&reference.job_uid, &reference.name, name])
    }

    /// A place below the root, for messages.
    fn place_of(&self, steps: &[&str]) -> String {
        match &self.root {
            Root::Folder(root) => root.join(steps.join("/")).display().to_string(),
            Root::Bucket(url) => [&[url.as_str()], steps].concat().join("/"),
        }
    }
}

/// Name of the file that holds what compression kept back on `rank`. Pure.
fn residual_file(rank: usize) -> String {
    format!("residual-{rank:04}.safetensors")
}

/// (attempt, step) of a checkpoint's name; `None` for other folders. Pure.
pub fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (attempt, step) = name.split_once('-')?;
    Some((attempt.parse().ok()?, step.parse().ok()?))
}

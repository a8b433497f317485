//! The folder of results, copied to a bucket with each checkpoint and in the end: what a later attempt, on another machine,
//! goes on with. Shell.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use futures_util::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use scadles_api::worker::BucketConfig;
use tokio::runtime::Runtime;

use super::{open, reason};
use crate::checkpoint::{CheckpointError, store::parse_name};

/// Half-written files end so.
const HALF: &str = "part";
/// Grows with every step and is sent whole: only when it has grown by an eighth, so that all that is ever sent of it stays
/// within nine times its size.
const SELDOM: &str = "steps.csv";

/// A file as it was when it was last sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    bytes: u64,
    modified: SystemTime,
}

/// A folder and its copy.
///
/// Guarantee: after a push every file of the folder is in the bucket, as it was at some moment of that push; but
/// `steps.csv`, see [`Extent::Due`].
/// Caveat: calls block, and must not be made from within an async task.
pub struct Mirror {
    folder: PathBuf,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    /// Of the copy, for messages.
    place: String,
    /// Folder of the copy within the store.
    prefix: Path,
    sent: BTreeMap<String, Sent>,
}

/// A mirror that training and the writer of checkpoints share; `None`: the folder is where it stays.
pub type SharedMirror = Option<Arc<Mutex<Mirror>>>;

/// How much a push sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What has changed, `steps.csv` only when it has grown by an eighth.
    Due,
    /// All that has changed.
    All,
}

/// Copies what has changed.
pub fn push(mirror: &SharedMirror, extent: Extent) -> Result<(), CheckpointError> {
    let Some(mirror) = mirror else { return Ok(()) };
    mirror.lock().unwrap_or_else(PoisonError::into_inner).push(extent).map(drop)
}

impl Mirror {
    /// The mirror of the results of the job `uid`, between `folder` and `bucket`.
    pub fn open(bucket: &BucketConfig, uid: &str, folder: &FilePath) -> Result<Self, CheckpointError> {
        let place = format!("{}/{uid}", bucket.url());
        let (store, runtime) =
            open(bucket).map_err(|reason| CheckpointError::Open { place: place.clone(), reason })?;
        let prefix = Path::from(uid);
        Ok(Self { folder: folder.to_owned(), store, runtime, place, prefix, sent: BTreeMap::new() })
    }

    /// Brings what the bucket has and the folder has not. How many files.
    pub fn pull(&mut self) -> Result<usize, CheckpointError> {
        let listed = self.runtime.block_on(self.store.list(Some(&self.prefix)).collect::<Vec<_>>());
        let mut brought = 0;
        for entry in listed {
            let path = entry.map_err(|error| unread(&self.place, &error))?.location;
            let Some(name) = self.name_of(&path) else { continue };
            let local = self.folder.join(&name);
            if local.exists() {
                continue;
            }
            let bytes = self.runtime.block_on(async { self.store.get(&path).await?.bytes().await });
            let bytes = bytes.map_err(|error| unread(&self.remote(&name), &error))?;
            write(&local, &bytes).map_err(|error| unwritten(&local, &error))?;
            let sent = look(&local).map_err(|error| unread_file(&local, &error))?;
            self.sent.extend(sent.map(|sent| (name, sent)));
            brought += 1;
        }
        Ok(brought)
    }

    /// Sends what is new or has changed, and removes what is gone. How many files were sent.
    pub fn push(&mut self, extent: Extent) -> Result<usize, CheckpointError> {
        let names = files_below(&self.folder).map_err(|error| unread_file(&self.folder, &error))?;
        let mut count = 0;
        for name in &names {
            let local = self.folder.join(name);
            // A file that was there a moment ago may be gone.
            let Some(now) = look(&local).map_err(|error| unread_file(&local, &error))? else { continue };
            if !self.is_due(name, now, extent) {
                continue;
            }
            let bytes = read(&local, now.bytes).map_err(|error| unread_file(&local, &error))?;
            let path = self.path_of(name);
            self.runtime.block_on(self.store.put(&path, bytes.into())).map_err(|error| {
                CheckpointError::Write { place: self.remote(name), reason: reason(&error) }
            })?;
            self.sent.insert(name.clone(), now);
            count += 1;
        }
        self.forget_all_but(&names)?;
        Ok(count)
    }

    fn is_due(&self, name: &str, now: Sent, extent: Extent) -> bool {
        let Some(before) = self.sent.get(name) else { return true };
        let seldom = extent == Extent::Due && name == SELDOM;
        *before != now && !(seldom && now.bytes < before.bytes + before.bytes / 8)
    }

    fn forget_all_but(&mut self, names: &BTreeSet<String>) -> Result<(), CheckpointError> {
        let gone: Vec<String> = self.sent.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            match self.runtime.block_on(self.store.delete(&self.path_of(&name))) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => drop(self.sent.remove(&name)),
                Err(error) => {
                    return Err(CheckpointError::Write { place: self.remote(&name), reason: reason(&error) });
                }
            }
        }
        Ok(())
    }

    /// Name of an object within the folder; `None` for checkpoints, which may lie beside the results.
    fn name_of(&self, path: &Path) -> Option<String> {
        let steps: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let is_checkpoint = steps.first().is_some_and(|first| parse_name(first.as_ref()).is_some());
        let name = steps.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
        (!is_checkpoint && !name.is_empty()).then_some(name)
    }

    fn path_of(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    fn remote(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }
}

fn unread(place: &str, error: &object_store::Error) -> CheckpointError {
    CheckpointError::Read { place: place.to_owned(), reason: reason(error) }
}

/// Relative names of all whole files.
fn files_below(folder: &FilePath) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if name.extension().is_none_or(|extension| extension != HALF) {
                names.extend(name.to_str().map(str::to_owned));
            }
        }
    }
    Ok(names)
}

fn look(path: &FilePath) -> io::Result<Option<Sent>> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(Sent { bytes: metadata.len(), modified: metadata.modified()? })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first `bytes` of a file. One of lines, which may be growing, up to its last whole line.
fn read(path: &FilePath, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(bytes).read_to_end(&mut content)?;
    if path.extension().is_some_and(|extension| extension == "jsonl" || extension == "csv") {
        let end = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        content.truncate(end);
    }
    Ok(content)
}

/// Whoever sees the file sees all of it.
fn write(path: &FilePath, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = path.with_extension(HALF);
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

fn unread_file(path: &FilePath, error: &io::Error) -> CheckpointError {
    CheckpointError::Read { place: path.display().to_string(), reason: error.to_string() }
}

fn unwritten(path: &FilePath, error: &io::Error) -> CheckpointError {
    CheckpointError::Write { place: path.display().to_string(), reason: error.to_string() }
}

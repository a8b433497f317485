//! From a stream of `tar` to files, and a look at whether the model is the right one. Blocking.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tempfile::TempDir;

use super::MODEL;
use crate::failure::{Failure, Result};

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 16;

/// What has come.
#[derive(Debug)]
pub struct Unpacked {
    /// The folder that holds it.
    pub folder: TempDir,
    /// Files and their bytes, in the order of their coming.
    pub files: Vec<(PathBuf, u64)>,
    /// SHA-256 of the model, hexadecimal; `None`: there was none.
    pub model_sha256: Option<String>,
}

/// How far a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Its name within the folder.
    pub name: String,
    /// Bytes that are here.
    pub here: u64,
    /// Bytes in all.
    pub all: u64,
}

/// Writes the files of `stream` into `folder`. `tell` hears of every chunk.
///
/// Only files and folders are taken, and only those whose path stays within the folder.
pub fn unpack(stream: impl Read, folder: TempDir, tell: impl Fn(Coming)) -> Result<Unpacked> {
    let mut unpacked = Unpacked { folder, files: Vec::new(), model_sha256: None };
    let mut archive = Archive::new(stream);
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let kind = entry.header().entry_type();
        let name = entry.path().map_err(|error| broken(&error))?.into_owned();
        let Some(name) = within(&name) else { continue };
        let path = unpacked.folder.path().join(&name);
        if kind == EntryType::Directory {
            fs::create_dir_all(&path).map_err(|error| Failure::write(&path, &error))?;
        } else if kind.is_file() || kind == EntryType::GNUSparse {
            let all = entry.size();
            let hash = copy(&mut entry, &path, |here| {
                tell(Coming { name: name.display().to_string(), here, all });
            })?;
            if name == Path::new(MODEL) {
                unpacked.model_sha256 = Some(hash);
            }
            unpacked.files.push((name, all));
        }
    }
    Ok(unpacked)
}

/// Compares the model with what the job says of it.
pub fn check(unpacked: &Unpacked, expected: Option<&str>, place: &str) -> Result<()> {
    let Some(found) = &unpacked.model_sha256 else {
        return Err(Failure::storage(
            format!("{place} holds no {MODEL}"),
            "somebody has removed it: the job's checkpoints may still have it",
        ));
    };
    match expected {
        Some(expected) if !expected.eq_ignore_ascii_case(found) => Err(Failure::storage(
            format!("{place}/{MODEL} has sha256 {found}, and the job wrote one with {expected}"),
            "fetch it again; if it stays like this, the file has been changed on the claim",
        )),
        _ => Ok(()),
    }
}

/// A path made of ordinary names only.
fn within(path: &Path) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!inner.as_os_str().is_empty()).then_some(inner)
}

/// Copies a file and returns its hash.
fn copy(from: &mut impl Read, path: &Path, tell: impl Fn(u64)) -> Result<String> {
    let failed = |error: io::Error| Failure::write(path, &error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(failed)?;
    let mut hash = Sha256::new();
    let (mut chunk, mut here) = (vec![0; CHUNK], 0);
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(&error)),
        };
        file.write_all(&chunk[..count]).map_err(failed)?;
        hash.update(&chunk[..count]);
        here += count as u64;
        tell(here);
    }
    Ok(hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

/// The stream is not what `tar` makes, or ends too early.
fn broken(error: &io::Error) -> Failure {
    Failure::storage(format!("the transfer broke off: {error}"), "try again; nothing was written")
}

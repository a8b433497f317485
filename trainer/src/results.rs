//! Files that a job leaves. Shell.

use std::{fs::File, io::Write, path::Path};

use scadles_api::ExitCode;
use sha2::{Digest, Sha256};

use crate::worker::Failure;

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Writes a file under another name first: whoever sees it sees all of it, also after a crash of the machine.
pub(crate) fn write_result(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|error| {
        Failure::new(ExitCode::StorageFailed, format!("failed to write {}: {error}", path.display()))
            .with_remedy(
                "make room on that disk and check its permissions; then go on from the last checkpoint",
            )
    })
}

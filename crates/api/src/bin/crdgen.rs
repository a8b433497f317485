//! Prints the custom resource definition, or writes it where the repository keeps it.
//!
//! `crdgen` prints; `crdgen ROOT` writes `ROOT/crds/scadlesjobs.scadles.io.yaml` and the chart's template. A test fails
//! when these files are not what this program writes.

use std::{fs, io::Write, path::Path, process::ExitCode};

use scadles_api::crd;

fn main() -> ExitCode {
    let written = match std::env::args_os().nth(1) {
        None => std::io::stdout().write_all(crd::definition_yaml().as_bytes()),
        Some(root) => {
            crd::files().into_iter().try_for_each(|(path, text)| fs::write(Path::new(&root).join(path), text))
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error fails too.
            let _ = writeln!(std::io::stderr(), "crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

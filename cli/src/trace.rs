//! The trace of a run: those that its workers have left, in one file. File I/O only.

use std::{fs, io};

use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    run_folder::RunFolder,
};

/// File of a run folder, in Chrome's trace format: <https://ui.perfetto.dev> and `chrome://tracing` open it.
pub const TRACE: &str = "trace.json";

const EVENTS: &str = "traceEvents";

/// Before the first worker starts: what an earlier part of the run has left is none of this one.
pub fn begin(folder: &RunFolder) -> Result<()> {
    let traces = folder.traces();
    match fs::remove_dir_all(&traces) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::write(&traces, &error)),
        _ => Ok(()),
    }
}

/// Writes [`TRACE`] if any worker has left a trace; one leaves it when its group ends in agreement, not when it is killed. They
/// ran on one machine, so their times are on one clock.
pub fn gather(folder: &RunFolder) -> Result<()> {
    let traces = folder.traces();
    let Ok(entries) = fs::read_dir(&traces) else { return Ok(()) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    let mut events = Vec::new();
    for file in files {
        let unreadable = |error: &dyn std::fmt::Display| {
            Failure::internal(format!("failed to read the trace {}: {error}", file.display()))
        };
        let text = fs::read(&file).map_err(|error| unreadable(&error))?;
        let mut trace: Value = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
        if let Some(Value::Array(own)) = trace.get_mut(EVENTS).map(Value::take) {
            events.extend(own);
        }
    }
    // Not for reading: without spaces it is a third smaller.
    folder.write_text(TRACE, &json!({ "displayTimeUnit": "ms", EVENTS: events }).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_workers_traces_become_one_file() {
        let scratch = tempfile::tempdir().unwrap();
        let folder =
            RunFolder::create("job", Some(&scratch.path().join("run")), SystemTime::UNIX_EPOCH).unwrap();
        gather(&folder).unwrap();
        assert!(!folder.path().join(TRACE).exists(), "nobody has left anything");
        fs::create_dir(folder.traces()).unwrap();
        for device in ["device-1", "device-0"] {
            let trace = json!({ EVENTS: [{ "name": device, "ph": "X" }, { "name": "apply", "ph": "X" }] });
            fs::write(folder.traces().join(format!("{device}.trace.json")), trace.to_string()).unwrap();
        }
        gather(&folder).unwrap();
        let trace: Value = serde_json::from_slice(&fs::read(folder.path().join(TRACE)).unwrap()).unwrap();
        let names: Vec<_> = trace[EVENTS].as_array().unwrap().iter().map(|event| &event["name"]).collect();
        assert_eq!(names, ["device-0", "apply", "device-1", "apply"]);
        begin(&folder).unwrap();
        assert!(!folder.traces().exists());
        begin(&folder).unwrap();
    }
}

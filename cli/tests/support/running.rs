//! A run under test: started, looked at, hurt and ended; never left behind, not even by a test that fails.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use scadles_api::report::AttemptReport;

use super::{
    Scratch, await_some, finish,
    learnable::{Settings, job},
    memory, signal, text, workers,
};

/// A runner and its folder.
pub struct Running {
    child: Option<Child>,
    folder: PathBuf,
}

impl Running {
    /// Starts a command that runs in `folder`.
    pub fn start(mut command: Command, folder: &Path) -> Self {
        Self { child: Some(command.spawn().unwrap()), folder: folder.to_owned() }
    }

    /// Closes the runner's output as a reader that goes away does.
    pub fn close_output(&mut self) {
        let child = self.child.as_mut().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
    }

    pub fn await_first_step(&self) {
        await_some("the first step", || memory(&self.folder)?.supervision.first_step_at);
    }

    /// Waits for a checkpoint of a step above 0.
    pub fn await_checkpoint(&self) {
        await_some("a checkpoint", || memory(&self.folder)?.supervision.checkpoint.filter(|it| it.step > 0));
    }

    /// Waits until the given attempt has taken a step of its own.
    pub fn await_training(&self, attempt: u32) {
        await_some(&format!("training in attempt {attempt}"), || {
            let supervision = memory(&self.folder)?.supervision;
            (supervision.attempt == attempt && supervision.first_step_at.is_some()).then_some(())
        });
    }

    /// The end of attempt 1, and how long it took from now.
    pub fn await_end_of_attempt_1(&self) -> (AttemptReport, Duration) {
        let began = Instant::now();
        let look = || memory(&self.folder)?.supervision.history.first().cloned();
        (await_some("the end of attempt 1", look), began.elapsed())
    }

    /// Id of a device's worker.
    pub fn worker(&self, device: &str) -> u32 {
        let found = workers(&self.folder).into_iter().find(|(name, _)| name == device);
        found.expect("a worker of the device").1
    }

    pub fn signal_worker(&self, device: &str, name: &str) {
        signal(self.worker(device), name);
    }

    /// Ends the runner as a crash would.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "KILL");
        child.wait().unwrap();
        assert_no_worker_left(&self.folder);
    }

    /// Ctrl-C, and the end that follows.
    pub fn interrupt(mut self) -> Output {
        let child = self.child.take().unwrap();
        signal(child.id(), "INT");
        let output = finish(child);
        assert_eq!(output.status.code(), Some(130), "{}", text(&output));
        assert_no_worker_left(&self.folder);
        output
    }

    /// Waits for the end, which must have this exit code.
    pub fn ends_with(mut self, code: i32) -> Output {
        let output = finish(self.child.take().unwrap());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert_no_worker_left(&self.folder);
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The test has failed; its workers end with the runner.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Workers end by themselves, soon after the runner.
pub fn assert_no_worker_left(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !workers(folder).is_empty() {
        assert!(Instant::now() < deadline, "workers are left: {:?}", workers(folder));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The learnable job with parts of its text replaced.
pub fn tailored(scratch: &Scratch, settings: &Settings, changes: &[(&str, &str)]) -> PathBuf {
    let file = job(scratch.path(), settings);
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(&file, text).unwrap();
    file
}

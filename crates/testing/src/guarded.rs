//! Servers that never outlive the test, however it ends.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::{Result, failed};

/// Runs `"$@"` until it ends or standard input closes: the pipe's other end is this process, so that it closes even when
/// the test is killed. Then the folder `$GUARDED_FOLDER` goes, if one is named.
const GUARD: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{ read -r _ <&3; kill -KILL $server; } 2>/dev/null &
wait $server
status=$?
exec 3<&-
kill $! 2>/dev/null
[ -z "${GUARDED_FOLDER:-}" ] || rm -rf "$GUARDED_FOLDER"
exit $status
"#;

/// A server that is killed with this value, or with this process.
#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
}

impl Guarded {
    /// Starts `program arguments…`, its output in `log`; when it has ended, `folder` is removed.
    pub(crate) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        log: &Path,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let start = || {
            let log = File::create(log)?;
            let mut command = Command::new("/bin/sh");
            command.args(["-c", GUARD, "guard"]).arg(program).args(arguments);
            command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
            if let Some(folder) = folder {
                command.env("GUARDED_FOLDER", folder);
            }
            // A process group of its own keeps the terminal's Ctrl-C from ending servers before the test has ended.
            command.process_group(0).spawn()
        };
        let guard = start().map_err(|error| failed(&format!("start {}", program.display()), error))?;
        Ok(Self { guard })
    }

    /// How the server ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().ok().flatten()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

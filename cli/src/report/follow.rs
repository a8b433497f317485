//! `steps.csv` while it grows: hands on each line once, as soon as it is whole. Shell.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::steps::{Error, LONGEST_LINE_BYTES, Layout, Step};

/// So much is read at a time: a look at a table of any length takes a moment.
const CHUNK_BYTES: u64 = 8 << 20;

/// A reader that remembers how far it has come.
pub struct Follower {
    path: PathBuf,
    devices: Vec<String>,
    file: Option<File>,
    layout: Option<Layout>,
    /// What has been read of a line that is not whole yet.
    rest: Vec<u8>,
    lines: u64,
    cells: Vec<f64>,
}

impl Follower {
    /// Begins before the first line of the table in `path`, which may not be there yet. `devices` in the order of ranks.
    pub fn new(path: &Path, devices: &[String]) -> Self {
        Self {
            path: path.to_owned(),
            devices: devices.to_vec(),
            file: None,
            layout: None,
            rest: Vec::new(),
            lines: 0,
            cells: Vec::new(),
        }
    }

    /// Reads what has come since, at most 8 MiB, and hands each whole line to `each`; whether there may be more.
    /// Lines that are none of such a table are left out, as in a report.
    pub fn read(&mut self, mut each: impl FnMut(&Step<'_>)) -> Result<bool, Error> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(file) = &mut self.file else { return Ok(false) };
        let read = file.by_ref().take(CHUNK_BYTES).read_to_end(&mut self.rest)? as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let unread = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, unread);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            let text = String::from_utf8_lossy(line);
            let Some(layout) = &self.layout else {
                self.layout = Some(Layout::of(&text, &self.devices)?);
                continue;
            };
            if let Some(step) = layout.step(&text, &mut self.cells) {
                each(&step);
            }
        }
        if self.rest.len() as u64 > LONGEST_LINE_BYTES {
            return Err(Error::LongLine(self.lines + 1));
        }
        Ok(read == CHUNK_BYTES)
    }

    /// When the table was last written to, in seconds since 1970; `None` while it is not there.
    pub fn written_at(&self) -> Option<f64> {
        let modified = std::fs::metadata(&self.path).ok()?.modified().ok()?;
        Some(modified.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEAD: &str = "attempt,step,seconds,samples,loss,learning_rate,window_seconds,step_seconds,local_batch.a,\
                        stream_rate.a,buffered.a,wait_seconds.a\n";

    fn numbers(follower: &mut Follower) -> Vec<u64> {
        let mut numbers = Vec::new();
        follower.read(|step| numbers.push(step.number())).unwrap();
        numbers
    }

    #[test]
    fn every_line_is_handed_on_once_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.csv");
        let mut follower = Follower::new(&path, &["a".to_owned()]);
        assert_eq!(numbers(&mut follower), [0; 0], "the table is not there yet");
        assert!(follower.written_at().is_none());
        let mut file = File::create(&path).unwrap();
        let mut write = |text: &str| file.write_all(text.as_bytes()).unwrap();
        write(&HEAD[..20]);
        assert_eq!(numbers(&mut follower), [0; 0]);
        write(&HEAD[20..]);
        write("1,1,0.5,40,2.1,0.1,0.25,0.5,40,20,3,0.1\n1,2,1.0,80,2.0,0.1,0.25,0.5,40,2");
        assert_eq!(numbers(&mut follower), [1]);
        write("0,3,0.1\nno line of the table\n1,3,1.5,120,1.9,0.1,0.25,0.5,40,20,3,0.1\n");
        assert_eq!(numbers(&mut follower), [2, 3]);
        assert_eq!(numbers(&mut follower), [0; 0]);
        assert!(follower.written_at().is_some());
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.csv");
        std::fs::write(&path, "a,b\n").unwrap();
        let mut follower = Follower::new(&path, &["a".to_owned()]);
        assert!(follower.read(|_| ()).unwrap_err().to_string().contains("no column `attempt`"));
        std::fs::write(&path, vec![b'1'; LONGEST_LINE_BYTES as usize + 1]).unwrap();
        let mut follower = Follower::new(&path, &["a".to_owned()]);
        assert!(follower.read(|_| ()).unwrap_err().to_string().contains("line 1 is longer"));
    }
}

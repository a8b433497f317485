//! What the person at the keyboard asks for, and the pause between two looks.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use scadles_control::decide::UserRequest;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals as Arrivals,
};

use crate::failure::{Failure, Result};

/// Requests to stop: Ctrl-C, a termination signal, a terminal that is closed.
#[derive(Debug)]
pub struct Signals {
    arrivals: Receiver<()>,
    count: usize,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub fn catch() -> Result<Self> {
        let failed = |error: std::io::Error| Failure::internal(format!("signals cannot be caught: {error}"));
        let mut caught = Arrivals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let (send, arrivals) = channel();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || caught.forever().all(|_| send.send(()).is_ok()))
            .map_err(failed)?;
        Ok(Self { arrivals, count: 0 })
    }

    /// Waits for `pause`, or until a signal comes; tells whether one came.
    pub fn wait(&mut self, pause: Duration) -> bool {
        match self.arrivals.recv_timeout(pause) {
            Ok(()) => {
                self.count += 1;
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(pause);
                false
            }
        }
    }

    /// What has been asked for so far: once to stop, twice to end at once.
    pub fn request(&self) -> Option<UserRequest> {
        match self.count {
            0 => None,
            1 => Some(UserRequest::Stop),
            _ => Some(UserRequest::Kill),
        }
    }
}

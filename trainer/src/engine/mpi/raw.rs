//! MPI's world, opened once, and messages under way in it. Everything `unsafe` of the engine is in this file.
//!
//! A message lies in memory of its own until MPI has done with it, and is never given back if MPI does not: nothing can call
//! back what was begun, so a deadline that passes must leave MPI something to write to.
#![allow(unsafe_code)] // MPI's C functions; each block says why it holds.

use std::ffi::{c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ::mpi::{Threading, ffi};

/// So long a wait only yields the processor. On one machine that is longer than a message takes once both sides are there.
const AWAKE: Duration = Duration::from_millis(1);

/// After that it sleeps, for this part of the time waited so far: what a nap adds to a wait stays below 4 %.
const NAP_SHARE: u32 = 32;

/// A nap is never longer, so that MPI moves on what has arrived.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// MPI can be opened once in the life of a process.
static OPENED: AtomicBool = AtomicBool::new(false);

/// Why something could not be done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It cannot be done in this process.
    Unusable(String),
    /// MPI refused, or did not come to an end in time.
    Lost(String),
}

/// All ranks that one `mpiexec` has started.
#[derive(Debug)]
pub(super) struct World {
    comm: ffi::MPI_Comm,
    rank: usize,
    size: usize,
    /// Asks the thread that opened MPI, which alone may close it, to do so.
    close: Sender<Sender<()>>,
}

// SAFETY: MPI was opened for calls from any thread, one at a time (`MPI_THREAD_SERIALIZED`, checked). There is one `World`
// in a process, and all calls borrow it.
unsafe impl Send for World {}

impl World {
    /// Opens MPI, which waits for all ranks to do so, for `within` at most.
    pub(super) fn open(within: Duration) -> Result<Self, Trouble> {
        if OPENED.swap(true, Ordering::SeqCst) {
            return Err(Trouble::Unusable(
                "MPI was opened before in this process; a new group needs new processes".to_owned(),
            ));
        }
        let (opened, outcome) = channel();
        let (close, orders) = channel();
        let spawned =
            std::thread::Builder::new().name("mpi".to_owned()).spawn(move || live(&opened, &orders));
        spawned.map_err(|error| Trouble::Unusable(format!("failed to start a thread for MPI: {error}")))?;
        match outcome.recv_timeout(within) {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(Trouble::Lost(format!("MPI_Init_thread did not end within {within:?}")));
            }
        }
        // SAFETY: a constant of the library, which is open.
        let comm = unsafe { ffi::RSMPI_COMM_WORLD };
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI is open and `comm` its world; both results are integers of ours. An error that the world returns from
        // now on does not end the process.
        unsafe {
            check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN))?;
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(comm, &raw mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(comm, &raw mut size))?;
        }
        Ok(Self { comm, rank: rank as usize, size: size as usize, close })
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Closes MPI, which waits for all ranks to do so, for `within` at most.
    pub(super) fn close(self, within: Duration) -> Result<(), Trouble> {
        let (closed, outcome) = channel();
        let asked = self.close.send(closed);
        asked.map_err(|_| Trouble::Lost("the thread that opened MPI has ended".to_owned()))?;
        outcome
            .recv_timeout(within)
            .map_err(|_| Trouble::Lost(format!("MPI_Finalize did not end within {within:?}")))
    }
}

/// The thread that opens MPI, and closes it if it is asked to. Without that it is left open, since closing waits for all.
fn live(opened: &Sender<Result<(), Trouble>>, orders: &Receiver<Sender<()>>) {
    let outcome = match ::mpi::initialize_with_threading(Threading::Serialized) {
        None => Err(Trouble::Unusable("MPI was opened before by somebody else".to_owned())),
        Some((universe, level)) => {
            // Dropping it would close MPI.
            std::mem::forget(universe);
            if level >= Threading::Serialized { Ok(()) } else { Err(too_low(level)) }
        }
    };
    let _ = opened.send(outcome);
    if let Ok(closed) = orders.recv() {
        // SAFETY: MPI is open, or nobody could have got the world that this order comes from; this is the thread that
        // opened it, and no call is under way since the world was given up for this one.
        unsafe { ffi::MPI_Finalize() };
        let _ = closed.send(());
    }
}

fn too_low(level: Threading) -> Trouble {
    Trouble::Unusable(format!(
        "this MPI supports threads up to {level:?}; Serialized (MPI_THREAD_SERIALIZED) is needed, since training and \
         sharing take turns"
    ))
}

/// What MPI calls itself, such as `Open MPI v4.1.4`.
pub(super) fn library() -> String {
    let version = ::mpi::environment::library_version().unwrap_or_default();
    // Open MPI goes on with its builder, MPICH with its compilers.
    version
        .split([',', '\n'])
        .next()
        .unwrap_or_default()
        .replace('\t', " ")
        .trim_end_matches('\0')
        .trim()
        .to_owned()
}

/// Messages under way, each in memory of its own.
pub(super) struct Flight<'a> {
    world: &'a World,
    /// One per message; MPI sets those to null that have ended.
    requests: Vec<ffi::MPI_Request>,
    /// The other side of each.
    peers: Vec<usize>,
    /// Room for MPI to say which have ended.
    ended: Vec<c_int>,
    /// Not dropped with this: see [`Flight::wait`].
    messages: ManuallyDrop<Vec<Vec<u8>>>,
}

impl<'a> Flight<'a> {
    /// Nothing yet.
    pub(super) fn new(world: &'a World) -> Self {
        let (requests, peers, ended) = (Vec::new(), Vec::new(), Vec::new());
        Self { world, requests, peers, ended, messages: ManuallyDrop::new(Vec::new()) }
    }

    /// Begins to send `message`. Between two ranks, messages of one tag keep their order.
    pub(super) fn send(&mut self, message: Vec<u8>, to: usize, tag: c_int) -> Result<(), Trouble> {
        self.begin(message, to, |world, message, request| {
            let (start, len) = (message.as_ptr().cast(), c_len(message)?);
            // SAFETY: MPI is open; the message keeps its place until `wait` sees its end, and for ever otherwise.
            let code = unsafe {
                ffi::MPI_Isend(start, len, ffi::RSMPI_UINT8_T, to as c_int, tag, world.comm, request)
            };
            check("MPI_Isend", code)
        })
    }

    /// Begins to fill `message` with one that is exactly as long.
    pub(super) fn receive(&mut self, message: Vec<u8>, from: usize, tag: c_int) -> Result<(), Trouble> {
        self.begin(message, from, |world, message, request| {
            let (start, len): (*mut c_void, _) = (message.as_mut_ptr().cast(), c_len(message)?);
            // SAFETY: as in `send`; nobody looks at the message before its end.
            let code = unsafe {
                ffi::MPI_Irecv(start, len, ffi::RSMPI_UINT8_T, from as c_int, tag, world.comm, request)
            };
            check("MPI_Irecv", code)
        })
    }

    fn begin(
        &mut self,
        mut message: Vec<u8>,
        peer: usize,
        call: impl FnOnce(&World, &mut [u8], *mut ffi::MPI_Request) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        // SAFETY: a constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        let begun = call(self.world, &mut message, &raw mut request);
        // Also if it failed: who knows what MPI has kept of it.
        self.messages.push(message);
        begun?;
        self.requests.push(request);
        self.peers.push(peer);
        Ok(())
    }

    /// Waits for the end of all messages, until `deadline`, and gives them back in the order of their begin. What has not ended
    /// by then stays where it is, for ever: MPI may still write to it.
    pub(super) fn wait(mut self, deadline: Instant) -> Result<Vec<Vec<u8>>, Trouble> {
        let began = Instant::now();
        while !self.look()? {
            let now = Instant::now();
            if now >= deadline {
                return Err(Trouble::Lost(self.missing()));
            }
            let waited = now - began;
            if waited < AWAKE {
                std::thread::yield_now();
            } else {
                std::thread::sleep((waited / NAP_SHARE).min(LONGEST_NAP));
            }
        }
        Ok(std::mem::take(&mut *self.messages))
    }

    /// Whether all have ended. Lets MPI move on what is under way.
    fn look(&mut self) -> Result<bool, Trouble> {
        let mut count = 0;
        self.ended.resize(self.requests.len(), 0);
        let (requests, ended) = (self.requests.as_mut_ptr(), self.ended.as_mut_ptr());
        // SAFETY: the requests are MPI's own or null, and `ended` has room for as many.
        let code = unsafe {
            let ignore = ffi::RSMPI_STATUSES_IGNORE;
            ffi::MPI_Testsome(self.requests.len() as c_int, requests, &raw mut count, ended, ignore)
        };
        check("MPI_Testsome", code)?;
        Ok(self.under_way().next().is_none())
    }

    fn under_way(&self) -> impl Iterator<Item = usize> {
        // SAFETY: a constant of the library.
        let null = unsafe { ffi::RSMPI_REQUEST_NULL };
        self.requests
            .iter()
            .zip(&self.peers)
            .filter(move |(request, _)| **request != null)
            .map(|(_, peer)| *peer)
    }

    fn missing(&self) -> String {
        let mut ranks: Vec<usize> = self.under_way().collect();
        ranks.sort_unstable();
        ranks.dedup();
        format!("ranks {ranks:?} did not answer in time")
    }
}

fn c_len(message: &[u8]) -> Result<c_int, Trouble> {
    c_int::try_from(message.len()).map_err(|_| {
        Trouble::Unusable(format!("a message of {} bytes is longer than MPI takes", message.len()))
    })
}

fn check(call: &str, code: c_int) -> Result<(), Trouble> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = vec![0_u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut len = 0;
    // SAFETY: the buffer is as long as MPI's longest text.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &raw mut len) };
    text.truncate(len.max(0) as usize);
    Err(Trouble::Lost(format!("{call}: {}", String::from_utf8_lossy(&text))))
}

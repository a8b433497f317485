//! A rank's communicator: made, polled, split, ended. Network and device I/O by NCCL.

use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::library::{Library, UniqueId, nccl_error};
use crate::{group, sys};

/// Looks at what goes on in the background start this close together and move apart up to [`SLOWEST_LOOK`]: most
/// operations are through at once, a first one opens connections for seconds.
const QUICKEST_LOOK: Duration = Duration::from_micros(10);
const SLOWEST_LOOK: Duration = Duration::from_millis(1);

/// How communicators are made. What is `None` is left to NCCL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long one operation may take, making and splitting included; more than nothing.
    pub timeout: Duration,
    /// Fewest thread blocks of a kernel.
    pub min_ctas: Option<u32>,
    /// Most thread blocks of a kernel.
    pub max_ctas: Option<u32>,
    /// Thread blocks of a cluster, from Hopper on.
    pub cga_cluster_size: Option<u32>,
    /// Whether communicators split from this one share its connections. An abort of the one then ends the others too.
    pub split_share: bool,
}

impl Config {
    /// NCCL's defaults, with a deadline.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, min_ctas: None, max_ctas: None, cga_cluster_size: None, split_share: false }
    }

    fn raw(&self, operation: &'static str) -> Result<sys::Config, Error> {
        if self.timeout.is_zero() {
            return Err(Error::argument(operation, "timeout is 0; allowed: more than nothing"));
        }
        let number = |name: &str, value: Option<u32>| match value.map(|value| (value, c_int::try_from(value)))
        {
            None => Ok(sys::CONFIG_UNDEFINED),
            Some((1.., Ok(raw))) => Ok(raw),
            Some((value, _)) => {
                let message = format!("{name} is {value}; allowed: 1 to {}", c_int::MAX);
                Err(Error::argument(operation, message))
            }
        };
        if let (Some(min), Some(max)) = (self.min_ctas, self.max_ctas)
            && min > max
        {
            return Err(Error::argument(operation, format!("min_ctas is {min}, more than max_ctas, {max}")));
        }
        Ok(sys::Config {
            size: size_of::<sys::Config>(),
            magic: sys::CONFIG_MAGIC,
            version: sys::CONFIG_VERSION,
            blocking: 0,
            cga_cluster_size: number("cga_cluster_size", self.cga_cluster_size)?,
            min_ctas: number("min_ctas", self.min_ctas)?,
            max_ctas: number("max_ctas", self.max_ctas)?,
            net_name: std::ptr::null(),
            split_share: c_int::from(self.split_share),
        })
    }
}

/// One rank of a group of GPUs. One thread at a time uses it (it can be sent to another); a [`CommunicatorHandle`] can
/// end it from anywhere.
#[derive(Debug)]
pub struct Communicator {
    shared: Arc<Shared>,
    rank: usize,
    world_size: usize,
    config: Config,
    /// NCCL's order of operations is that of one thread's calls: `Send`, but not `Sync`.
    one_thread_at_a_time: PhantomData<Cell<()>>,
}

/// What a communicator and its handles have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    library: Library,
    timeout: Duration,
    /// Nothing once it was aborted or destroyed. Locked for the length of one call, which a non-blocking communicator
    /// keeps short.
    raw: Mutex<Option<Raw>>,
    /// Ends polling without the lock.
    aborted: AtomicBool,
    /// The first failure.
    failure: OnceLock<String>,
}

/// The C handle.
#[derive(Debug)]
struct Raw(NonNull<sys::Comm>);

// SAFETY: NCCL binds no communicator to a thread; the mutex around it lets one at a time use it.
unsafe impl Send for Raw {}

impl Communicator {
    /// Joins the `world_size` ranks that call this with the same `id`, on the calling thread's current CUDA device.
    /// Returns when all have come, within the deadline of `config`.
    pub fn init(
        library: &Library,
        id: &UniqueId,
        rank: usize,
        world_size: usize,
        config: &Config,
    ) -> Result<Self, Error> {
        const OPERATION: &str = "init";
        group::refuse(OPERATION)?;
        let ranks = c_int::try_from(world_size).ok().filter(|&ranks| ranks > 0).ok_or_else(|| {
            let message = format!("world_size is {world_size}; allowed: 1 to {}", c_int::MAX);
            Error::argument(OPERATION, message)
        })?;
        if rank >= world_size {
            let message = format!("rank is {rank}; it must be below {world_size}");
            return Err(Error::argument(OPERATION, message));
        }
        let mut raw_config = config.raw(OPERATION)?;
        let slot = Slot::new();
        // SAFETY: slot and configuration live over the call, and the slot for as long as NCCL may write to it.
        let result = unsafe {
            (library.functions().comm_init_rank_config)(
                slot.address(),
                ranks,
                id.raw(),
                rank as c_int,
                &raw mut raw_config,
            )
        };
        let started = matches!(result, sys::SUCCESS | sys::IN_PROGRESS);
        let Some(shared) = slot.take(library, config.timeout) else {
            let result = if started { sys::INTERNAL_ERROR } else { result };
            return Err(nccl_error(library.functions(), OPERATION, result, std::ptr::null()));
        };
        let comm = Self::from_shared(shared, rank, world_size, config);
        comm.shared.settle(OPERATION, result)?;
        slot.free();
        Ok(comm)
    }

    fn from_shared(shared: Arc<Shared>, rank: usize, world_size: usize, config: &Config) -> Self {
        Self { shared, rank, world_size, config: config.clone(), one_thread_at_a_time: PhantomData }
    }

    /// This rank's position, below [`Communicator::world_size`].
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The NCCL that it uses.
    pub fn library(&self) -> &Library {
        &self.shared.library
    }

    /// How long one operation may take.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// What another thread needs to watch and end it.
    pub fn handle(&self) -> CommunicatorHandle {
        CommunicatorHandle(Arc::clone(&self.shared))
    }

    /// Makes one communicator for each `color`, of the ranks that give it, in the order of their `key` (at equal ones, of
    /// their ranks). `None` joins none. All ranks call it; the new communicators have the configuration of this one.
    pub fn split(&self, color: Option<u32>, key: i32) -> Result<Option<Self>, Error> {
        const OPERATION: &str = "split";
        group::refuse(OPERATION)?;
        let raw_color = match color {
            None => sys::SPLIT_NO_COLOR,
            Some(color) => c_int::try_from(color).map_err(|_| {
                Error::argument(OPERATION, format!("color is {color}; allowed: 0 to {}", c_int::MAX))
            })?,
        };
        let mut raw_config = self.config.raw(OPERATION)?;
        self.shared.usable(OPERATION)?;
        let slot = Slot::new();
        self.shared.call(OPERATION, |functions, comm| {
            // SAFETY: the communicator is live; slot and configuration as in `init`.
            unsafe { (functions.comm_split)(comm, raw_color, key, slot.address(), &raw mut raw_config) }
        })?;
        // The parent is through, so the child is known; it may still be connecting.
        let child = match (slot.take(self.library(), self.timeout()), color) {
            (Some(shared), _) => {
                // Made before the wait, so that whatever goes wrong ends it.
                let mut child = Self::from_shared(shared, 0, 1, &self.config);
                child.shared.wait(OPERATION)?;
                child.rank = child.number(|functions| functions.comm_user_rank)?;
                child.world_size = child.number(|functions| functions.comm_count)?;
                Some(child)
            }
            (None, None) => None,
            (None, Some(_)) => {
                let error =
                    nccl_error(self.library().functions(), OPERATION, sys::INTERNAL_ERROR, std::ptr::null());
                return Err(error);
            }
        };
        slot.free();
        Ok(child)
    }

    /// What NCCL says about a ready communicator.
    fn number(
        &self,
        function: fn(&sys::Functions) -> unsafe extern "C" fn(*const sys::Comm, *mut c_int) -> c_int,
    ) -> Result<usize, Error> {
        let mut number = 0;
        self.shared.call("split", |functions, comm| {
            // SAFETY: the communicator is live; writes one number.
            unsafe { function(functions)(comm, &raw mut number) }
        })?;
        Ok(number.max(0) as usize)
    }

    /// What has gone wrong in the background, if anything. What is still going on is no error.
    pub fn async_error(&self) -> Result<(), Error> {
        self.shared.look("async_error").map(|_| ())
    }

    /// The orderly end: waits, within the deadline, until what all ranks have issued is through, then frees everything.
    /// All ranks call it. Where it fails the communicator is aborted.
    pub fn finalize(self) -> Result<(), Error> {
        const OPERATION: &str = "finalize";
        group::refuse(OPERATION)?;
        self.shared.call(OPERATION, |functions, comm| {
            // SAFETY: the communicator is live.
            unsafe { (functions.comm_finalize)(comm) }
        })?;
        // SAFETY: destroyed once, since the handle is taken away; nothing is issued any more.
        self.shared.end(OPERATION, |functions, comm| unsafe { (functions.comm_destroy)(comm) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Communicator {
    /// Ends it here and now, if it was not finalised; a failure to do so has nobody to go to.
    fn drop(&mut self) {
        let _ = self.shared.abort();
    }
}

/// Watches and ends a communicator from any thread. Of no effect once the communicator is gone.
#[derive(Debug, Clone)]
pub struct CommunicatorHandle(Arc<Shared>);

impl CommunicatorHandle {
    /// Ends what the communicator's thread waits for and what runs on its stream, and frees it: every operation of it
    /// fails with [`Error::Aborted`] from now on. Other ranks are not told. Calling it again does nothing.
    pub fn abort(&self) -> Result<(), Error> {
        self.0.abort()
    }

    /// As [`Communicator::async_error`].
    pub fn async_error(&self) -> Result<(), Error> {
        self.0.look("async_error").map(|_| ())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Raw>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a communicator that has failed or ended.
    pub(crate) fn usable(&self, operation: &'static str) -> Result<(), Error> {
        if self.aborted.load(Ordering::Acquire) {
            return Err(Error::Aborted { operation });
        }
        match self.failure.get() {
            None => Ok(()),
            Some(first) => Err(Error::FailedBefore { operation, first: first.clone() }),
        }
    }

    /// One call of NCCL and all that belongs to it: the communicator must be usable, a failure stays, and outside of a
    /// group what goes on in the background is waited for.
    pub(crate) fn call(
        self: &Arc<Self>,
        operation: &'static str,
        call: impl FnOnce(&sys::Functions, *mut sys::Comm) -> c_int,
    ) -> Result<(), Error> {
        self.usable(operation)?;
        let result = match &*self.lock() {
            Some(raw) => call(self.library.functions(), raw.0.as_ptr()),
            None => return Err(Error::Aborted { operation }),
        };
        self.settle(operation, result)
    }

    /// Carries on from the result of a call that was just made.
    fn settle(self: &Arc<Self>, operation: &'static str, result: c_int) -> Result<(), Error> {
        match result {
            sys::SUCCESS | sys::IN_PROGRESS if group::join(self) => Ok(()),
            sys::SUCCESS => Ok(()),
            sys::IN_PROGRESS => self.wait(operation),
            failed => Err(self.fail(operation, failed)),
        }
    }

    /// Waits until nothing goes on in the background.
    pub(crate) fn wait(&self, operation: &'static str) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = QUICKEST_LOOK;
        while self.look(operation)? {
            if Instant::now() >= deadline {
                let error = Error::TimedOut { operation, timeout: self.timeout };
                self.note(&error.to_string());
                return Err(error);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
        Ok(())
    }

    /// Whether something still goes on in the background.
    pub(crate) fn look(&self, operation: &'static str) -> Result<bool, Error> {
        self.usable(operation)?;
        let mut state = sys::SUCCESS;
        let result = match &*self.lock() {
            // SAFETY: the communicator is live while the lock is held; writes one number.
            Some(raw) => unsafe {
                (self.library.functions().comm_get_async_error)(raw.0.as_ptr(), &raw mut state)
            },
            None => return Err(Error::Aborted { operation }),
        };
        match (result, state) {
            (sys::SUCCESS, sys::SUCCESS) => Ok(false),
            (sys::SUCCESS, sys::IN_PROGRESS) => Ok(true),
            (sys::SUCCESS, failed) | (failed, _) => Err(self.fail(operation, failed)),
        }
    }

    /// Makes `result` the communicator's failure.
    fn fail(&self, operation: &'static str, result: c_int) -> Error {
        let raw = self.lock();
        let comm = raw.as_ref().map_or(std::ptr::null(), |raw| raw.0.as_ptr().cast_const());
        let error = nccl_error(self.library.functions(), operation, result, comm);
        drop(raw);
        self.note(&error.to_string());
        error
    }

    /// Keeps the first failure.
    pub(crate) fn note(&self, failure: &str) {
        let _ = self.failure.set(failure.to_owned());
    }

    /// Aborts, once.
    pub(crate) fn abort(&self) -> Result<(), Error> {
        self.aborted.store(true, Ordering::Release);
        // SAFETY: freed once, since the handle is taken away under the lock, which no other call holds meanwhile.
        self.end("abort", |functions, comm| unsafe { (functions.comm_abort)(comm) })
    }

    /// Takes the C handle away for its last call.
    fn end(
        &self,
        operation: &'static str,
        call: impl FnOnce(&sys::Functions, *mut sys::Comm) -> c_int,
    ) -> Result<(), Error> {
        let mut raw = self.lock();
        let Some(Raw(comm)) = raw.take() else { return Ok(()) };
        let functions = self.library.functions();
        match call(functions, comm.as_ptr()) {
            // In progress: NCCL frees it in the background, and it is not ours any more.
            sys::SUCCESS | sys::IN_PROGRESS => Ok(()),
            failed => Err(nccl_error(functions, operation, failed, std::ptr::null())),
        }
    }

    /// Gives something back to a communicator that is still there, from a `Drop`: what fails is of no consequence, since
    /// the communicator's own end frees it too.
    pub(crate) fn release(&self, call: impl FnOnce(&sys::Functions, *mut sys::Comm) -> c_int) {
        if let Some(raw) = &*self.lock() {
            let _ = call(self.library.functions(), raw.0.as_ptr());
        }
    }
}

/// Where NCCL writes the handle of a new communicator: at once, and again from a thread of its own when the communicator
/// is ready. So the place is only freed when nothing goes on any more; otherwise it is left to NCCL.
struct Slot(NonNull<AtomicPtr<sys::Comm>>);

impl Slot {
    fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new(AtomicPtr::new(std::ptr::null_mut())))))
    }

    fn place(&self) -> &AtomicPtr<sys::Comm> {
        // SAFETY: made in `new`, and freed only by `free`, which takes the slot.
        unsafe { self.0.as_ref() }
    }

    fn address(&self) -> *mut *mut sys::Comm {
        self.place().as_ptr()
    }

    /// The communicator, if there is one.
    fn take(&self, library: &Library, timeout: Duration) -> Option<Arc<Shared>> {
        let raw = Raw(NonNull::new(self.place().load(Ordering::Acquire))?);
        Some(Arc::new(Shared {
            library: library.clone(),
            timeout,
            raw: Mutex::new(Some(raw)),
            aborted: AtomicBool::new(false),
            failure: OnceLock::new(),
        }))
    }

    /// After NCCL is through with it.
    fn free(self) {
        // SAFETY: leaked from a box in `new`, freed once, and NCCL has written to it for the last time.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

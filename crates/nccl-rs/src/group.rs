//! Groups of operations: NCCL's own are a state of the calling thread, and so is what this module remembers.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::communicator::Shared;
use crate::error::Error;
use crate::library::{Library, check};
use crate::sys;

const OPERATION: &str = "group";

thread_local! {
    /// The communicators that the thread's open group has used, if one is open.
    static OPEN: RefCell<Option<Vec<Arc<Shared>>>> = const { RefCell::new(None) };
}

/// Notes that `member` was used, if a group is open on this thread; tells whether one is.
pub(crate) fn join(member: &Arc<Shared>) -> bool {
    OPEN.with_borrow_mut(|open| {
        let Some(members) = open else { return false };
        if !members.iter().any(|known| Arc::ptr_eq(known, member)) {
            members.push(Arc::clone(member));
        }
        true
    })
}

/// Refuses what NCCL does not allow inside of a group.
pub(crate) fn refuse(operation: &'static str) -> Result<(), Error> {
    if OPEN.with_borrow(Option::is_some) {
        return Err(Error::argument(operation, "is not allowed inside of a group"));
    }
    Ok(())
}

pub(crate) fn run<R>(library: &Library, operations: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    refuse(OPERATION)?;
    let group = Open::start(library)?;
    let outcome = operations();
    let ended = group.end();
    // What failed inside is the cause of what the end says.
    let value = outcome?;
    ended.map(|()| value)
}

/// An open group; ends it, whatever happens.
struct Open<'l> {
    library: &'l Library,
    /// NCCL knows the group by its thread.
    this_thread: PhantomData<*const ()>,
}

impl<'l> Open<'l> {
    fn start(library: &'l Library) -> Result<Self, Error> {
        // SAFETY: changes NCCL's own state of this thread.
        let result = unsafe { (library.functions().group_start)() };
        check(library.functions(), OPERATION, result)?;
        OPEN.set(Some(Vec::new()));
        Ok(Self { library, this_thread: PhantomData })
    }

    /// Ends the group and waits until NCCL has taken its operations, each communicator within its own deadline.
    fn end(self) -> Result<(), Error> {
        let (members, ended) = self.close();
        std::mem::forget(self);
        if let Err(error) = ended {
            note(&members, &error.to_string());
            return Err(error);
        }
        let waits: Vec<_> = members.iter().map(|member| member.wait(OPERATION)).collect();
        waits.into_iter().collect()
    }

    /// Ends NCCL's group, without waiting.
    fn close(&self) -> (Vec<Arc<Shared>>, Result<(), Error>) {
        let members = OPEN.take().unwrap_or_default();
        // SAFETY: this thread has one open group, which `start` opened.
        let result = unsafe { (self.library.functions().group_end)() };
        let ended = match result {
            sys::IN_PROGRESS => Ok(()),
            other => check(self.library.functions(), OPERATION, other),
        };
        (members, ended)
    }
}

impl Drop for Open<'_> {
    /// By a panic inside of the group. Its operations have started and nobody will wait for them, so its communicators
    /// are of no more use, and say why.
    fn drop(&mut self) {
        let (members, _) = self.close();
        note(&members, "a group was left by a panic");
    }
}

fn note(members: &[Arc<Shared>], failure: &str) {
    for member in members {
        member.note(failure);
    }
}

//! Gradients in the hands of another thread, part by part, while backward still computes the others. No I/O.
//!
//! Guarantees: parts come in the order in which they were given, each when all its gradients are complete: when the
//! backward pass that was declared the last has added to each of its parameters, or when the owner says that there is no
//! more to come. While they are lent the owner sees no slice of the gradients. Assumptions: those of
//! [`super`]; and no backward pass follows the last one before the loan has ended.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tch::{Kind, Tensor};

use super::{Element, FlatParameters, Slot};
use crate::{Error, ffi};

/// How far the gradients of a loan are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Backward passes follow that add to all of them.
    Accumulating,
    /// The last one runs: what it has added to is complete.
    Last,
    /// No backward pass follows.
    Complete,
    /// They will not be complete.
    Abandoned,
}

#[derive(Debug)]
struct Progress {
    is_lent: bool,
    stage: Stage,
    /// Parameters of each part that the last backward pass has not added to yet.
    missing: Vec<usize>,
    /// When it had added to all of a part's.
    completed: Vec<Option<Instant>>,
}

/// What owner, backward and borrower have in common.
#[derive(Debug)]
struct Shared {
    /// Part of each parameter.
    part_of: Vec<usize>,
    /// Parameters of each part.
    sizes: Vec<usize>,
    /// Whether backward's calls are counted: the other passes cost no lock.
    counts: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        self.lock().stage = stage;
        self.counts.store(stage == Stage::Last, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Backward has added to the gradient of the parameter of this number.
    fn added(&self, parameter: usize) {
        if self.counts.load(Ordering::Relaxed) {
            let part = self.part_of[parameter];
            let mut progress = self.lock();
            let left = &mut progress.missing[part];
            *left = left.saturating_sub(1);
            if *left == 0 {
                progress.completed[part] = Some(Instant::now());
                self.changed.notify_all();
            }
        }
    }
}

/// Backward's calls into one model's loans; taken back with this value.
#[derive(Debug)]
pub(super) struct Watch {
    parts: Vec<Range<usize>>,
    shared: Arc<Shared>,
    parameters: Vec<Tensor>,
}

impl Watch {
    fn begin(flat: &FlatParameters, parts: &[Range<usize>]) -> Result<Self, Error> {
        const OPERATION: &str = "lend_gradients";
        let part_of = flat.layout.iter().map(|slot| part_of(slot, parts)).collect::<Result<Vec<_>, _>>()?;
        let mut sizes = vec![0; parts.len()];
        for &part in &part_of {
            sizes[part] += 1;
        }
        let progress = Progress {
            is_lent: false,
            stage: Stage::Complete,
            missing: sizes.clone(),
            completed: vec![None; parts.len()],
        };
        let shared = Arc::new(Shared {
            part_of,
            sizes,
            counts: AtomicBool::new(false),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        });
        // Made first, so that a failure takes back what there is.
        let watch = Self {
            parts: parts.to_vec(),
            shared,
            parameters: flat.parameters.iter().map(Tensor::shallow_clone).collect(),
        };
        let context = Arc::as_ptr(&watch.shared).cast::<c_void>();
        for (index, parameter) in watch.parameters.iter().enumerate() {
            // SAFETY: the tensor is alive; `context` is what `added` expects and lives as long as `watch`, which takes
            // the call back when it is dropped; by the module's assumption no backward runs.
            let outcome =
                unsafe { ffi::te_after_gradient(ffi::tensor(parameter), Some(added), context, index) };
            ffi::check(outcome).map_err(|message| Error::Torch { operation: OPERATION, message })?;
        }
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for parameter in &self.parameters {
            // SAFETY: the tensor is alive; null takes the call back.
            let outcome =
                unsafe { ffi::te_after_gradient(ffi::tensor(parameter), None, std::ptr::null(), 0) };
            // Refused only for what is no leaf, on which no call was placed either.
            let _ = ffi::check(outcome);
        }
    }
}

unsafe extern "C" fn added(context: *const c_void, parameter: usize) {
    // SAFETY: the C++ side passes on the context that it was given, which lives until the call is taken back.
    unsafe { &*context.cast::<Shared>() }.added(parameter);
}

fn part_of(slot: &Slot, parts: &[Range<usize>]) -> Result<usize, Error> {
    let (start, end) = (slot.offset_elements, slot.offset_elements + slot.len_elements);
    parts.iter().position(|part| part.start <= start && end <= part.end).ok_or_else(|| {
        let message = format!("{} ({start}..{end}) lies in none of the parts {parts:?}", slot.name);
        Error::argument("lend_gradients", message)
    })
}

impl FlatParameters {
    /// Lends the gradients to another thread, in `parts` of the flat buffer: disjoint ranges of elements that cut no
    /// tensor. [`Loan`] is the owner's end. Only one loan at a time; until the borrower has dropped his end every slice of
    /// the gradients is refused.
    pub fn lend_gradients(&mut self, parts: &[Range<usize>]) -> Result<(LentGradients, Loan), Error> {
        const OPERATION: &str = "lend_gradients";
        self.check_not_lent(OPERATION)?;
        Self::check_on_cpu(OPERATION, &self.gradients)?;
        check_parts(parts, self.len())?;
        let watch = match self.watch.take() {
            Some(watch) if watch.parts == parts => watch,
            earlier => {
                // It takes its calls back before others are placed.
                drop(earlier);
                Watch::begin(self, parts)?
            }
        };
        let shared = Arc::clone(&watch.shared);
        let sizes = shared.sizes.clone();
        let completed = vec![None; sizes.len()];
        *shared.lock() = Progress { is_lent: true, stage: Stage::Accumulating, missing: sizes, completed };
        let lent = LentGradients {
            gradients: self.gradients.shallow_clone(),
            kind: self.kind,
            parts: parts.to_vec(),
            next: 0,
            shared: Arc::clone(&shared),
        };
        self.watch = Some(watch);
        Ok((lent, Loan { shared }))
    }

    /// The next backward pass is the last one before the loan ends: the gradients that it has added to are complete. Without
    /// a loan nothing happens.
    pub fn expect_last_backward(&mut self) {
        if let Some(watch) = &self.watch
            && watch.shared.lock().stage == Stage::Accumulating
        {
            watch.shared.enter(Stage::Last);
        }
    }

    pub(super) fn check_not_lent(&self, operation: &'static str) -> Result<(), Error> {
        match &self.watch {
            Some(watch) if watch.shared.lock().is_lent => {
                Err(Error::argument(operation, "the gradients are lent to another thread"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a borrower may be at work on a part.
    pub(super) fn is_handing_on(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| {
            let progress = watch.shared.lock();
            progress.is_lent && progress.stage != Stage::Accumulating
        })
    }
}

/// The borrower gets `&mut` slices of all parts.
fn check_parts(parts: &[Range<usize>], len: usize) -> Result<(), Error> {
    let mut sorted: Vec<&Range<usize>> = parts.iter().collect();
    sorted.sort_by_key(|part| part.start);
    let fits = sorted.iter().all(|part| part.start <= part.end && part.end <= len)
        && sorted.windows(2).all(|pair| pair[0].end <= pair[1].start);
    if fits {
        return Ok(());
    }
    let message = format!("the parts are {parts:?}; they must be disjoint and within 0..{len}");
    Err(Error::argument("lend_gradients", message))
}

/// The owner's end of a loan. Dropped without [`Loan::complete`] it tells the borrower that no more parts come.
#[derive(Debug)]
#[must_use = "dropped, it ends the loan"]
pub struct Loan {
    shared: Arc<Shared>,
}

impl Loan {
    /// No backward pass follows: all parts are complete, whether it has reached them or not.
    pub fn complete(self) {
        self.shared.enter(Stage::Complete);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.shared.lock().stage != Stage::Complete {
            self.shared.enter(Stage::Abandoned);
        }
    }
}

/// The borrower's end of a loan; the gradients are the owner's again when it is dropped.
#[derive(Debug)]
pub struct LentGradients {
    gradients: Tensor,
    kind: Kind,
    parts: Vec<Range<usize>>,
    next: usize,
    shared: Arc<Shared>,
}

impl LentGradients {
    /// Waits until the next part is complete: its slice. Nothing after the last one, or when the owner has given up. The
    /// wait ends with the owner's end of the loan. Errors: [`Error::Argument`] when `T` is not the buffer's kind.
    pub fn next_part<T: Element>(&mut self) -> Result<Option<&mut [T]>, Error> {
        if T::KIND != self.kind {
            let message = format!("asked for {:?}, but the buffers hold {:?}", T::KIND, self.kind);
            return Err(Error::argument("next_part", message));
        }
        let Some(part) = self.parts.get(self.next).cloned() else { return Ok(None) };
        let mut progress = self.shared.lock();
        loop {
            match progress.stage {
                Stage::Complete => break,
                Stage::Abandoned => return Ok(None),
                Stage::Last if progress.missing[self.next] == 0 => break,
                Stage::Last | Stage::Accumulating => {
                    progress = self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        drop(progress);
        self.next += 1;
        if part.is_empty() {
            return Ok(Some(&mut []));
        }
        // SAFETY: a live run of `T` within the buffer (checked when it was lent), aligned as every element is; parts are
        // disjoint and each is handed out once, this one after backward's last write to it; the owner makes no slice while
        // the loan lasts.
        let slice = unsafe {
            let start = self.gradients.data_ptr().cast::<T>().add(part.start);
            std::slice::from_raw_parts_mut(start, part.len())
        };
        Ok(Some(slice))
    }

    /// When backward completed each part; nothing for those that it has not, and may never reach.
    pub fn completed(&self) -> Vec<Option<Instant>> {
        self.shared.lock().completed.clone()
    }
}

impl Drop for LentGradients {
    fn drop(&mut self) {
        self.shared.lock().is_lent = false;
        self.shared.counts.store(false, Ordering::Relaxed);
    }
}

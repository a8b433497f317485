//! Calls of the admin client without an executor: each ends on its thread, in time.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::AdminOptions;

use crate::error::Error;

pub(crate) fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

pub(crate) fn late(what: &str, waited: Duration) -> Error {
    Error::Timeout { what: what.to_owned(), waited, reason: "the broker did not answer".to_owned() }
}

pub(crate) fn admin_options(end: Instant) -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(left(end))).request_timeout(Some(left(end)))
}

/// Runs a future of the admin client to its end on this thread; `None` when `end` comes first.
pub(crate) fn block_on<F: Future>(future: F, end: Instant) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    // The client library keeps its own time; the grace lets its own words come first.
    let end = end + Duration::from_secs(1);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(left(end));
    }
}

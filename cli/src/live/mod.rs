//! Those who look at a run from elsewhere while it lives: the page in a browser (`--ui`) and TensorBoard (`--tensorboard`).
//! Shell.
//!
//! A thread of its own follows `steps.csv` and hands each step to both; the runner only puts its latest look and what
//! happened into a [`Feed`]. Nothing here can hold up a run, or end it.

pub mod address;
pub mod server;

use std::{
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use scadles_api::progress::Evaluation;

use self::server::{Published, Server};
use crate::{
    failure::{Failure, Result},
    report::follow::Follower,
    tensorboard::EventFile,
    view::{
        Snapshot,
        history::History,
        page::{About, Chronicle, End, EventKind, Sight, page},
    },
};

/// Pause between two documents, and between two looks at the table of steps.
const PAUSE: Duration = Duration::from_secs(1);

/// What the runner and the one who follows share.
#[derive(Default)]
struct Shared {
    news: Mutex<News>,
    changed: Condvar,
}

#[derive(Default)]
struct News {
    snapshot: Option<Snapshot>,
    chronicle: Chronicle,
    evaluations: Vec<Evaluation>,
    end: Option<End>,
    /// The run is over, whether or not it has an `end`.
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, News> {
        // Poisoned, it holds what was told before all the same.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a runner puts what it knows. Leads nowhere if nobody looks.
#[derive(Clone, Default)]
pub struct Feed(Option<Arc<Shared>>);

impl Feed {
    /// A feed that somebody will look at.
    pub fn open() -> Self {
        Self(Some(Arc::default()))
    }

    /// Takes note of an event.
    pub fn note(&self, seconds: f64, kind: EventKind, text: &str) {
        if let Some(shared) = &self.0 {
            shared.lock().chronicle.note(seconds, kind, text);
        }
    }

    /// This is how things stand.
    pub fn show(&self, snapshot: &Snapshot) {
        if let Some(shared) = &self.0 {
            let mut news = shared.lock();
            news.chronicle.look(snapshot);
            news.snapshot = Some(snapshot.clone());
        }
    }

    /// These are the evaluations along the surviving history.
    pub fn evaluated(&self, evaluations: &[Evaluation]) {
        if let Some(shared) = &self.0 {
            shared.lock().evaluations = evaluations.to_vec();
        }
    }
}

/// What is to be followed, and for whom.
pub struct Subject {
    /// What stays the same while the run lives.
    pub about: About,
    /// The table of steps; it need not be there yet.
    pub steps: PathBuf,
    /// Device names in the order of ranks.
    pub devices: Vec<String>,
    /// Where the page is asked for, if it is.
    pub page: Option<TcpListener>,
    /// TensorBoard's file, if it is wanted.
    pub tensorboard: Option<EventFile>,
}

/// The one who follows a run; it ends with this.
#[derive(Default)]
pub struct Live {
    feed: Feed,
    thread: Option<JoinHandle<()>>,
    server: Option<Server>,
}

impl Live {
    /// Begins to follow, if there is anybody to do it for.
    pub fn begin(subject: Subject, feed: Feed) -> Result<Self> {
        let (Some(shared), false) = (&feed.0, subject.page.is_none() && subject.tensorboard.is_none()) else {
            return Ok(Self::default());
        };
        let published = Arc::new(Published::default());
        let Subject { about, steps, devices, page, tensorboard } = subject;
        let server = page.map(|listener| Server::start(listener, Arc::clone(&published))).transpose()?;
        let work = Work {
            shared: Arc::clone(shared),
            follower: Some(Follower::new(&steps, &devices)),
            tensorboard,
            about,
            history: History::default(),
            published: server.is_some().then_some(published),
        };
        // Whoever asks at once finds a document.
        work.publish(false);
        let thread = std::thread::Builder::new()
            .name("live".to_owned())
            .spawn(move || work.follow())
            .map_err(|error| Failure::internal(format!("the run cannot be followed: {error}")))?;
        Ok(Self { feed, thread: Some(thread), server })
    }

    /// The run has ended in this way: shows it to those who look, and ends.
    pub fn end(self, end: End) {
        if let Some(shared) = &self.feed.0 {
            shared.lock().end = Some(end);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(shared) = &self.feed.0 {
            shared.lock().over = true;
            shared.changed.notify_all();
        }
        if let Some(thread) = self.thread.take() {
            // That it panicked would have been said.
            let _ = thread.join();
        }
        drop(self.server.take());
    }
}

/// What the thread has in hand.
struct Work {
    shared: Arc<Shared>,
    /// `None` once the table has turned out to be none.
    follower: Option<Follower>,
    tensorboard: Option<EventFile>,
    about: About,
    history: History,
    published: Option<Arc<Published>>,
}

impl Work {
    fn follow(mut self) {
        loop {
            let over = self.wait();
            while self.read() {
                self.publish(false);
            }
            self.publish(over);
            if over {
                return;
            }
        }
    }

    /// Waits for the next moment to look; whether the run is over.
    fn wait(&self) -> bool {
        let news = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(news, PAUSE, |news| !news.over);
        waited.unwrap_or_else(PoisonError::into_inner).0.over
    }

    /// Reads some of what has come to the table of steps; whether there is more.
    fn read(&mut self) -> bool {
        let Some(follower) = &mut self.follower else { return false };
        let (history, tensorboard) = (&mut self.history, &mut self.tensorboard);
        let evaluations = self.shared.lock().evaluations.clone();
        let mut written = Ok(());
        let read = follower.read(|step| {
            history.add(step);
            if let (Some(file), true) = (tensorboard.as_mut(), written.is_ok()) {
                written = file.add(step, &evaluations);
            }
        });
        if let Some(file) = tensorboard {
            let written_at = follower.written_at().filter(|_| matches!(read, Ok(false)));
            written = written.and_then(|()| file.flush(written_at, &evaluations));
        }
        if let Err(failure) = written {
            self.tensorboard = None;
            self.give_up(&format!("{}; nothing more is written for TensorBoard", failure.message));
        }
        match read {
            Ok(more) => more,
            Err(error) => {
                self.follower = None;
                self.give_up(&format!("steps.csv: {error}; there are no more curves"));
                false
            }
        }
    }

    /// Tells what no longer works; the run goes on.
    fn give_up(&self, text: &str) {
        let mut news = self.shared.lock();
        let seconds = news.snapshot.as_ref().map_or(0.0, |snapshot| snapshot.seconds);
        news.chronicle.note(seconds, EventKind::Failure, text);
        tracing::error!("{text}");
    }

    fn publish(&self, last: bool) {
        let Some(published) = &self.published else { return };
        let document = {
            let news = self.shared.lock();
            let document = page(&Sight {
                about: &self.about,
                snapshot: news.snapshot.as_ref(),
                history: &self.history,
                evaluations: &news.evaluations,
                chronicle: &news.chronicle,
                end: news.end.as_ref(),
            });
            serde_json::to_string(&document).unwrap_or_default()
        };
        if last { published.set_last(document) } else { published.set(document) }
    }
}

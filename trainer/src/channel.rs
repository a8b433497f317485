//! The control channel: rank 0 as hub, one framed TCP connection per rank.
//!
//! It carries one report each way per round and is the failure detector of the group: a closed socket is seen at once,
//! a silent one after [`SILENCE`]. It needs no data engine, so it is the same for all back ends. What reports mean is
//! decided by the caller's closure; the channel only delivers.
//!
//! I/O: sockets, on the tokio runtime whose handle is given. The training thread never runs async code: it calls
//! [`Member::report`] and [`Member::verdict`].

use std::{
    net::SocketAddr,
    sync::mpsc as std_mpsc,
    time::{Duration, Instant},
};

use futures_util::{Sink, SinkExt, StreamExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use subtle::ConstantTimeEq;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};

/// A peer that sends nothing for this long is lost.
pub const SILENCE: Duration = Duration::from_secs(5);
/// A peer that has not taken a message after this long reads no more. Longer than [`SILENCE`]: a large one takes its time on
/// a slow line.
const TAKING: Duration = Duration::from_secs(20);
/// How often a side that has nothing else to say shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Frames larger than this are refused: a report of a device with 1,024 partitions stays far below.
const MAX_FRAME_BYTES: usize = 8 << 20;
/// Messages that may wait for a peer before it counts as stuck.
const QUEUE: usize = 64;
/// Strangers that are heard at once beside the group's own while it forms; more wait until one of them is refused.
const STRANGERS: usize = 64;

/// Why the channel could not be built or was lost.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChannelError {
    /// The hub could not be reached, or did not see all ranks, before the deadline.
    #[error("the group did not form within {seconds:.0} s: {problem}")]
    NotFormed {
        /// Patience.
        seconds: f64,
        /// Last problem seen.
        problem: String,
    },
    /// The hub does not want this worker.
    #[error("rank 0 refused this worker: {0}")]
    Refused(String),
    /// A rank is gone.
    #[error("rank {rank} was lost: {problem}")]
    Lost {
        /// Which rank.
        rank: usize,
        /// How it was noticed.
        problem: String,
    },
}

/// First message of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`scadles_api::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Attempt that the member belongs to.
    pub attempt: u32,
    /// Its rank.
    pub rank: usize,
    /// Token of the job.
    pub token: String,
}

#[derive(Serialize, Deserialize)]
enum ToHub<R> {
    Hello(Hello),
    Report(R),
    Heartbeat,
}

#[derive(Clone, Serialize, Deserialize)]
enum FromHub<V> {
    Welcome { greeting: String },
    Refused { problem: String },
    Verdict { verdict: V, last: bool },
    Heartbeat,
    Lost { rank: usize, problem: String },
}

type Wire = Framed<TcpStream, LengthDelimitedCodec>;

fn frame(stream: TcpStream) -> Wire {
    // One small frame each way per round: waiting to fill packets would cost 40 ms. Failure only costs latency.
    let _ = stream.set_nodelay(true);
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_framed(stream)
}

fn encode<M: Serialize>(message: &M) -> Result<Bytes, String> {
    rmp_serde::to_vec_named(message).map(Bytes::from).map_err(|error| error.to_string())
}

/// A peer that lives and reads nothing would hold its sender up for ever once its socket is full; and who is held up does not
/// notice silence.
async fn send(
    sink: &mut (impl Sink<Bytes, Error = std::io::Error> + Unpin),
    message: Result<Bytes, String>,
    patience: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(patience, sink.send(message?)).await {
        Err(_) => Err(format!("it has read nothing for {:.0} s", patience.as_secs_f64())),
        Ok(sent) => sent.map_err(|error| error.to_string()),
    }
}

async fn receive<M: DeserializeOwned>(wire: &mut Wire, patience: Duration) -> Result<M, String> {
    match tokio::time::timeout(patience, wire.next()).await {
        Err(_) => Err(format!("silent for {:.0} s", patience.as_secs_f64())),
        Ok(None) => Err("connection closed".to_owned()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(Some(Ok(bytes))) => rmp_serde::from_slice(&bytes).map_err(|error| format!("bad message: {error}")),
    }
}

/// What the hub's closure decided for all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling<V> {
    /// Sent to every rank.
    pub verdict: V,
    /// The group parts after it: from then on a closed connection is no loss.
    pub last: bool,
}

/// What the hub of one attempt expects.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Number of ranks.
    pub world_size: usize,
    /// Only members of this attempt may join.
    pub attempt: u32,
    /// Only members with this token may join.
    pub token: String,
    /// All ranks must have joined by then.
    pub join_within: Duration,
    /// Per rank: what its member is sent once all have joined.
    pub greetings: Vec<String>,
}

/// Starts the hub on `listener`. After every report `decide` sees the latest report of each rank; when it rules, all ranks
/// get the verdict and the reports are forgotten.
///
/// The hub ends after the last verdict, or when a member is lost: the others are told which.
pub fn serve_hub<R, V>(
    runtime: &Handle,
    listener: TcpListener,
    settings: HubSettings,
    decide: impl FnMut(&[Option<R>]) -> Option<Ruling<V>> + Send + 'static,
) where
    R: DeserializeOwned + Send + 'static,
    V: Serialize + Clone + Send + 'static,
{
    runtime.spawn(async move {
        let members = match admit_all::<V>(&listener, &settings).await {
            Ok(members) => members,
            Err(problem) => return tracing::error!(problem, "the group did not form"),
        };
        run_hub(members, decide).await;
    });
}

/// Waits until every rank has joined; refuses strangers. All newcomers are heard at once: who says nothing holds up nobody.
async fn admit_all<V: Serialize + Send + 'static>(
    listener: &TcpListener,
    settings: &HubSettings,
) -> Result<Vec<Wire>, String> {
    let mut members: Vec<Option<Wire>> = (0..settings.world_size).map(|_| None).collect();
    let mut newcomers = JoinSet::new();
    let mut refusals = JoinSet::new();
    let deadline = tokio::time::sleep(settings.join_within);
    tokio::pin!(deadline);
    while members.iter().any(Option::is_none) {
        let is_room = newcomers.len() + refusals.len() < settings.world_size + STRANGERS;
        tokio::select! {
            () = &mut deadline => return Err(missing(&members)),
            accepted = listener.accept(), if is_room => {
                let (stream, _) = accepted.map_err(|error| error.to_string())?;
                newcomers.spawn(hear(frame(stream)));
            }
            Some(heard) = newcomers.join_next() => {
                let (mut wire, hello) = heard.map_err(|error| error.to_string())?;
                match admission(settings, hello, &members) {
                    Ok(rank) => members[rank] = Some(wire),
                    // The stranger's own socket may be broken already; the group does not depend on it.
                    Err(problem) => drop(refusals.spawn(async move {
                        drop(send(&mut wire, encode(&FromHub::<V>::Refused { problem }), TAKING).await);
                    })),
                }
            }
            Some(_) = refusals.join_next() => {}
        }
    }
    // What strangers are told is still told.
    refusals.detach_all();
    welcome::<V>(members.into_iter().flatten().collect(), settings).await
}

/// A newcomer with the first that it says.
async fn hear(mut wire: Wire) -> (Wire, Result<ToHub<()>, String>) {
    let hello = receive(&mut wire, SILENCE).await;
    (wire, hello)
}

fn missing(members: &[Option<Wire>]) -> String {
    let is_missing = |(rank, wire): (usize, &Option<Wire>)| wire.is_none().then(|| rank.to_string());
    let ranks: Vec<String> = members.iter().enumerate().filter_map(is_missing).collect();
    format!("ranks {} did not join", ranks.join(", "))
}

/// Greets all ranks, in their order, now that all have joined.
async fn welcome<V: Serialize>(mut joined: Vec<Wire>, settings: &HubSettings) -> Result<Vec<Wire>, String> {
    for (rank, wire) in joined.iter_mut().enumerate() {
        let greeting = settings.greetings.get(rank).cloned().unwrap_or_default();
        let welcome = FromHub::<V>::Welcome { greeting };
        send(wire, encode(&welcome), TAKING)
            .await
            .map_err(|problem| format!("rank {rank} left while the group formed: {problem}"))?;
    }
    Ok(joined)
}

/// The rank of a newcomer, or why it may not join.
fn admission(
    settings: &HubSettings,
    hello: Result<ToHub<()>, String>,
    members: &[Option<Wire>],
) -> Result<usize, String> {
    let ToHub::Hello(hello) = hello? else { return Err("the first message must be a hello".to_owned()) };
    // In constant time: a stranger must not learn how much of a guess was right.
    if !bool::from(hello.token.as_bytes().ct_eq(settings.token.as_bytes())) {
        return Err("wrong token".to_owned());
    }
    if hello.protocol != scadles_api::PROTOCOL_VERSION {
        return Err(format!(
            "protocol {} is spoken here, not {}",
            scadles_api::PROTOCOL_VERSION,
            hello.protocol
        ));
    }
    if hello.attempt != settings.attempt {
        return Err(format!("this is attempt {}, not {}", settings.attempt, hello.attempt));
    }
    match members.get(hello.rank) {
        None => Err(format!("rank {} is outside a group of {}", hello.rank, settings.world_size)),
        Some(Some(_)) => Err(format!("rank {} has joined already", hello.rank)),
        Some(None) => Ok(hello.rank),
    }
}

enum Incoming<R> {
    Report { rank: usize, report: R },
    Lost { rank: usize, problem: String },
    Left,
}

/// Serves one formed group until it ends.
async fn run_hub<R, V>(members: Vec<Wire>, mut decide: impl FnMut(&[Option<R>]) -> Option<Ruling<V>>)
where
    R: DeserializeOwned + Send + 'static,
    V: Serialize + Clone + Send + 'static,
{
    let (to_hub, mut incoming) = mpsc::channel::<Incoming<R>>(QUEUE * members.len());
    let mut reports: Vec<Option<R>> = members.iter().map(|_| None).collect();
    let mut outgoing = Vec::with_capacity(members.len());
    for (rank, wire) in members.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel::<FromHub<V>>(QUEUE);
        outgoing.push(sender);
        tokio::spawn(serve_member(rank, wire, receiver, to_hub.clone()));
    }
    drop(to_hub);
    while let Some(event) = incoming.recv().await {
        let message = match event {
            Incoming::Report { rank, report } => {
                reports[rank] = Some(report);
                match decide(&reports) {
                    None => continue,
                    Some(Ruling { verdict, last }) => {
                        reports.fill_with(|| None);
                        FromHub::Verdict { verdict, last }
                    }
                }
            }
            Incoming::Lost { rank, problem } => FromHub::Lost { rank, problem },
            Incoming::Left => continue,
        };
        for (rank, member) in outgoing.iter().enumerate() {
            // A member whose queue is full does not read any more: its own silence ends it.
            if let Err(mpsc::error::TrySendError::Full(_)) = member.try_send(message.clone()) {
                tracing::warn!(rank, "a member does not read its messages");
            }
        }
        if matches!(message, FromHub::Lost { .. } | FromHub::Verdict { last: true, .. }) {
            // The writers still send what waits for them, then end.
            return;
        }
    }
}

/// Reads and writes one member's socket.
async fn serve_member<R, V>(
    rank: usize,
    wire: Wire,
    mut outgoing: mpsc::Receiver<FromHub<V>>,
    hub: mpsc::Sender<Incoming<R>>,
) where
    R: DeserializeOwned,
    V: Serialize,
{
    let (mut sink, mut stream) = StreamExt::split::<Bytes>(wire);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut heard = tokio::time::Instant::now();
    let end = loop {
        let message = tokio::select! {
            // What a peer said before it went is heard before the writing to it fails.
            biased;
            frame = stream.next() => {
                heard = tokio::time::Instant::now();
                let parsed = match frame {
                    Some(Ok(bytes)) => rmp_serde::from_slice::<ToHub<R>>(&bytes).map_err(|error| format!("bad message: {error}")),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("connection closed".to_owned()),
                };
                match parsed {
                    Ok(ToHub::Report(report)) => { if hub.send(Incoming::Report { rank, report }).await.is_err() { break Incoming::Left } }
                    Ok(_) => {}
                    Err(problem) => break Incoming::Lost { rank, problem },
                }
                continue;
            }
            message = outgoing.recv() => match message { Some(message) => message, None => break Incoming::Left },
            _ = heartbeat.tick() => FromHub::Heartbeat,
        };
        if heard.elapsed() > SILENCE {
            break Incoming::Lost { rank, problem: format!("silent for {:.0} s", SILENCE.as_secs_f64()) };
        }
        if let Err(problem) = send(&mut sink, encode(&message), TAKING).await {
            break Incoming::Lost { rank, problem };
        }
    };
    // The hub may have ended already: then nobody needs to know.
    let _ = hub.send(end).await;
    // Closing a socket with unread bytes resets it and may cost the peer the last message: close our half, then read on.
    let _ = sink.close().await;
    let drained = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(SILENCE, drained).await;
}

/// One rank's end of the channel, used by the training thread.
pub struct Member<R, V> {
    reports: mpsc::Sender<R>,
    verdicts: std_mpsc::Receiver<V>,
    greeting: String,
}

impl<R, V> Member<R, V>
where
    R: Serialize + Send + 'static,
    V: DeserializeOwned + Send + 'static,
{
    /// Joins the hub at `hub`; blocks until all ranks have joined or `within` has passed. `on_lost` is called once, on the
    /// runtime's thread, when the group is lost while this member is still part of it.
    pub fn join(
        runtime: &Handle,
        hub: SocketAddr,
        hello: Hello,
        within: Duration,
        on_lost: impl FnOnce(ChannelError) + Send + 'static,
    ) -> Result<Self, ChannelError> {
        let (wire, greeting) = runtime.block_on(knock(hub, hello, within))?;
        let (reports, outgoing) = mpsc::channel(QUEUE);
        let (to_training, verdicts) = std_mpsc::channel();
        runtime.spawn(async move {
            if let Err(lost) = run_member(wire, outgoing, to_training).await {
                on_lost(lost);
            }
        });
        Ok(Self { reports, verdicts, greeting })
    }

    /// What the hub sent this rank when the group was complete.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Sends this rank's report. A report that cannot be sent means that the group is lost, which `on_lost` tells.
    pub fn report(&self, report: R) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!("the control channel does not take reports any more");
        }
    }

    /// The next verdict, or `None` when none came by `deadline` or the group is lost.
    pub fn verdict(&self, deadline: Instant) -> Option<V> {
        self.verdicts.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

/// Connects and waits for the welcome.
async fn knock(hub: SocketAddr, hello: Hello, within: Duration) -> Result<(Wire, String), ChannelError> {
    let deadline = tokio::time::Instant::now() + within;
    let not_formed = |problem: String| ChannelError::NotFormed { seconds: within.as_secs_f64(), problem };
    let mut problem = format!("no answer from {hub}");
    loop {
        if tokio::time::Instant::now() >= deadline {
            return Err(not_formed(problem));
        }
        match tokio::time::timeout_at(deadline, TcpStream::connect(hub)).await {
            Err(_) => return Err(not_formed(problem)),
            Ok(Err(error)) => {
                problem = format!("{hub}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(Ok(stream)) => {
                let mut wire = frame(stream);
                send(&mut wire, encode(&ToHub::<()>::Hello(hello)), TAKING).await.map_err(&not_formed)?;
                let patience = deadline.saturating_duration_since(tokio::time::Instant::now());
                return match receive::<FromHub<serde::de::IgnoredAny>>(&mut wire, patience).await {
                    Ok(FromHub::Welcome { greeting }) => Ok((wire, greeting)),
                    Ok(FromHub::Refused { problem }) => Err(ChannelError::Refused(problem)),
                    Ok(_) => Err(not_formed("rank 0 spoke out of turn".to_owned())),
                    Err(problem) => Err(not_formed(problem)),
                };
            }
        }
    }
}

/// Carries reports out and verdicts in. `Ok` when this member leaves by dropping its end.
async fn run_member<R, V>(
    mut wire: Wire,
    mut outgoing: mpsc::Receiver<R>,
    training: std_mpsc::Sender<V>,
) -> Result<(), ChannelError>
where
    R: Serialize,
    V: DeserializeOwned,
{
    let lost_hub = |problem: String| ChannelError::Lost { rank: 0, problem };
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut heard = tokio::time::Instant::now();
    loop {
        let message = tokio::select! {
            // What a peer said before it went is heard before the writing to it fails.
            biased;
            frame = wire.next() => {
                heard = tokio::time::Instant::now();
                let bytes = match frame {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(error)) => return Err(lost_hub(error.to_string())),
                    None => return Err(lost_hub("connection closed".to_owned())),
                };
                match rmp_serde::from_slice(&bytes) {
                    // After the last verdict, or when the training thread has left, there is nothing more to carry.
                    Ok(FromHub::Verdict { verdict, last }) => { if training.send(verdict).is_err() || last { return Ok(()) } }
                    Ok(FromHub::Lost { rank, problem }) => return Err(ChannelError::Lost { rank, problem }),
                    Ok(_) => {}
                    Err(error) => return Err(lost_hub(format!("bad message: {error}"))),
                }
                continue;
            }
            report = outgoing.recv() => match report { Some(report) => ToHub::Report(report), None => return Ok(()) },
            _ = heartbeat.tick() => ToHub::Heartbeat,
        };
        if heard.elapsed() > SILENCE {
            return Err(lost_hub(format!("silent for {:.0} s", SILENCE.as_secs_f64())));
        }
        send(&mut wire, encode(&message), TAKING).await.map_err(lost_hub)?;
    }
}

#[cfg(test)]
mod tests;

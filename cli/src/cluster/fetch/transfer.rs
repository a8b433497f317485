//! The pod's life: made, waited for, asked for `tar`, deleted. I/O.

use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Status,
};
use kube::{
    Api, ResourceExt,
    api::{AttachParams, AttachedProcess, DeleteParams, PostParams},
};
use scadles_api::ExitCode;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep, timeout},
};

use super::{
    pod::{CONTAINER, tar_command},
    source::Source,
    unpack::{Coming, Unpacked, check, unpack},
};
use crate::{
    cluster::{
        client::Cluster,
        refusal, time,
        why::{What, troubles},
        words,
    },
    failure::{Failure, Result},
    screen::warn,
};

/// A pod that is not up by then will not be: images of trainers are large.
const START: Duration = Duration::from_mins(5);
/// Between two looks at the pod.
const PAUSE: Duration = Duration::from_millis(500);
/// Deleting takes no longer.
const DELETION: Duration = Duration::from_secs(15);
/// Bytes read from the pod at a time, and chunks that wait to be written.
const CHUNK: usize = 1 << 16;
const CHUNKS: usize = 16;
/// Of what `tar` complains about, this much is read.
const COMPLAINTS: u64 = 4096;

/// Makes the pod, brings the files into `staging`, and deletes the pod however that went.
pub(super) async fn bring(
    cluster: &Cluster,
    pod: Pod,
    source: &Source,
    staging: TempDir,
) -> Result<Unpacked> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = pod.name_any();
    // Signals are caught from here on: one that comes while the pod is being made is not lost.
    let mut interrupts = Interrupts::catch()?;
    cluster.ask(&format!("create pod {name}"), "edit", pods.create(&PostParams::default(), &pod)).await?;
    let meter = Meter::new();
    let outcome = tokio::select! {
        outcome = transfer(cluster, &pods, &name, source, staging, &meter) => outcome,
        () = interrupts.next() => Err(Failure {
            code: ExitCode::Interrupted,
            message: "interrupted: nothing was written".to_owned(),
            remedy: String::new(),
        }),
    };
    meter.tell("deleting the pod");
    tokio::select! {
        () = delete(cluster, &pods, &name) => {}
        // Whoever asks a second time does not want to wait.
        () = interrupts.next() => warn(format!("pod {name} of namespace {} is left: it ends by itself", cluster.namespace)),
    }
    meter.close();
    outcome
}

async fn transfer(
    cluster: &Cluster,
    pods: &Api<Pod>,
    name: &str,
    source: &Source,
    staging: TempDir,
    meter: &Meter,
) -> Result<Unpacked> {
    wait_until_up(cluster, pods, name, meter).await?;
    let parameters = AttachParams::default().container(CONTAINER).stdin(false).max_stdout_buf_size(CHUNK * 4);
    let command = tar_command(source);
    let process =
        cluster.ask(&format!("run tar in pod {name}"), "edit", pods.exec(name, command, &parameters)).await?;
    let unpacked = receive(process, staging, meter, &source.uri).await?;
    check(&unpacked, source.sha256.as_deref(), &source.uri)?;
    Ok(unpacked)
}

/// Waits for the container to run; what keeps it from that is said meanwhile, and at the end.
async fn wait_until_up(cluster: &Cluster, pods: &Api<Pod>, name: &str, meter: &Meter) -> Result<()> {
    let began = Instant::now();
    loop {
        let pod = cluster.ask(&format!("look at pod {name}"), "edit", pods.get(name)).await?;
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_ref());
        if containers
            .into_iter()
            .flatten()
            .any(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()))
        {
            return Ok(());
        }
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        if matches!(phase, "Succeeded" | "Failed") {
            let reason = status
                .and_then(|status| init_message(status).or(status.message.clone()).or(status.reason.clone()));
            return Err(Failure::storage(
                format!(
                    "pod {name} ended at once: {}",
                    words::one_line(&reason.unwrap_or_else(|| phase.to_owned()))
                ),
                format!(
                    "its image must have `sleep` and `tar`; see: kubectl -n {} describe pod {name}",
                    cluster.namespace
                ),
            ));
        }
        let reason = reason(cluster, &pod).await;
        if began.elapsed() > START {
            let reason = reason.unwrap_or_else(|| "the cluster does not say why".to_owned());
            return Err(Failure::storage(
                format!("pod {name} was not up within {} s: {reason}", START.as_secs()),
                "mend that and fetch again",
            ));
        }
        meter.tell(&format!(
            "pod {name} comes up{}",
            reason.map_or(String::new(), |reason| format!(": {reason}"))
        ));
        sleep(PAUSE).await;
    }
}

/// Why the results could not be brought out of their bucket.
fn init_message(status: &PodStatus) -> Option<String> {
    let mut containers = status.init_container_statuses.iter().flatten();
    containers.find_map(|it| it.state.as_ref()?.terminated.as_ref()?.message.clone())
}

/// What the cluster says against the pod.
async fn reason(cluster: &Cluster, pod: &Pod) -> Option<String> {
    let events = cluster.warnings().await.unwrap_or_default();
    let trouble = troubles(std::slice::from_ref(pod), &events, time::now()).pop()?;
    Some(match trouble.what {
        What::ClaimMissing(claim) => format!("PersistentVolumeClaim {claim} is missing"),
        What::SecretMissing(secret) => format!("Secret {secret} is missing"),
        What::Image { image, why } => format!("image {image}: {why}"),
        What::Rejected(said) | What::Unschedulable(said) | What::Other(said) => said,
    })
}

/// Unpacks on a thread of its own what comes in here.
async fn receive(
    mut process: AttachedProcess,
    staging: TempDir,
    meter: &Meter,
    place: &str,
) -> Result<Unpacked> {
    let lost = || Failure::storage("the pod gives no output", "try again");
    let ended = process.take_status().ok_or_else(lost)?;
    let stdout = process.stdout().ok_or_else(lost)?;
    let stderr = process.stderr().ok_or_else(lost)?;
    let (send, chunks) = channel(CHUNKS);
    let telling = meter.clone();
    let writer = tokio::task::spawn_blocking(move || {
        unpack(Chunks::new(chunks), staging, |coming| telling.show(&coming))
    });
    let complaints = async {
        let mut text = String::new();
        // What cannot be read cannot be told.
        let _ = stderr.take(COMPLAINTS).read_to_string(&mut text).await;
        text
    };
    let (forwarded, complaints) = tokio::join!(forward(stdout, send), complaints);
    let unpacked = writer.await.map_err(|error| Failure::internal(format!("unpacking ended: {error}")))?;
    match forwarded {
        // The writer knows why.
        Ok(Forwarded::Refused) => return unpacked,
        Ok(Forwarded::All) => finished(ended.await, &complaints, place)?,
        Err(error) => {
            return Err(Failure::storage(
                format!("the transfer broke off: {error}"),
                "try again; nothing was written",
            ));
        }
    }
    unpacked
}

/// How a stream was handed on.
enum Forwarded {
    /// To its end.
    All,
    /// Until nobody took it any more.
    Refused,
}

/// Hands on what comes.
async fn forward(mut from: impl AsyncRead + Unpin, to: Sender<Vec<u8>>) -> io::Result<Forwarded> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(Forwarded::All);
        }
        chunk.truncate(count);
        if to.send(chunk).await.is_err() {
            return Ok(Forwarded::Refused);
        }
    }
}

/// Whether `tar` ended well.
fn finished(status: Option<Status>, complaints: &str, place: &str) -> Result<()> {
    let Some(status) = status else {
        return Err(Failure::storage(
            format!("the connection to the pod broke off; tar said: {}", said(complaints)),
            "try again; nothing was written",
        ));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let message = words::one_line(&status.message.unwrap_or_default());
    Err(Failure::storage(
        format!("{place} cannot be read: tar said: {} ({message})", said(complaints)),
        "see that the results are still there",
    ))
}

fn said(complaints: &str) -> String {
    complaints.lines().next().map_or("nothing".to_owned(), words::one_line)
}

/// Deletes the pod, or says that it is left.
async fn delete(cluster: &Cluster, pods: &Api<Pod>, name: &str) {
    let answer = timeout(DELETION, pods.delete(name, &DeleteParams::default().grace_period(0))).await;
    let problem = match answer {
        Ok(Ok(_)) => return,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
        Ok(Err(error)) => {
            refusal::refused(&error, &format!("delete pod {name}"), "edit", &cluster.server).message
        }
        Err(_) => format!("no answer within {} s", DELETION.as_secs()),
    };
    warn(format!(
        "scadles: pod {name} is left, it ends by itself ({problem}); or: kubectl -n {} delete pod {name}",
        cluster.namespace
    ));
}

/// A stream of chunks as a reader of a blocking thread.
struct Chunks {
    chunks: Receiver<Vec<u8>>,
    open: io::Cursor<Vec<u8>>,
}

impl Chunks {
    fn new(chunks: Receiver<Vec<u8>>) -> Self {
        Self { chunks, open: io::Cursor::default() }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = Read::read(&mut self.open, buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => self.open = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}

/// Ctrl-C, and a request of the system to end.
struct Interrupts {
    keyboard: Signal,
    system: Signal,
}

impl Interrupts {
    fn catch() -> Result<Self> {
        let failed = |error: io::Error| Failure::internal(format!("signals cannot be caught: {error}"));
        Ok(Self {
            keyboard: signal(SignalKind::interrupt()).map_err(failed)?,
            system: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.keyboard.recv() => {}
            _ = self.system.recv() => {}
        }
    }
}

/// One line on the terminal that tells how far things are; silent in a pipe.
#[derive(Clone)]
struct Meter(Option<ProgressBar>);

impl Meter {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }

    fn tell(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.to_owned());
        }
    }

    fn show(&self, coming: &Coming) {
        if let Some(bar) = &self.0 {
            let (here, all) = (words::bytes(coming.here), words::bytes(coming.all));
            bar.set_message(format!("{}  {here} of {all}", coming.name));
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

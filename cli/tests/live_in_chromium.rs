//! The page of a run that lives, in a real browser: a run that is replayed step by step, and a real one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use scadles::live::server::{INDEX, POLICY, Published, router};
use support::{
    Scratch, await_some,
    chromium::{Seen, WINDOWS, checks_after, findings, open},
    finish,
    finished::Finished,
    learnable::{Settings, job},
    replay::Replay,
    report, scadles, text, trainer, turn,
};

/// The page is measured when it has been brought up to date so many times, and left alone for longer.
const UPDATES: u64 = 4;
const SECONDS: u64 = 8;

/// What a request for the document is answered with.
type Answer = Box<dyn FnMut() -> Option<String> + Send>;

/// Serves the page on a free port for as long as the test program lives: `/` as it is, `/checked` with the checks beside it.
/// Every request for the document gets the next one; none is a server that is not well.
fn serve(documents: impl FnMut() -> Option<String> + Send + 'static) -> String {
    let documents: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(documents)));
    let published = Arc::new(Published::default());
    let shown = Arc::clone(&published);
    let replay = move |request: Request, next: Next| {
        let (documents, shown) = (Arc::clone(&documents), Arc::clone(&shown));
        async move {
            if request.uri().path() == "/api/v1/run" {
                let document = documents.lock().unwrap()();
                let Some(document) = document else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
                shown.set(document);
            }
            next.run(request).await
        }
    };
    let checked = || async {
        let page = INDEX.replace("</head>", "<script type=\"module\" src=\"checks.js\"></script></head>");
        let kind = [(header::CONTENT_TYPE, "text/html"), (header::CONTENT_SECURITY_POLICY, POLICY)];
        (kind, page).into_response()
    };
    let checks = || async { ([(header::CONTENT_TYPE, "text/javascript")], checks_after(UPDATES)) };
    let router = router(published, IpAddr::V4(Ipv4Addr::LOCALHOST))
        .route("/checked", get(checked))
        .route("/checks.js", get(checks))
        .layer(middleware::from_fn(move |request: Request, next: Next| -> Reply {
            Box::pin(replay(request, next))
        }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    format!("http://{address}/")
}

type Reply = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

/// Serves a run of which every request sees some more steps.
fn replayed(run: Finished, steps_at_once: usize, scratch: &Scratch) -> String {
    let mut replay = Replay::new(run, scratch.path());
    serve(move || {
        replay.go_on(steps_at_once);
        Some(replay.document())
    })
}

/// More devices are not in the page.
const ROWS: usize = 24;

/// Loss, accuracy, speed, waiting, time, batch and the ledger; four of each device.
const fn plots(devices: usize) -> usize {
    7 + 4 * devices
}

/// Replays a run before every kind of window, from its start.
fn assert_sound(run: impl Fn() -> Finished, steps_at_once: usize, scratch: &Scratch) {
    let mut grounds = Vec::new();
    for window in WINDOWS {
        let run = run();
        let plots = plots(run.devices.min(ROWS));
        let address = replayed(run, steps_at_once, scratch);
        let seen = open(&format!("{address}checked"), window, SECONDS, scratch.path());
        let found = findings(&seen);
        assert!(found.mistakes.is_empty(), "{window:?}:\n{}", found.mistakes.join("\n"));
        assert_eq!(found.plots, plots, "{window:?}");
        grounds.push(found.ground);
    }
    assert_ne!(grounds[0], grounds[1], "light and dark");
}

fn look(address: &str, scratch: &Scratch) -> Seen {
    let seen = open(address, WINDOWS[0], SECONDS, scratch.path());
    assert_eq!(seen.console, [""; 0]);
    seen
}

/// How many values the plot with this id shows.
fn values(seen: &Seen, id: &str) -> u64 {
    let plot = seen.dom.split(&format!("id=\"{id}\"")).nth(1).unwrap();
    let value = plot.split("data-points=\"").nth(1).and_then(|rest| rest.split('"').next());
    value.unwrap().parse().unwrap()
}

#[test]
fn the_page_of_a_run_that_goes_on_is_sound() {
    let scratch = Scratch::new("chromium-live");
    let run = || Finished { steps: 400, rolled_back: 30, devices: 4, ..Finished::default() };
    assert_sound(run, 60, &scratch);
}

#[test]
fn the_page_of_many_devices_is_sound() {
    let scratch = Scratch::new("chromium-live-many");
    let prefix = "a-device-with-a-rather-long-name-";
    let run = || Finished { devices: 200, prefix: prefix.to_owned(), ..Finished::default() };
    assert_sound(run, 6, &scratch);
}

#[test]
fn hostile_names_and_messages_stay_text() {
    let scratch = Scratch::new("chromium-live-hostile");
    let hostile = "<script>console.error('ran')</script><img src=x onerror=console.error('ran')>\"'</style></svg>&\u{202e}";
    let run = || Finished {
        prefix: hostile.to_owned(),
        message: hostile.repeat(10),
        rolled_back: 5,
        ..Finished::default()
    };
    assert_sound(run, 8, &scratch);
    let seen = look(&replayed(run(), 8, &scratch), &scratch);
    assert!(seen.dom.contains("&lt;img src=x"), "the name is there: {}", seen.dom);
    assert!(!seen.dom.contains("<img"), "and is no element");
}

#[test]
fn updates_arrive_and_a_page_that_is_loaded_again_shows_all_from_the_start() {
    let scratch = Scratch::new("chromium-live-updates");
    let address = replayed(Finished { steps: 150, ..Finished::default() }, 3, &scratch);
    let first = look(&address, &scratch);
    assert!(first.data("updates") >= UPDATES, "{}", first.data("updates"));
    assert!(first.data("step") >= 3 * UPDATES, "{}", first.data("step"));
    let again = look(&address, &scratch);
    assert!(again.data("step") > first.data("step"));
    // Every step is a value of its own up to here, and so are those that the first page has seen.
    assert_eq!(values(&again, "batch"), again.data("step"));
}

#[test]
fn a_page_without_a_step_says_so_and_is_sound() {
    let scratch = Scratch::new("chromium-live-early");
    let replay = Replay::new(Finished::default(), scratch.path());
    let address = serve(move || Some(replay.document()));
    let seen = look(&address, &scratch);
    assert!(seen.dom.contains("no step yet") && seen.data("step") == 0, "{}", seen.dom);
}

#[test]
fn a_lost_connection_and_an_end_are_said() {
    let scratch = Scratch::new("chromium-live-lost");
    let mut replay = Replay::new(Finished::default(), scratch.path());
    let mut left = 3;
    let address = serve(move || {
        left -= 1;
        replay.go_on(3);
        (left >= 0).then(|| replay.document())
    });
    let lost = open(&address, WINDOWS[0], SECONDS, scratch.path());
    assert_eq!(lost.data("updates"), 3);
    assert!(lost.dom.contains("The connection to the run is lost</b>"), "{}", lost.dom);
    assert!(lost.dom.contains("/report.html"), "where its report would be: {}", lost.dom);
    let mut replay = Replay::new(Finished::default(), &scratch.path().join("ended"));
    let address = serve(move || {
        replay.go_on(20);
        Some(replay.document())
    });
    let ended = look(&address, &scratch);
    assert!(ended.dom.contains("The run has ended: Completed"), "{}", ended.dom);
    assert!(ended.data("updates") < SECONDS - 1, "a page of an ended run asks no more");
}

#[test]
fn a_real_run_shows_itself_and_ends_as_it_would_without() {
    let _turn = turn();
    let scratch = Scratch::new("chromium-live-real");
    let folder = scratch.path().join("run");
    let job = job(scratch.path(), &Settings { steps: 80, ..Settings::default() });
    let words = scratch.path().join("words");
    let mut command = scadles(&trainer());
    command.arg("run").arg(job).args(["--plain", "--ui", "127.0.0.1:0", "--out"]).arg(&folder);
    let child = command.stdout(File::create(&words).unwrap()).spawn().unwrap();
    let said = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let address = await_some("the page's address", || {
        let text = said(&words);
        let rest = text.split_once("live page ")?.1;
        Some(rest.split_once('\n')?.0.trim().to_owned())
    });
    let first = await_some("a step in the page", || {
        let seen = open(&address, WINDOWS[0], 2, scratch.path());
        assert_eq!(seen.console, [""; 0]);
        (seen.data("step") > 0 && values(&seen, "loss") > 0).then_some(seen)
    });
    let later = await_some("a later step in the page", || {
        let seen = open(&address, WINDOWS[0], 2, scratch.path());
        (seen.data("step") > first.data("step")).then_some(seen)
    });
    assert!(later.dom.contains("device-2") && values(&later, "speed") > 0, "{}", later.dom);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{}\n{}", text(&output), said(&words));
    assert_eq!(report(&folder).steps, 80);
}

//! The page's HTTP server: a few files, and the document of the moment. Shell; knows nothing of jobs.
//!
//! A page asks for the document again every second. The server keeps nothing of those who ask, so that a reload is the same
//! request as any other, and whatever stands between passes it on.

use std::{
    net::{IpAddr, TcpListener},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::oneshot;

use super::address::is_own_name;
use crate::failure::{Failure, Result};

/// Nothing is loaded or run but what this server itself gives out; nobody may frame the page.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page as it is asked for.
pub const INDEX: &str = include_str!("../../assets/live/index.html");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Path, kind and content of the page's files. The first two style sheets are those of the report.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, INDEX),
    ("/plot.css", CSS, crate::plot::STYLE),
    ("/page.css", CSS, crate::report::html::STYLE),
    ("/live.css", CSS, include_str!("../../assets/live/live.css")),
    ("/live.js", SCRIPT, include_str!("../../assets/live/live.js")),
    ("/plot.js", SCRIPT, include_str!("../../assets/live/plot.js")),
    ("/icon.svg", IMAGE, include_str!("../../assets/live/icon.svg")),
];

/// Whoever has asked within this time is still looking.
const LOOKING: Duration = Duration::from_secs(3);

/// At the end, those who look have this long to fetch the last document.
const LAST_LOOK: Duration = Duration::from_millis(2_500);

/// What is under way at the end may take this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The document of the moment, between the one who writes it and those who read it.
#[derive(Default)]
pub struct Published {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    document: Arc<str>,
    is_last: bool,
    last_was_read: bool,
    read_at: Option<Instant>,
}

impl Published {
    fn lock(&self) -> MutexGuard<'_, Content> {
        // Poisoned, it holds a document all the same: nothing is done under the lock that could leave half of one.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is the document.
    pub fn set(&self, document: String) {
        self.lock().document = document.into();
    }

    /// This is the last document: waits until it has been read, if somebody has been reading at all.
    pub fn set_last(&self, document: String) {
        let mut content = self.lock();
        content.document = document.into();
        content.is_last = true;
        let is_looked_at = content.read_at.is_some_and(|at| at.elapsed() < LOOKING);
        if is_looked_at {
            let unread = |content: &mut Content| !content.last_was_read;
            drop(self.changed.wait_timeout_while(content, LAST_LOOK, unread));
        }
    }

    fn read(&self) -> Arc<str> {
        let mut content = self.lock();
        content.read_at = Some(Instant::now());
        content.last_was_read = content.is_last;
        self.changed.notify_all();
        Arc::clone(&content.document)
    }
}

/// A running server; it ends with this.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a thread of its own.
    pub fn start(listener: TcpListener, published: Arc<Published>) -> Result<Self> {
        let failed = |error: std::io::Error| Failure::internal(format!("--ui: failed to start: {error}"));
        let address = listener.local_addr().map_err(failed)?.ip();
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (ending, ended) = oneshot::channel();
            let graceful = async move {
                // A sender that is gone says the same as one that speaks.
                let _ = stopped.await;
                let _ = ending.send(());
            };
            let server = axum::serve(listener, router(published, address)).with_graceful_shutdown(graceful);
            tokio::select! {
                ended = server.into_future() => ended,
                () = async { let _ = ended.await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
            }
        };
        let work = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::warn!(%error, "the live page has ended");
            }
        };
        let thread = std::thread::Builder::new().name("page".to_owned()).spawn(work).map_err(failed)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends within `LAST_WORDS`; that it panicked would have been said.
            let _ = thread.join();
        }
    }
}

/// The page's files and its document, for those who listen on `address`.
pub fn router(published: Arc<Published>, address: IpAddr) -> Router {
    let mut router = Router::new();
    for (path, kind, content) in FILES {
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], content) }));
    }
    router
        .route("/api/v1/run", get(document))
        .layer(middleware::from_fn_with_state(address, guarded))
        .with_state(published)
}

async fn document(State(published): State<Arc<Published>>) -> Response {
    let document = published.read();
    ([(header::CONTENT_TYPE, "application/json")], String::from(&*document)).into_response()
}

/// Answers only to own names, and tells the browser what this page may do.
async fn guarded(State(address): State<IpAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response = if is_own_name(host, address) {
        next.run(request).await
    } else {
        let words =
            "this page answers to localhost and to addresses such as 127.0.0.1, and to no other name\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A running server with a document, and its address.
    fn server(document: &str) -> (Server, Arc<Published>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let published = Arc::new(Published::default());
        published.set(document.to_owned());
        (Server::start(listener, Arc::clone(&published)).unwrap(), published, address)
    }

    /// The whole answer to a request.
    fn ask(address: &str, method: &str, path: &str, host: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn every_file_of_the_page_is_there_and_guarded() {
        let (_server, _published, address) = server("{}");
        for (path, kind, _) in FILES {
            let answer = ask(&address, "GET", path, &address);
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            assert!(answer.contains(&format!("content-type: {kind}")), "{path}: {answer}");
            assert!(answer.contains(&format!("content-security-policy: {POLICY}")), "{path}: {answer}");
        }
        assert!(ask(&address, "GET", "/api/v1/run", "localhost:1").ends_with("{}"));
        for (method, path, code) in [("GET", "/etc/passwd", "404"), ("POST", "/api/v1/run", "405")] {
            let answer = ask(&address, method, path, &address);
            assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
        }
    }

    #[test]
    fn a_strange_host_gets_nothing() {
        let (_server, _published, address) = server("{\"job\":\"secret\"}");
        for host in ["example.org", "127.0.0.1.example.org:8090", ""] {
            let answer = ask(&address, "GET", "/api/v1/run", host);
            assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("secret"), "{host}: {answer}");
        }
    }

    #[test]
    fn the_page_names_only_files_that_are_there_and_holds_no_script_or_style_of_its_own() {
        for reference in INDEX.split(['"']).filter(|text| text.contains('.') && !text.contains(' ')) {
            let known = FILES.iter().any(|(path, ..)| *path == format!("/{reference}"));
            assert!(known, "{reference}");
        }
        for forbidden in ["<script>", "<style", " style=", " onload", "http:", "https:"] {
            assert!(!INDEX.contains(forbidden), "{forbidden}");
        }
        for (path, kind, content) in FILES {
            let writes_markup = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("];
            let found = writes_markup.iter().find(|word| kind == SCRIPT && content.contains(**word));
            assert_eq!(found, None, "{path}");
        }
    }

    #[test]
    fn the_last_document_waits_for_those_who_look_and_for_nobody_else() {
        let (_server, published, address) = server("first");
        // Nobody has looked: this returns at once, or the test would take its time.
        let began = Instant::now();
        published.set_last("unseen".to_owned());
        assert!(began.elapsed() < LAST_LOOK);
        published.set("first".to_owned());
        published.lock().is_last = false;
        assert!(ask(&address, "GET", "/api/v1/run", &address).ends_with("first"));
        let reader = {
            let published = Arc::clone(&published);
            std::thread::spawn(move || {
                while !published.lock().is_last {
                    std::thread::yield_now();
                }
                ask(&address, "GET", "/api/v1/run", "localhost")
            })
        };
        published.set_last("last".to_owned());
        assert!(published.lock().last_was_read, "it waited until it was read");
        assert!(reader.join().unwrap().ends_with("last"));
    }
}

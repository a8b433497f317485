//! The key-value store over which the ranks of a group find each other: one process serves it, all connect.
//! Network I/O and threads; no decisions.
//!
//! Why not c10d's own `TCPStore`: it resolves the *name* of every peer's address while connecting, which is five
//! seconds or more of DNS timeout where reverse lookups are not answered; it listens on all interfaces; and it writes
//! stack traces to standard error when a peer is late.
//!
//! One frame each way: `SET key value`, `GET key timeout` (answered when the key is there or the time is over).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;

const MAGIC: [u8; 8] = *b"rankmeet";
const SET: u8 = 1;
const GET: u8 = 2;
const FOUND: u8 = 0;
const LATE: u8 = 1;
/// Gloo's addresses of one rank are about 150 bytes per peer.
const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: usize = 1 << 10;
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// What a message may take beyond the time that the server was asked to wait.
const GRACE: Duration = Duration::from_secs(2);

/// The store over which the ranks of a group meet. See [`crate::Gloo::connect`].
#[derive(Debug)]
pub struct TcpStore {
    pub(crate) link: Arc<Link>,
    pub(crate) world_size: usize,
    port: u16,
    groups: Cell<u64>,
}

/// This process's connection to the store, and the server where it is served here.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Mutex<TcpStream>,
    _server: Option<Server>,
}

impl TcpStore {
    /// Serves a store on `host`:`port` (0: any free port) for `world_size` ranks and connects to it. Listens on that
    /// address alone. Returns at once; the ranks meet in [`crate::Gloo::connect`]. The server ends when this value and
    /// every group made over it are dropped. Errors: [`Error::Rendezvous`] when the address cannot be bound.
    pub fn serve(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self, Error> {
        const OPERATION: &str = "serve the store";
        check_arguments(OPERATION, world_size, timeout)?;
        let failed = |error: io::Error| rendezvous(OPERATION, format!("{host}:{port}: {error}"));
        let server =
            Server::start(TcpListener::bind((host, port)).map_err(failed)?, world_size).map_err(failed)?;
        let address = server.address;
        let stream = connect_until(OPERATION, &[address], world_size, Instant::now() + timeout)?;
        Ok(Self::new(stream, Some(server), address.port(), world_size))
    }

    /// Connects to the store that another process serves on `host`:`port`, trying again until `timeout`. Errors:
    /// [`Error::Rendezvous`] when nobody answers, or when the store is for another number of ranks.
    pub fn connect(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self, Error> {
        const OPERATION: &str = "connect to the store";
        check_arguments(OPERATION, world_size, timeout)?;
        let deadline = Instant::now() + timeout;
        let addresses: Vec<_> = (host, port)
            .to_socket_addrs()
            .map_err(|error| rendezvous(OPERATION, format!("{host}:{port}: {error}")))?
            .collect();
        let stream = connect_until(OPERATION, &addresses, world_size, deadline)?;
        Ok(Self::new(stream, None, port, world_size))
    }

    /// The port that the store is served on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A name for the next group over this store; the same on all ranks that make groups in the same order.
    pub(crate) fn next_group(&self) -> String {
        let number = self.groups.replace(self.groups.get() + 1);
        format!("group{number}/")
    }

    fn new(stream: TcpStream, server: Option<Server>, port: u16, world_size: usize) -> Self {
        let link = Arc::new(Link { stream: Mutex::new(stream), _server: server });
        Self { link, world_size, port, groups: Cell::new(0) }
    }
}

impl Link {
    /// Sets `key`, replacing what it was.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.request(SET, key, value.len() as u64, value, GRACE).map(|_| ())
    }

    /// The value of `key`, waiting for it at most `timeout`.
    pub(crate) fn get(&self, key: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
        self.request(GET, key, timeout.as_millis() as u64, &[], timeout + GRACE)
    }

    fn request(&self, op: u8, key: &[u8], number: u64, value: &[u8], wait: Duration) -> io::Result<Vec<u8>> {
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the key or value is too long for the store",
            ));
        }
        let mut frame = Vec::with_capacity(11 + key.len() + value.len());
        frame.push(op);
        frame.extend((key.len() as u16).to_le_bytes());
        frame.extend(number.to_le_bytes());
        frame.extend(key);
        frame.extend(value);
        let mut stream = lock(&self.stream);
        let answer = ask(&mut stream, &frame, wait);
        if answer.is_err() {
            // An answer that comes yet would be taken for that of the next request.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let (status, value) = answer?;
        if status == LATE {
            let key = String::from_utf8_lossy(key).into_owned();
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("nobody set {key} within {number} ms: a rank has not come"),
            ));
        }
        Ok(value)
    }
}

/// Sends one frame and reads its answer, within `wait`.
fn ask(stream: &mut TcpStream, frame: &[u8], wait: Duration) -> io::Result<(u8, Vec<u8>)> {
    stream.set_read_timeout(Some(wait))?;
    stream.write_all(frame)?;
    let [status] = read_array(stream)?;
    let len = u32::from_le_bytes(read_array(stream)?) as usize;
    Ok((status, read_vec(stream, len, MAX_VALUE_BYTES)?))
}

/// The serving side: one thread that accepts and one per connection; all are joined on drop.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    world_size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those that are served, by number.
    connections: BTreeMap<u64, TcpStream>,
    closing: bool,
}

impl Server {
    fn start(listener: TcpListener, world_size: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { world_size, state: Mutex::default(), changed: Condvar::new() });
        let acceptor = std::thread::Builder::new().name("store".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closing = true;
        for connection in std::mem::take(&mut state.connections).into_values() {
            // A connection that is gone already is as closed as we want it.
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the acceptor, which then sees `closing`; an address of "any" is reached on loopback.
        if TcpStream::connect_timeout(&self.address, GRACE).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for number in 0.. {
        let accepted = listener.accept();
        let mut state = lock(&shared.state);
        if state.closing {
            break;
        }
        // Out of descriptors and the like: the rank tries again until its own deadline.
        let Ok((stream, _)) = accepted else {
            drop(state);
            std::thread::sleep(RETRY_DELAY);
            continue;
        };
        let Ok(handle) = stream.try_clone() else { continue };
        state.connections.insert(number, handle);
        drop(state);
        threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
        let shared = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name("store-rank".to_owned()).spawn(move || {
            // A failed connection concerns its rank alone, which sees the closed socket: this was its last handle.
            let _ = serve_connection(stream, &shared);
            lock(&shared.state).connections.remove(&number);
        });
        threads.extend(spawned);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if read_array(&mut stream)? != MAGIC {
        return Ok(());
    }
    stream.write_all(&(shared.world_size as u64).to_le_bytes())?;
    loop {
        let [op] = read_array(&mut stream)?;
        let key_len = usize::from(u16::from_le_bytes(read_array(&mut stream)?));
        let number = u64::from_le_bytes(read_array(&mut stream)?);
        let key = read_vec(&mut stream, key_len, MAX_KEY_BYTES)?;
        let found = match op {
            SET => {
                let value = read_vec(&mut stream, number as usize, MAX_VALUE_BYTES)?;
                lock(&shared.state).values.insert(key, value);
                shared.changed.notify_all();
                Some(Vec::new())
            }
            GET => shared.wait_for(&key, Duration::from_millis(number)),
            _ => return Ok(()),
        };
        let (status, value) = found.map_or((LATE, Vec::new()), |value| (FOUND, value));
        let mut frame = vec![status];
        frame.extend((value.len() as u32).to_le_bytes());
        frame.extend(value);
        stream.write_all(&frame)?;
    }
}

impl Shared {
    fn wait_for(&self, key: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        let missing = |state: &mut State| !state.closing && !state.values.contains_key(key);
        let (state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), timeout, missing)
            .unwrap_or_else(PoisonError::into_inner);
        state.values.get(key).cloned()
    }
}

fn connect_until(
    operation: &'static str,
    addresses: &[SocketAddr],
    world_size: usize,
    deadline: Instant,
) -> Result<TcpStream, Error> {
    loop {
        let mut last = format!("no address in {addresses:?}");
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match greet(address, left) {
                Ok((stream, served)) if served == world_size as u64 => return Ok(stream),
                Ok((_, served)) => {
                    let message =
                        format!("{address}: the store is for {served} ranks, this job has {world_size}");
                    return Err(rendezvous(operation, message));
                }
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        if Instant::now() + RETRY_DELAY >= deadline {
            return Err(rendezvous(operation, format!("gave up after the timeout: {last}")));
        }
        std::thread::sleep(RETRY_DELAY);
    }
}

/// Connects and learns the number of ranks that the store is for.
fn greet(address: &SocketAddr, timeout: Duration) -> io::Result<(TcpStream, u64)> {
    let mut stream = TcpStream::connect_timeout(address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&MAGIC)?;
    let served = u64::from_le_bytes(read_array(&mut stream)?);
    Ok((stream, served))
}

fn read_array<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_vec(stream: &mut TcpStream, len: usize, max: usize) -> io::Result<Vec<u8>> {
    if len > max {
        return Err(io::Error::new(ErrorKind::InvalidData, "a frame of the store is too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The data stays whole whatever panicked: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rendezvous(operation: &'static str, message: String) -> Error {
    Error::Rendezvous { operation, message }
}

fn check_arguments(operation: &'static str, world_size: usize, timeout: Duration) -> Result<(), Error> {
    crate::c_count(operation, "world_size", world_size)?;
    crate::milliseconds(operation, timeout).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn who_speaks_another_protocol_is_hung_up_on() {
        let store = TcpStore::serve("127.0.0.1", 0, 1, TIMEOUT).unwrap();
        let mut stranger = TcpStream::connect(("127.0.0.1", store.port())).unwrap();
        stranger.set_read_timeout(Some(TIMEOUT)).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        match stranger.read(&mut [0; 8]) {
            Ok(0) => {}
            // What it still had to say was not read.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_late_answer_is_not_taken_for_that_of_the_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _request: [u8; 13] = read_array(&mut stream).unwrap();
            // Until the next one comes, or the end.
            let _ = stream.read(&mut [0]);
            let _ = stream.write_all(&[FOUND, 0, 0, 0, 0]);
        });
        let link = Link { stream: Mutex::new(stream), _server: None };
        assert!(link.set(b"a", b"1").is_err(), "nobody answers in time");
        assert!(link.set(b"b", b"2").is_err(), "the answer was to the first");
        server.join().unwrap();
    }
}

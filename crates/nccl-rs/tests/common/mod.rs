//! What the tests share: the mock library of NCCL and CUDA, compiled when it is first needed, what it can be told, and ranks as threads.
#![allow(dead_code, unreachable_pub, missing_docs, unsafe_code, clippy::unwrap_used, clippy::panic)] // Shared test code.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nccl_rs::cuda::Cuda;
use nccl_rs::{
    Communicator, Config, DeviceBuffer, DeviceBufferMut, DeviceSlice, DeviceSliceMut, Element, Library,
    Stream, StreamQuery, UniqueId,
};

/// A deadline that no test waits for.
pub const LONG: Duration = Duration::from_mins(1);
/// One that a test waits for.
pub const SHORT: Duration = Duration::from_millis(200);

/// NCCL's result codes that the mock is told to give.
pub const INVALID_USAGE: c_int = 5;
pub const REMOTE_ERROR: c_int = 6;

/// Compiles the mock to `name` in a folder of this build, with `defines`.
pub fn compile(name: &str, defines: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let unfinished = tempfile::Builder::new().tempdir_in(folder).unwrap();
    let (source, object) = (unfinished.path().join("nccl.c"), unfinished.path().join("mock"));
    let text = concat!(include_str!("../mock/nccl.c"), include_str!("../mock/cuda.c"));
    std::fs::write(&source, text).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"])
        .args(["-shared", "-fPIC", "-pthread", "-Wl,-soname,libnccl.so.2"])
        .args(defines)
        .arg("-o")
        .args([&object, &source])
        .output()
        .unwrap_or_else(|error| panic!("the mock needs a C compiler, {compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let library = folder.join(name);
    // At once, and anew: another test program may have the last one open.
    std::fs::rename(&object, &library).unwrap();
    library
}

pub struct Mock {
    pub nccl: Library,
    pub cuda: Cuda,
    fail: unsafe extern "C" fn(*const c_char, c_int),
    linger: unsafe extern "C" fn(c_int),
    calls: unsafe extern "C" fn() -> *const c_char,
    stream_new: unsafe extern "C" fn() -> *mut c_void,
    stream_pending: unsafe extern "C" fn(*mut c_void) -> c_int,
    stream_break: unsafe extern "C" fn(*mut c_void),
}

/// The mock of this test program.
pub fn mock() -> &'static Mock {
    static MOCK: OnceLock<Mock> = OnceLock::new();
    MOCK.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        let file = compile(&format!("mock-of-{}.so", program.file_name().unwrap().display()), &[]);
        let nccl = Library::open(&file).unwrap();
        let cuda = Cuda::open(&file).unwrap();
        // SAFETY: the mock, whose functions have the types of `Mock`; it stays loaded, since `nccl` keeps it.
        unsafe {
            let library = libloading::Library::new(&file).unwrap();
            Mock {
                nccl,
                cuda,
                fail: *library.get("mock_fail").unwrap(),
                linger: *library.get("mock_linger").unwrap(),
                calls: *library.get("mock_calls").unwrap(),
                stream_new: *library.get("mock_stream_new").unwrap(),
                stream_pending: *library.get("mock_stream_pending").unwrap(),
                stream_break: *library.get("mock_stream_break").unwrap(),
            }
        }
    })
}

impl Mock {
    /// This thread's next call of `function` fails.
    pub fn fail(&self, function: &str, result: c_int) {
        let function = CString::new(function).unwrap();
        // SAFETY: copies the name.
        unsafe { (self.fail)(function.as_ptr(), result) };
    }

    /// This thread's next operation is in progress for so many looks.
    pub fn linger(&self, looks: i32) {
        // SAFETY: takes a number.
        unsafe { (self.linger)(looks) };
    }

    /// This thread's next operation is in progress for ever.
    pub fn hang(&self) {
        self.linger(-1);
    }

    /// This thread's calls since it last asked, a line each.
    pub fn calls(&self) -> Vec<String> {
        // SAFETY: a text of this thread, copied before the next call.
        let text = unsafe { CStr::from_ptr((self.calls)()) };
        text.to_str().unwrap().lines().map(str::to_owned).collect()
    }

    pub fn stream(&self) -> MockStream {
        // SAFETY: allocates.
        MockStream(unsafe { (self.stream_new)() })
    }
}

pub struct MockStream(*mut c_void);

// SAFETY: the mock guards its streams by a mutex, whoever asks.
unsafe impl Send for MockStream {}
// SAFETY: likewise.
unsafe impl Sync for MockStream {}

impl MockStream {
    pub fn address(&self) -> usize {
        self.0 as usize
    }

    pub fn pending(&self) -> i32 {
        // SAFETY: a stream of the mock, never freed.
        unsafe { (mock().stream_pending)(self.0) }
    }

    pub fn break_down(&self) {
        // SAFETY: as above.
        unsafe { (mock().stream_break)(self.0) };
    }
}

// SAFETY: a stream of the mock, which counts operations down when they are through.
unsafe impl StreamQuery for MockStream {
    fn stream(&self) -> Stream {
        Stream::from_raw(self.0)
    }

    fn is_idle(&self) -> Result<bool, String> {
        match self.pending() {
            0 => Ok(true),
            1.. => Ok(false),
            _ => Err("the test broke it".to_owned()),
        }
    }
}

/// Host memory, which is what the mock's device has.
pub struct Host<T>(pub Vec<T>);

// SAFETY: a vector's memory, at one place while it is borrowed.
unsafe impl<T: Element> DeviceBuffer for Host<T> {
    type Element = T;

    fn slice(&self) -> DeviceSlice<T> {
        DeviceSlice::new(self.0.as_ptr(), self.0.len())
    }
}

// SAFETY: the same place, borrowed mutably.
unsafe impl<T: Element> DeviceBufferMut for Host<T> {
    fn slice_mut(&mut self) -> DeviceSliceMut<T> {
        DeviceSliceMut::new(self.0.as_mut_ptr(), self.0.len())
    }
}

/// A communicator of one rank.
pub fn alone(timeout: Duration) -> Communicator {
    let nccl = &mock().nccl;
    Communicator::init(nccl, &nccl.unique_id().unwrap(), 0, 1, &Config::new(timeout)).unwrap()
}

/// Runs `body` as every rank of a group of threads, once all have joined.
pub fn ranks<R: Send>(world_size: usize, config: &Config, body: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    let nccl = &mock().nccl;
    let id = nccl.unique_id().unwrap();
    let all_joined = std::sync::Barrier::new(world_size);
    std::thread::scope(|scope| {
        let (body, all_joined) = (&body, &all_joined);
        let ranks: Vec<_> = (0..world_size)
            .map(|rank| {
                // As to another machine.
                let id = UniqueId::from_bytes(id.to_bytes());
                scope.spawn(move || {
                    let comm = Communicator::init(nccl, &id, rank, world_size, config).unwrap();
                    all_joined.wait();
                    body(comm)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Runs the calling test (`name`) again in a process of its own with these variables, and gives its standard output; in
/// that process it gives nothing, and the test does its work.
pub fn in_a_process(name: &str, variables: &[(&str, &Path)]) -> Option<String> {
    const CHILD: &str = "NCCL_RS_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    command.env_remove(nccl_rs::LIBRARY_VARIABLE).env_remove("LD_LIBRARY_PATH");
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    Some(text)
}

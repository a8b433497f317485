//! Finding and opening `libnccl.so.2`. File and loader I/O.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use crate::error::{Error, ErrorCode};
use crate::{group, sys};

/// The environment variable that names the library's file, for where it is in none of the usual places.
pub const LIBRARY_VARIABLE: &str = "NCCL_RS_LIBRARY";

/// The name that every NCCL 2 has as its soname.
const SONAME: &str = "libnccl.so.2";

/// The usual places, after the loader's own ([`SONAME`] without a folder: `LD_LIBRARY_PATH`, `ldconfig`).
const PLACES: [&str; 4] = [
    SONAME,
    "/usr/lib/x86_64-linux-gnu/libnccl.so.2",
    "/usr/lib64/libnccl.so.2",
    "/usr/local/cuda/lib64/libnccl.so.2",
];

/// glibc's `RTLD_NOLOAD`: only what the process has mapped already.
pub(crate) const RTLD_NOLOAD: c_int = 4;

/// A version of NCCL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 in all that is supported.
    pub major: u32,
    /// Its second number.
    pub minor: u32,
    /// Its third number.
    pub patch: u32,
}

impl Version {
    /// The oldest version with all functions that are used here.
    pub const OLDEST: Self = Self { major: 2, minor: 18, patch: 0 };

    /// Reads `NCCL_VERSION_CODE`: three digits of two places since 2.9, before that of one.
    pub(crate) fn from_code(code: c_int) -> Self {
        let code = code.unsigned_abs();
        let unit = if code >= 10_000 { 10_000 } else { 1_000 };
        Self { major: code / unit, minor: code % unit / 100, patch: code % 100 }
    }

    fn is_supported(self) -> bool {
        self >= Self::OLDEST && self.major == Self::OLDEST.major
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the ranks of one communicator have in common; rank 0 makes it, the program brings it to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UniqueId([u8; sys::UNIQUE_ID_BYTES]);

impl UniqueId {
    /// What [`UniqueId::to_bytes`] gave, on this or another machine.
    pub fn from_bytes(bytes: [u8; sys::UNIQUE_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to send to the other ranks.
    pub fn to_bytes(self) -> [u8; sys::UNIQUE_ID_BYTES] {
        self.0
    }

    pub(crate) fn raw(self) -> sys::UniqueId {
        sys::UniqueId { internal: self.0.map(|byte| byte as c_char) }
    }
}

/// A loaded NCCL. Cheap to clone; stays loaded for the life of the process.
#[derive(Clone)]
pub struct Library(Arc<Loaded>);

struct Loaded {
    functions: sys::Functions,
    version: Version,
    origin: String,
}

impl fmt::Debug for Library {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "NCCL {} ({})", self.0.version, self.0.origin)
    }
}

impl Library {
    /// Takes the NCCL that this process has already, linked to it or loaded by another library such as libtorch: two
    /// copies in one process do not know of each other. Otherwise looks in the usual places: where the loader looks
    /// (`LD_LIBRARY_PATH`, `ldconfig`), the folders of Debian's and Red Hat's packages and of CUDA. At last takes the
    /// file that the environment variable [`LIBRARY_VARIABLE`] names.
    pub fn load() -> Result<Self, Error> {
        let mut tried = Vec::new();
        // SAFETY: looks at the process's own symbols; nothing is run.
        let linked = Handle::this();
        // SAFETY: only tells whether a symbol of this name is there; it is not called.
        if unsafe { linked.get::<*const ()>("ncclGetVersion") }.is_ok() {
            return Self::from_handle(linked, "linked to this program".to_owned());
        }
        match open(OsStr::new(SONAME), RTLD_NOLOAD) {
            Ok(handle) => return Self::from_handle(handle, format!("{SONAME}, loaded before")),
            Err(_) => tried.push("a copy that is loaded already: none".to_owned()),
        }
        let variable = std::env::var_os(LIBRARY_VARIABLE).filter(|file| !file.is_empty());
        for place in PLACES.iter().map(OsStr::new).chain(variable.as_deref()) {
            match open(place, 0) {
                Ok(handle) => return Self::from_handle(handle, place.display().to_string()),
                Err(reason) => tried.push(reason),
            }
        }
        if variable.is_none() {
            tried.push(format!("{LIBRARY_VARIABLE}: not set"));
        }
        Err(Error::NotFound { tried })
    }

    /// Opens this very file.
    pub fn open(file: impl AsRef<Path>) -> Result<Self, Error> {
        let file = file.as_ref();
        let handle = open(file.as_os_str(), 0).map_err(|reason| Error::NotFound { tried: vec![reason] })?;
        Self::from_handle(handle, file.display().to_string())
    }

    fn from_handle(handle: Handle, library: String) -> Result<Self, Error> {
        type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
        const GET_VERSION: &str = "ncclGetVersion";
        // SAFETY: a function of this name has had this type in every NCCL.
        let get_version = unsafe { handle.get::<GetVersion>(GET_VERSION) }
            .map_err(|_| Error::Symbol { library: library.clone(), symbol: GET_VERSION })?;
        let mut code = 0;
        // SAFETY: writes one number to the given address; where it does not, the version is none that is supported.
        unsafe { get_version(&raw mut code) };
        let version = Version::from_code(code);
        if !version.is_supported() {
            return Err(Error::Version { library, found: version });
        }
        // SAFETY: by its version an NCCL whose functions have the types of `nccl.h`.
        let functions = unsafe { sys::Functions::load(&handle) }
            .map_err(|symbol| Error::Symbol { library: library.clone(), symbol })?;
        // NCCL starts threads, and its code must not go away under them.
        let _never_unloaded = handle.into_raw();
        Ok(Self(Arc::new(Loaded { functions, version, origin: library })))
    }

    /// The library's version.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// Where it was found, for people.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// NCCL's functions, for what this crate does not offer.
    pub fn functions(&self) -> &sys::Functions {
        &self.0.functions
    }

    /// Makes the id of a new communicator and opens the socket at which its ranks will meet. Called once, by rank 0.
    pub fn unique_id(&self) -> Result<UniqueId, Error> {
        let mut id = sys::UniqueId { internal: [0; sys::UNIQUE_ID_BYTES] };
        // SAFETY: writes 128 bytes to the given address.
        let result = unsafe { (self.functions().get_unique_id)(&raw mut id) };
        check(self.functions(), "unique_id", result)?;
        Ok(UniqueId(id.internal.map(|byte| byte as u8)))
    }

    /// Runs `operations` of one thread as one group: nothing starts before the group's end, so that sends and receives
    /// meet whatever their order, and one thread can serve several communicators. Returns when NCCL has taken all of
    /// them. Groups do not nest, and communicators are neither made nor ended inside of one.
    ///
    /// The group ends also when `operations` fails, with whatever was enqueued before, or panics.
    pub fn group<R>(&self, operations: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        group::run(self, operations)
    }
}

/// Opens a library by name or path; the error is the loader's text.
pub(crate) fn open(name: &OsStr, flags: c_int) -> Result<Handle, String> {
    // SAFETY: what is opened is NCCL or CUDA by its name or the user's word; its initialisers are as safe as those of any
    // library that a program links.
    unsafe { Handle::open(Some(name), RTLD_NOW | RTLD_LOCAL | flags) }.map_err(|error| {
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text = source.to_string();
        }
        if text.contains(&*name.to_string_lossy()) { text } else { format!("{}: {text}", name.display()) }
    })
}

/// A call's result, without a communicator.
pub(crate) fn check(functions: &sys::Functions, operation: &'static str, result: c_int) -> Result<(), Error> {
    if result == sys::SUCCESS {
        return Ok(());
    }
    Err(nccl_error(functions, operation, result, std::ptr::null()))
}

/// The error for `result`, with NCCL's last message. `comm` is null or a live communicator.
pub(crate) fn nccl_error(
    functions: &sys::Functions,
    operation: &'static str,
    result: c_int,
    comm: *const sys::Comm,
) -> Error {
    // SAFETY: a constant text of the library for any number.
    let meaning = text(unsafe { (functions.get_error_string)(result) });
    // SAFETY: null or a live communicator, as the caller says; the text is copied before the next call.
    let last = text(unsafe { (functions.get_last_error)(comm) });
    let message = if last.is_empty() { meaning } else { last };
    Error::Nccl { operation, code: ErrorCode::from_result(result), message }
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's texts end with NUL and live in static memory.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_code_is_read_in_both_of_its_forms() {
        let version = |major, minor, patch| Version { major, minor, patch };
        assert_eq!(Version::from_code(22_809), version(2, 28, 9));
        assert_eq!(Version::from_code(21_800), Version::OLDEST);
        assert_eq!(Version::from_code(2_708), version(2, 7, 8));
        assert_eq!(Version::from_code(22_809).to_string(), "2.28.9");
    }

    #[test]
    fn versions_from_the_oldest_up_to_the_next_major_one_are_supported() {
        for (code, supported) in
            [(2_708, false), (21_705, false), (21_800, true), (22_809, true), (30_000, false)]
        {
            assert_eq!(Version::from_code(code).is_supported(), supported, "{code}");
        }
    }
}

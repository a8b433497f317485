//! Where the library is looked for, and what is said when it is not there or is another one. Each search has a process
//! of its own, because what one has loaded every later one finds.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{LONG, compile, in_a_process};
use nccl_rs::{Communicator, Config, Error, LIBRARY_VARIABLE, Library, Version};

const MOCK_VERSION: Version = Version { major: 2, minor: 28, patch: 9 };

/// Whether this machine has an NCCL of its own, before which no other usual place and no variable counts.
fn has_an_nccl_of_its_own() -> bool {
    // SAFETY: NCCL's initialisers, if it is there.
    let found = unsafe { libloading::Library::new("libnccl.so.2") }.is_ok();
    if found {
        eprintln!("left out: this machine has an NCCL in its usual places");
    }
    found
}

#[test]
fn a_missing_library_is_an_error_that_says_where_it_was_looked_for_and_what_to_do() {
    let name = "a_missing_library_is_an_error_that_says_where_it_was_looked_for_and_what_to_do";
    if in_a_process(name, &[(LIBRARY_VARIABLE, Path::new("/nowhere/libnccl.so.2"))]).is_some()
        || has_an_nccl_of_its_own()
    {
        return;
    }
    let error = Library::load().unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    for part in [
        "libnccl.so.2: cannot open",
        "/usr/lib/x86_64-linux-gnu/",
        "/nowhere/libnccl.so.2",
        "install libnccl2",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_variable_names_a_library_that_is_in_no_usual_place() {
    let name = "the_variable_names_a_library_that_is_in_no_usual_place";
    let library = compile("mock-by-variable.so", &[]);
    if in_a_process(name, &[(LIBRARY_VARIABLE, &library)]).is_some() || has_an_nccl_of_its_own() {
        return;
    }
    let nccl = Library::load().unwrap();
    assert_eq!(nccl.version(), MOCK_VERSION);
    assert_eq!(nccl.origin(), library.display().to_string());
}

#[test]
fn the_loaders_path_is_one_of_the_usual_places() {
    let name = "the_loaders_path_is_one_of_the_usual_places";
    let library = compile("mock-in-path.so", &[]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&library, folder.path().join("libnccl.so.2")).unwrap();
    let other = compile("mock-beside-path.so", &["-DMOCK_VERSION=22105"]);
    let variables = [("LD_LIBRARY_PATH", folder.path()), (LIBRARY_VARIABLE, &other)];
    if in_a_process(name, &variables).is_some() {
        return;
    }
    let nccl = Library::load().unwrap();
    assert_eq!((nccl.origin(), nccl.version()), ("libnccl.so.2", MOCK_VERSION));
}

#[test]
fn a_copy_that_the_process_has_loaded_goes_before_all_others() {
    let name = "a_copy_that_the_process_has_loaded_goes_before_all_others";
    let other = compile("mock-not-loaded.so", &["-DMOCK_VERSION=22105"]);
    if in_a_process(name, &[(LIBRARY_VARIABLE, &other)]).is_some() {
        return;
    }
    let loaded = compile("mock-loaded.so", &[]);
    // SAFETY: the mock has no initialisers.
    let _as_libtorch_does = unsafe { libloading::Library::new(&loaded) }.unwrap();
    let nccl = Library::load().unwrap();
    assert_eq!((nccl.origin(), nccl.version()), ("libnccl.so.2, loaded before", MOCK_VERSION));
}

#[test]
fn a_copy_that_the_program_is_linked_with_goes_before_all_others() {
    let name = "a_copy_that_the_program_is_linked_with_goes_before_all_others";
    let linked = compile("mock-linked.so", &[]);
    if in_a_process(name, &[("LD_PRELOAD", &linked)]).is_some() {
        return;
    }
    let nccl = Library::load().unwrap();
    assert_eq!((nccl.origin(), nccl.version()), ("linked to this program", MOCK_VERSION));
}

#[test]
fn a_version_without_the_functions_that_are_needed_is_refused_by_its_number() {
    for (define, number) in [("-DMOCK_VERSION=21705", "2.17.5"), ("-DMOCK_VERSION=30000", "3.0.0")] {
        let library = compile(&format!("mock-{number}.so"), &[define, "-DMOCK_VERSION_ONLY"]);
        let text = Library::open(&library).unwrap_err().to_string();
        let expected = format!("{} is NCCL {number}; needed is 2.18.0 to 2.x", library.display());
        assert_eq!(text, expected);
    }
}

#[test]
fn a_library_that_lacks_a_function_is_refused_by_the_functions_name() {
    let library = compile("mock-without-functions.so", &["-DMOCK_VERSION_ONLY"]);
    match Library::open(&library) {
        Err(Error::Symbol { symbol: "ncclGetUniqueId", .. }) => {}
        other => panic!("{other:?}"),
    }
    // Something that is no NCCL at all.
    let text = Library::open("libc.so.6").unwrap_err().to_string();
    assert!(text.starts_with("libc.so.6 has no function ncclGetVersion"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no library").unwrap();
    let text = Library::open(file.path()).unwrap_err().to_string();
    assert!(text.contains(&file.path().display().to_string()), "{text}");
}

/// By hand, on any machine: NCCL_RS_TEST_LIBRARY names a real libnccl.so.2, such as that of the package nvidia-nccl-cu12.
#[test]
fn a_real_library_loads_makes_an_id_and_joins_one_rank_or_says_why_not() {
    let Some(file) = std::env::var_os("NCCL_RS_TEST_LIBRARY") else {
        eprintln!("left out: NCCL_RS_TEST_LIBRARY is not set");
        return;
    };
    let nccl = Library::open(file).unwrap();
    assert!(nccl.version() >= Version::OLDEST, "{nccl:?}");
    let id = nccl.unique_id().unwrap();
    assert_ne!(id.to_bytes(), [0; 128]);
    match Communicator::init(&nccl, &id, 0, 1, &Config::new(LONG)) {
        Ok(comm) => comm.finalize().unwrap(),
        // Without a GPU it has to say so, and its end must not disturb.
        Err(Error::Nccl { operation: "init", message, .. }) => assert!(!message.is_empty()),
        Err(other) => panic!("{other}"),
    }
}

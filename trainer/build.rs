//! Gives the worker and its tests the place of libtorch: as it was built, and `lib` beside an installed `bin`.
#![allow(clippy::print_stdout)] // Standard output is how a build script speaks to cargo.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TORCH_EXT_LIB");
    if let Ok(lib) = std::env::var("DEP_TORCH_EXT_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
}

//! Compiles the C++ half against the headers of the libtorch that `LIBTORCH` names, and tells dependents
//! (as `DEP_TORCH_EXT_LIB`) where its libraries lie, so that a binary can carry the same rpath.
#![allow(clippy::print_stdout)] // Standard output is how a build script speaks to cargo.

use std::path::PathBuf;

fn main() -> Result<(), String> {
    for name in ["build.rs", "cpp/guarded.h", "cpp/script.cpp", "cpp/torch_ext.cpp", "cpp/torch_ext.h"] {
        println!("cargo:rerun-if-changed={name}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=GLOO_INCLUDE");

    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from).ok_or(
        "LIBTORCH is not set: run scripts/setup.sh, which downloads libtorch and writes .cargo/config.toml",
    )?;
    let lib = libtorch.join("lib");
    let include = libtorch.join("include");
    if !lib.join("libtorch_cpu.so").exists() || !include.join("torch/csrc/api/include").exists() {
        return Err(format!(
            "LIBTORCH is {}, which holds no libtorch (lib/libtorch_cpu.so and include/): run scripts/setup.sh",
            libtorch.display()
        ));
    }
    let gloo = std::env::var_os("GLOO_INCLUDE").map_or_else(|| PathBuf::from("/usr/include"), PathBuf::from);
    if !gloo.join("gloo/context.h").exists() {
        return Err(format!(
            "no Gloo headers in {}/gloo: install libgloo-dev, or set GLOO_INCLUDE to the folder that holds gloo/",
            gloo.display()
        ));
    }

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .file("cpp/torch_ext.cpp")
        .file("cpp/script.cpp")
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // System includes, so that the warnings of others do not hide ours.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"));
    if gloo.as_os_str() != "/usr/include" {
        build.flag("-isystem").flag(&gloo);
    }
    build.try_compile("torch_ext").map_err(|error| error.to_string())?;

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());
    Ok(())
}

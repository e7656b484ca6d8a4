//! Compiles the bridge to libtorch, and lets `cargo run` and `cargo test` find libtorch at run time.
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=src/cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys has found libtorch by its own rules and passes the directory on.
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB")?);
    let root = lib.parent().ok_or("libtorch's lib directory has no parent")?;
    let include =
        env::var("LIBTORCH_INCLUDE").map_or(root.join("include"), |dir| Path::new(&dir).join("include"));
    let mut bridge = cc::Build::new();
    bridge
        .cpp(true)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .flag("-std=c++17")
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .file("src/cpp/bridge.cpp")
        .file("src/cpp/checkpoint.cpp");
    match kernels()? {
        Some(kernels) => {
            bridge.file("src/cpp/fused/layers.cpp").compile("ssl_torch_bridge");
            kernels.compile("ssl_torch_kernels");
        }
        None => bridge.file("src/cpp/fused/absent.cpp").compile("ssl_torch_bridge"),
    }
    // Cargo puts search paths inside the target directory, and no others, on the path of the dynamic linker when
    // it runs programs, tests and documentation tests. So libtorch's directory is linked into it.
    let here = PathBuf::from(env::var("OUT_DIR")?).join("libtorch");
    match fs::remove_file(&here) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(fs::canonicalize(&lib)?, &here)?;
        println!("cargo:rustc-link-search=native={}", here.display());
    }
    Ok(())
}

/// The one file that is compiled for a processor that need not be there; it includes no header of libtorch, whose inline
/// functions would otherwise end up in the rest of the program. `None` where the compiler does not know the processor.
fn kernels() -> Result<Option<cc::Build>, Box<dyn std::error::Error>> {
    let mut kernels = cc::Build::new();
    kernels.cpp(true).warnings(false).flag("-std=c++17").opt_level(3).file("src/cpp/fused/kernels.cpp");
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" || env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(None);
    }
    for flag in ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma"] {
        if !kernels.is_flag_supported(flag)? {
            return Ok(None);
        }
        kernels.flag(flag);
    }
    Ok(Some(kernels))
}

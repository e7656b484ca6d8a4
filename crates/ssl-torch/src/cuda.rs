//! CUDA when it is there: one binary for machines with and without it.
#![allow(unsafe_code)]
use crate::ffi::{self, Error, Result, call};
use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

/// Loads libtorch's CUDA half, if it stands beside its CPU half, and returns whether a CUDA device can be used.
///
/// Call it before the first tensor. Looked for in the directory of the loaded `libtorch_cpu.so`, in its `cuda`
/// sub-directory, and in the same two places after links are resolved.
///
/// # Errors
/// When the library is there and does not load, with the loader's reason.
pub fn load_cuda() -> Result<bool> {
    if tch::Cuda::is_available() {
        return Ok(true);
    }
    let Some(library) = candidates().into_iter().find(|path| path.exists()) else {
        return Ok(false);
    };
    open_global(&library)?;
    Ok(tch::Cuda::is_available())
}

fn candidates() -> Vec<PathBuf> {
    let Some(cpu) = loaded_from() else { return Vec::new() };
    let resolved = cpu.canonicalize().ok();
    [Some(cpu), resolved]
        .into_iter()
        .flatten()
        .filter_map(|library| library.parent().map(Path::to_path_buf))
        .flat_map(|dir| [dir.join("libtorch_cuda.so"), dir.join("cuda/libtorch_cuda.so")])
        .collect()
}

/// The path from which libtorch's CPU half was loaded.
fn loaded_from() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    line.find('/').and_then(|at| line.get(at..)).map(PathBuf::from)
}

fn open_global(library: &Path) -> Result<()> {
    let shown = library.display();
    let path = CString::new(library.as_os_str().as_encoded_bytes())
        .map_err(|_| Error(format!("{shown}: the path holds a NUL byte")))?;
    // SAFETY: the path is NUL-terminated; libtorch's constructors only register kernels.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns NULL or a string that lives until the next call on this thread.
    let reason = unsafe {
        let message = libc::dlerror();
        if message.is_null() { String::new() } else { CStr::from_ptr(message).to_string_lossy().into_owned() }
    };
    Err(Error(format!("{shown}: cannot load: {reason}")))
}

/// The most bytes that tensors have held on CUDA device `index` since the program began.
///
/// # Errors
/// When CUDA is not loaded or the device does not exist.
pub fn cuda_peak_bytes(index: usize) -> Result<u64> {
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let mut bytes = 0;
    // SAFETY: the pointer is valid for the call.
    call(|e| unsafe { ffi::ssl_cuda_peak_bytes(index, &raw mut bytes, e) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Whether CUDA device `index` multiplies bfloat16 natively: from compute capability 8.0 on.
///
/// # Errors
/// When CUDA is not loaded or the device does not exist.
pub fn cuda_is_bf16_fast(index: usize) -> Result<bool> {
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let mut fast = 0;
    // SAFETY: the pointer is valid for the call.
    call(|e| unsafe { ffi::ssl_cuda_bf16(index, &raw mut fast, e) })?;
    Ok(fast != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_library_is_found() {
        let _ = tch::Tensor::from_slice(&[1.0f32]);
        assert!(candidates().iter().any(|path| path.ends_with("libtorch_cuda.so")), "{:?}", candidates());
    }

    #[test]
    fn loading_says_whether_there_is_a_device() {
        assert_eq!(load_cuda().unwrap(), tch::Cuda::is_available());
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error_that_names_it() {
        let error = open_global(Path::new("/proc/self/maps")).unwrap_err().to_string();
        assert!(error.starts_with("/proc/self/maps: cannot load: "), "{error}");
    }

    #[test]
    fn questions_about_a_missing_device_are_errors() {
        if !tch::Cuda::is_available() {
            assert!(cuda_peak_bytes(0).is_err() && cuda_is_bf16_fast(0).is_err());
        }
    }
}

//! How the C library's allocator keeps memory. The only file of this crate with a system call of its own.
//!
//! glibc gives up to eight times as many threads as there are CPUs an arena each, and what
//! was freed in one is of no use to the others. Threads that flush come and go, and large requests
//! pass through all of them. Twice the CPUs is enough: after a mixed load 26 to 46 MiB
//! were resident instead of 88 to 98 (two CPUs), at the same CPU time.

#![allow(unsafe_code)]

/// Before the first thread starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn limit_arenas() {
    /// `M_ARENA_MAX` of `malloc.h`.
    const ARENA_MAX: i32 = -8;
    /// With two the same load took about a tenth more CPU.
    const ARENAS_MIN: i32 = 4;
    // SAFETY: as `malloc.h` declares it.
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
    }
    // Whoever set it in the environment knows better.
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let arenas = i32::try_from(2 * cpus).unwrap_or(i32::MAX).max(ARENAS_MIN);
    // SAFETY: glibc's function with glibc's types; no other thread runs yet. If it refuses, all
    // stays as it was.
    let _ = unsafe { mallopt(ARENA_MAX, arenas) };
}

/// Other C libraries have no arenas.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn limit_arenas() {}

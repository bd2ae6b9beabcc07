//! The `weir` program: hands its arguments to [`weir::cli`], which prints the error chain once.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's number of its option `purge_delay`, and the milliseconds that freed pages wait before they go back to the system. Its
/// default of a second would keep resident what `memory_limit` no longer counts.
const PURGE_DELAY: c_int = 15;
const PURGE_DELAY_MS: c_long = 20;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    // SAFETY: mimalloc is linked as the allocator; setting an option is an assignment, and no other thread runs yet.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    weir::cli::main()
}

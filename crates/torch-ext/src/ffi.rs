//! The C face of `cpp/torch_ext.cpp`, declaration by declaration, and the reading of its error strings.

use std::ffi::{CStr, c_char, c_int, c_void};

/// Opaque `te_gloo`.
#[repr(C)]
pub(crate) struct Group {
    _private: [u8; 0],
}

/// `te_gloo_options`: the store's two functions and what a group needs to know. The functions return 0 and append the
/// value to `out`, or another number and append the error's text.
#[repr(C)]
pub(crate) struct GroupOptions {
    pub(crate) context: *const c_void,
    pub(crate) set: unsafe extern "C" fn(
        context: *const c_void,
        key: *const c_char,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        out: *mut c_void,
    ) -> c_int,
    pub(crate) get: unsafe extern "C" fn(
        context: *const c_void,
        key: *const c_char,
        key_len: usize,
        timeout_ms: i64,
        out: *mut c_void,
    ) -> c_int,
    pub(crate) host: *const c_char,
    pub(crate) timeout_ms: i64,
    pub(crate) rank: c_int,
    pub(crate) world_size: c_int,
}

/// Null for success, or a message that belongs to us until `te_free`.
pub(crate) type Outcome = *mut c_char;

unsafe extern "C" {
    pub(crate) fn te_free(message: *mut c_char);
    pub(crate) fn te_bytes_append(bytes: *mut c_void, data: *const u8, len: usize);
    pub(crate) fn te_gloo_new(options: *const GroupOptions, out: *mut *mut Group) -> Outcome;
    pub(crate) fn te_gloo_delete(group: *mut Group);
    pub(crate) fn te_gloo_all_reduce_sum(group: *mut Group, tensor: *mut c_void) -> Outcome;
    pub(crate) fn te_gloo_all_to_all_v(
        group: *mut Group,
        send: *mut c_void,
        send_counts: *const i64,
        recv: *mut c_void,
        recv_counts: *const i64,
        ranks: usize,
    ) -> Outcome;
    pub(crate) fn te_gloo_all_reduce_in_rank_order(group: *mut Group, tensor: *mut c_void) -> Outcome;
    pub(crate) fn te_gloo_all_gather_v(
        group: *mut Group,
        send: *mut c_void,
        recv: *mut c_void,
        recv_counts: *const i64,
        ranks: usize,
    ) -> Outcome;
    pub(crate) fn te_gloo_broadcast(group: *mut Group, tensor: *mut c_void, root: c_int) -> Outcome;
    pub(crate) fn te_gloo_barrier(group: *mut Group) -> Outcome;
    pub(crate) fn te_adopt(parameter: *mut c_void, value: *mut c_void, gradient: *mut c_void) -> Outcome;
    pub(crate) fn te_after_gradient(
        parameter: *mut c_void,
        ready: Option<unsafe extern "C" fn(context: *const c_void, index: usize)>,
        context: *const c_void,
        index: usize,
    ) -> Outcome;
    pub(crate) fn te_inspect_script(
        file: *const c_char,
        len: usize,
        shape: *const i64,
        dimensions: usize,
        findings: *mut *mut c_char,
    ) -> Outcome;
    pub(crate) fn te_set_threads(intra_op: c_int) -> Outcome;
    pub(crate) fn te_set_interop_threads(threads: c_int) -> Outcome;
    pub(crate) fn te_set_flush_denormal(on: c_int) -> c_int;
    pub(crate) fn te_keep_freed_memory() -> c_int;
    pub(crate) fn te_load_cuda() -> Outcome;
    pub(crate) fn te_release_freed_memory();
    pub(crate) fn te_torch_version() -> *const c_char;
}

/// Takes over the message, if there is one.
pub(crate) fn check(outcome: Outcome) -> Result<(), String> {
    take(outcome).map_or(Ok(()), Err)
}

/// Takes over a text that was handed to us; `None` for null.
pub(crate) fn take(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: what is not null is a NUL-terminated string on the C heap that was handed to us.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned();
    // SAFETY: freed exactly once, by the allocator's own side, after the copy above.
    unsafe { te_free(text) };
    Some(copy)
}

/// The `at::Tensor*` behind a tch tensor.
pub(crate) fn tensor(tensor: &tch::Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

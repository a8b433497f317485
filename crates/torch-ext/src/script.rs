//! What the forward pass of a scripted module does beside computing scores: `tch` runs such modules, and does not tell.
//! No I/O.

use std::ffi::c_char;

use crate::{Error, ffi};

/// Something that a forward pass does, and that ranks, restarts or replays might not repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptFinding {
    /// `torch.jit.trace` has recorded it: branches, sizes and training mode are those of its example.
    Traced,
    /// It draws random numbers, by this operation.
    Random(String),
    /// It computes statistics over the samples of a batch, by this operation.
    BatchStatistics(String),
    /// It sets this attribute of its module.
    Assigns(String),
    /// It changes this tensor of its module in place, in training mode.
    Changes(String),
}

impl ScriptFinding {
    fn parse(line: &str) -> Option<Self> {
        let (what, name) = line.split_once(' ')?;
        let name = name.to_owned();
        match what {
            "traced" => Some(Self::Traced),
            "random" => Some(Self::Random(name)),
            "statistics" => Some(Self::BatchStatistics(name)),
            "assigns" => Some(Self::Assigns(name)),
            "changes" => Some(Self::Changes(name)),
            _ => None,
        }
    }
}

/// Looks at the module in `file`, the bytes that `torch.jit.save` writes, and lets a copy of it score zeros of the shape
/// `input`; where that fails, no [`ScriptFinding::Changes`] is told. Errors: [`Error::Torch`] when the bytes are no module
/// with a method `forward`.
pub fn inspect_script(file: &[u8], input: &[i64]) -> Result<Vec<ScriptFinding>, Error> {
    let mut findings: *mut c_char = std::ptr::null_mut();
    // SAFETY: both slices are alive during the call and are copied or only read; `findings` is a place for one pointer.
    ffi::check(unsafe {
        ffi::te_inspect_script(
            file.as_ptr().cast(),
            file.len(),
            input.as_ptr(),
            input.len(),
            &raw mut findings,
        )
    })
    .map_err(|message| Error::Torch { operation: "inspect_script", message })?;
    let findings = ffi::take(findings).unwrap_or_default();
    Ok(findings.lines().filter_map(ScriptFinding::parse).collect())
}

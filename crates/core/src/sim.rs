//! The training loop's timing on a virtual clock. No I/O.

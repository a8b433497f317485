//! One module per command.

pub mod compare;
pub mod data;
pub mod plan;
pub mod produce;
pub mod report;
pub mod run;
pub mod trainer;

//! One module per command.

pub mod compare;
pub mod data;
pub mod plan;
pub mod preset;
pub mod produce;
pub mod report;
pub mod reproduce;
pub mod run;
pub mod simulate;
pub mod trainer;
pub mod tune;

//! stub
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
/// x
pub enum DatasetError {}

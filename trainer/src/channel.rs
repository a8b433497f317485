//! Control channel between the ranks.

//! HTTP endpoint of a worker.

//! SGD with momentum over the flat buffer.

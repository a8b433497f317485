//! Combining gradients in rank order.

//! Batches: from records to tensors.

//! Model, flat parameters, forward and backward.

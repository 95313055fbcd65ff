//! The control plane: options, start and stop, statistics.

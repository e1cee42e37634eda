//! Probes and metrics. (being written)

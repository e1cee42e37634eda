//! Takes connections: HTTP upgrade, admission, refusals. (being written)

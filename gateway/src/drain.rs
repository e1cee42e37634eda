//! Going away politely. (being written)

//! The demo page and its users. (being written)

//! Who users are and what they may do. (being written)

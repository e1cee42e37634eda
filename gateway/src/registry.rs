//! The connections of this pod. (being written)

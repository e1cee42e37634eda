//! One client: its socket, its sign-in and its events. (being written)

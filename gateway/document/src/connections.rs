//! The connections of the document, by id and by user.
//!
//! In: connections that come and go. Out: each of them, or those of one user without a look at all others: in a document
//! with thousands of users whatever is done for each of them must not look at each of them.

use std::{
    collections::{BTreeMap, btree_map::IterMut},
    ops::Deref,
    sync::Arc,
};

use crate::{ConnectionId, connection::Connection};

/// Boxed: a map's nodes have room for eleven, and hold about six where keys only grow.
type All = BTreeMap<ConnectionId, Box<Connection>>;

/// Read like the map that it is; changed by its own methods, which keep both in step.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: All,
    /// Of each user, the oldest first.
    users: BTreeMap<Arc<str>, Vec<ConnectionId>>,
}

impl Connections {
    pub(crate) fn insert(&mut self, connection: Box<Connection>) {
        let id = connection.id;
        // Most users have one connection, and no room for more is kept.
        let theirs = self.users.entry(connection.user.id.clone()).or_insert_with(|| Vec::with_capacity(1));
        if let Err(place) = theirs.binary_search(&id) {
            theirs.insert(place, id);
        }
        self.all.insert(id, connection);
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) -> Option<Box<Connection>> {
        let connection = self.all.remove(id)?;
        if let Some(theirs) = self.users.get_mut(&connection.user.id) {
            theirs.retain(|other| other != id);
            if theirs.is_empty() {
                self.users.remove(&connection.user.id);
            }
        }
        Some(connection)
    }

    /// Those of a user, the oldest first.
    pub(crate) fn of(&self, user_id: &str) -> &[ConnectionId] {
        self.users.get(user_id).map_or(&[], Vec::as_slice)
    }

    /// To change anything but whose it is.
    pub(crate) fn get_mut(&mut self, id: &ConnectionId) -> Option<&mut Box<Connection>> {
        self.all.get_mut(id)
    }

    pub(crate) fn iter_mut(&mut self) -> IterMut<'_, ConnectionId, Box<Connection>> {
        self.all.iter_mut()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Box<Connection>> {
        self.all.values_mut()
    }
}

impl Deref for Connections {
    type Target = All;

    fn deref(&self) -> &All {
        &self.all
    }
}

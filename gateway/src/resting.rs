//! Documents that are open and that nobody uses: they give way, the longest unused first, when memory is wanted.
//!
//! In: documents as they begin and cease to rest, how many bytes are wanted. Out: which of them are to close now. One that
//! was asked counts as free until it is closed or used again, so that a second question does not close more than it takes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All of them; clones are the same. Bounded by the open documents.
#[derive(Clone, Default)]
pub struct Resting {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    /// In the order in which they began to rest.
    waiting: BTreeMap<u64, (Arc<str>, usize)>,
    /// Those that were asked to close.
    leaving: BTreeMap<u64, usize>,
}

/// One document's rest; dropping it ends it, because the document is used again or closed.
pub struct Rest {
    resting: Resting,
    number: u64,
}

impl Resting {
    /// A document of so many bytes is not used any more.
    pub fn rest(&self, document_id: &Arc<str>, bytes: usize) -> Rest {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.waiting.insert(number, (document_id.clone(), bytes));
        drop(table);
        Rest { resting: self.clone(), number }
    }

    /// Who is to close, so that this many bytes come free, and whether that is enough.
    pub fn give_way(&self, wanted_bytes: usize) -> (Vec<Arc<str>>, bool) {
        let mut table = self.table();
        let mut free: usize = table.leaving.values().sum();
        let mut asked = Vec::new();
        while free < wanted_bytes {
            let Some((number, (document_id, bytes))) = table.waiting.pop_first() else { break };
            table.leaving.insert(number, bytes);
            asked.push(document_id);
            free += bytes;
        }
        (asked, free >= wanted_bytes)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let mut table = self.resting.table();
        table.waiting.remove(&self.number);
        table.leaving.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_close_first_and_no_more_than_it_takes() {
        let resting = Resting::default();
        let ids: Vec<Arc<str>> = ["a", "b", "c", "d"].map(Arc::from).to_vec();
        let mut rests: Vec<Rest> = ids.iter().map(|id| resting.rest(id, 10)).collect();
        assert_eq!(resting.give_way(15), (ids[..2].to_vec(), true));
        assert_eq!(resting.give_way(20), (vec![], true), "they are on their way");
        // The first is used again, and then rests as the last.
        rests.remove(0);
        rests.push(resting.rest(&ids[0], 10));
        assert_eq!(resting.give_way(30), (ids[2..].to_vec(), true));
        assert_eq!(resting.give_way(50), (vec![ids[0].clone()], false));
        drop(rests);
        assert_eq!(resting.give_way(1), (vec![], false));
    }
}

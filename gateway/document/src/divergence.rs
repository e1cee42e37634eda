//! Copies that differ although their histories are one: what must never happen is noticed here and mended.
//!
//! In: digests that other pods tell, one for each version divisible by [`crate::DIGEST_EVERY`]. Out: this pod's digest of
//! what it committed itself; where one differs, this pod's own, once, so that the other looks at itself too, and the
//! document opened anew from the store, so that everybody here joins again with content.

use std::sync::Arc;

use crate::{Canonical, Command, Digest, Document, Peer, Point, Version};

/// What was heard and judged.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// Of a version that this pod has not reached yet.
    heard: Option<(Point, Digest)>,
    /// The newest version at which a difference was found: it is answered once.
    judged: Version,
}

impl Document {
    /// This pod has appended a version: the others compare theirs.
    pub(crate) fn tell_digest(&mut self, version: Version) {
        if let Some(entry) = self.history.canonical(version)
            && let Some(digest) = entry.digest
        {
            self.out.push(Command::Publish(Peer::Digest { at: entry.at.clone(), digest }));
        }
    }

    /// Another pod tells its digest.
    pub(crate) fn on_digest(&mut self, at: Point, digest: Digest) {
        if at.version > self.head().version {
            self.digests.heard = Some((at, digest));
        } else if let Some(entry) = self.history.canonical(at.version).cloned() {
            self.judge(&entry, &at, digest);
        }
    }

    /// A version came for which a digest may have been told before.
    pub(crate) fn compare_digest(&mut self, entry: &Arc<Canonical>) {
        if entry.digest.is_some()
            && let Some((at, digest)) = self.digests.heard.take_if(|(at, _)| at.version <= entry.at.version)
        {
            self.judge(entry, &at, digest);
        }
    }

    fn judge(&mut self, entry: &Canonical, at: &Point, heard: Digest) {
        // Another history is no other copy of this one.
        let Some(own) = entry.digest.filter(|own| entry.at == *at && *own != heard) else { return };
        if at.version <= self.digests.judged {
            return;
        }
        self.digests.judged = at.version;
        self.out.push(Command::Publish(Peer::Digest { at: at.clone(), digest: own }));
        self.out.push(Command::Diverged { version: at.version });
        self.reopen();
    }
}

//! How pods open the document: where a run makes it so, call by call, with everything else going on in between.
//!
//! In: a join at a pod that has no copy, a copy that gave up, the schedule. Out: the product's document over what was
//! read. A pod without a copy subscribes and reads in any order, and its mail waits; one whose copy gave up subscribes
//! first, and its mail is taken meanwhile. What is told to a pod that does not listen yet is lost to it.

use document::{Code, ConnectionId, Document, Input, Logged, Refusal, Snapshot};

use crate::{
    client::Broken,
    counts::Met,
    log::logged,
    pod::{Copy, Opening, Pod, Read},
    schedule::Fault,
    sockets::{Got, Sent},
    world::World,
};

impl World {
    /// What the store holds.
    pub(crate) fn stored(&self) -> Read {
        let mut read = self.first_page();
        while read.more {
            let part = self.store.after(read.version());
            read.tail.extend(logged(part.entries));
            read.more = part.more;
        }
        read
    }

    /// What the script that opens a document answers.
    fn first_page(&self) -> Read {
        let (at, snapshot) = self.store.snapshot.clone();
        let part = self.store.after(at.version);
        Read { snapshot: Snapshot { at, ..snapshot }, tail: logged(part.entries), more: part.more }
    }

    /// A copy of what the store holds.
    pub(crate) fn open(&mut self) -> Result<Document, Broken> {
        let Read { snapshot, tail, .. } = self.stored();
        self.opened(snapshot, tail)
    }

    fn opened(&mut self, snapshot: Snapshot, tail: Vec<Logged>) -> Result<Document, Broken> {
        self.next += 1;
        let name = format!("pod{}", self.next).into();
        Document::open(self.profile.settings.clone(), name, snapshot, tail, self.now_ms)
            .map_err(|error| Broken(format!("cannot open: {error}")))
    }

    /// A pod that has just begun. It opens the document at once, or when somebody asks for it.
    pub(crate) fn new_pod(&mut self) -> Result<Pod, Broken> {
        let mut pod = Pod::new(self.open()?, self.era);
        if self.profile.opens_slowly {
            pod.copy = Copy::None;
        }
        Ok(pod)
    }

    /// Somebody joins at a pod that has no copy.
    pub(crate) fn begin_to_open(&mut self, pod: usize) {
        self.pods[pod].copy = Copy::Opening(Opening::default());
    }

    /// The pod's copy gave up; it opens the document anew, and its connections stay.
    pub(crate) fn reopen(&mut self, pod: usize) -> Result<(), Broken> {
        self.counts.meet(Met::Reopened);
        self.abandon_calls(pod);
        if !self.profile.opens_slowly {
            let Read { snapshot, tail, .. } = self.stored();
            self.pods[pod].era = self.era;
            return self.open_again(pod, snapshot, tail);
        }
        let pod = &mut self.pods[pod];
        pod.replies.clear();
        pod.published.clear();
        pod.copy = Copy::Reopening(Opening::default());
        Ok(())
    }

    /// One call of a pod that opens the document.
    pub(crate) fn open_further(&mut self, pod: usize) -> Result<(), Broken> {
        let lost = self.fault(Fault::LostReply, 8);
        let any = self.random.one_in(2);
        let again = matches!(self.pods[pod].copy, Copy::Reopening(_));
        let Some(opening) = self.pods[pod].opening() else { return Ok(()) };
        if lost {
            return self.fail_to_open(pod);
        }
        if !opening.subscribed && (again || any || opening.is_read()) {
            opening.subscribed = true;
            let has = opening.read.as_ref().map(Read::version);
            let is_raced = has.is_some_and(|version| version < self.store.version());
            self.counts.meet_times(Met::OpeningRaced, usize::from(is_raced));
        } else if !opening.is_read() {
            let read = opening.read.take();
            let Some(read) = self.read_on(read) else { return self.fail_to_open(pod) };
            if let Some(opening) = self.pods[pod].opening() {
                opening.read = Some(read);
            }
        }
        self.finish_opening(pod)
    }

    /// The next page; none if the log does not have what follows any more.
    fn read_on(&self, read: Option<Read>) -> Option<Read> {
        let Some(mut read) = read else { return Some(self.first_page()) };
        let after = read.tail.last().map_or(&read.snapshot.at, |last| &last.at);
        if !self.store.has(after) {
            return None;
        }
        let part = self.store.after(after.version);
        read.tail.extend(logged(part.entries));
        Some(Read { more: part.more, ..read })
    }

    /// Takes what was read, if it is all there.
    fn finish_opening(&mut self, pod: usize) -> Result<(), Broken> {
        let again = matches!(self.pods[pod].copy, Copy::Reopening(_));
        let Some(opening) = self.pods[pod].opening().filter(|opening| opening.subscribed && opening.is_read()) else {
            return Ok(());
        };
        let Some(Read { snapshot, tail, .. }) = opening.read.take() else { return Ok(()) };
        let met_new_primary = opening.met_new_primary;
        let published = std::mem::take(&mut self.pods[pod].published);
        if again {
            self.open_again(pod, snapshot, tail)?;
        } else {
            let document = self.opened(snapshot, tail)?;
            self.pods[pod] = Pod::new(document, self.pods[pod].era);
        }
        self.pods[pod].published.extend(published);
        if met_new_primary {
            self.pods[pod].check_head();
        }
        Ok(())
    }

    /// What was to be read cannot be: whoever waits for the document is told, or it is tried again.
    fn fail_to_open(&mut self, pod: usize) -> Result<(), Broken> {
        self.pods[pod].published.clear();
        if let Copy::Reopening(opening) = &mut self.pods[pod].copy {
            (opening.subscribed, opening.read) = (false, None);
            return Ok(());
        }
        self.pods[pod].copy = Copy::None;
        let waits = |id: &ConnectionId, world: &Self| {
            let connection = world.connections.get(id)?;
            (connection.pod == pod && matches!(connection.sent.front(), Some(Sent::Join { .. }))).then_some(*id)
        };
        let waiting: Vec<_> = self.connections.keys().filter_map(|id| waits(id, self)).collect();
        for id in waiting {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.sent.pop_front();
            for edit in std::mem::take(&mut connection.early) {
                let why = Refusal { seq: edit.seq, ..Refusal::new(Code::StoreUnavailable, "cannot be read") };
                self.answer(id, edit.reply, Err(why))?;
            }
            self.give(id, Got::JoinFailed(Code::StoreUnavailable));
        }
        Ok(())
    }

    fn open_again(&mut self, pod: usize, snapshot: Snapshot, tail: Vec<Logged>) -> Result<(), Broken> {
        let away = self.pods[pod].away;
        let owed = self.lost_tokens(pod);
        let fresh = self.open()?;
        let mut document = std::mem::replace(&mut self.pods[pod].document, fresh);
        let reopened = document
            .open_again(snapshot, tail, self.now_ms)
            .map_err(|error| Broken(format!("cannot open again: {error}")))?;
        self.trace(|| format!("pod {pod} opened again: {reopened:?}"));
        let era = self.pods[pod].era;
        self.pods[pod] = Pod::new(document, era);
        if self.forgets_lost {
            let fresh = self.open()?;
            self.pods[pod] = Pod::new(fresh, era);
        }
        if reopened.common.is_some() {
            self.counts.meet_times(Met::Healed, reopened.missing);
            let healers = self.pods.iter().filter(|pod| pod.document.missing() > 0).count();
            self.counts.meet_times(Met::HealersMeet, usize::from(reopened.missing > 0 && healers > 1));
            self.owed.extend(owed.into_iter().map(|token| (pod, token)));
        } else {
            // The histories part further back than this pod remembers, what it had put back before included.
            self.owed.retain(|(owing, _)| *owing != pod);
        }
        if away {
            self.toggle_store(pod)?;
        }
        self.input(pod, Input::Tick)
    }
}

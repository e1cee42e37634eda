//! Pods and what they ask of the store.
//!
//! In: the schedule: a pod's next call, its reply, a publish, a death, a long stop. Out: inputs of the documents, and
//! what comes of them.

use document::{Batch, Code, Command, CommitReply, Event, Input, JoinedContent, Refusal, Snapshot, Verdict};

use crate::{
    client::Broken,
    counts::Met,
    log::{logged, new_entries},
    pod::{Copy, Job},
    schedule::Fault,
    sockets::Got,
    store::Saving,
    world::World,
};

impl World {
    pub(crate) fn crash(&mut self, pod: usize) -> Result<(), Broken> {
        self.counts.meet(Met::Crash);
        self.counts.meet_times(Met::HealerCrash, usize::from(self.pods[pod].document.missing() > 0));
        // What it was to put back is lost with it, unless another pod has it too.
        self.owed.retain(|(owing, _)| *owing != pod);
        self.abandon_calls(pod);
        let gone: Vec<_> =
            self.connections.iter().filter(|(_, connection)| connection.pod == pod).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(connection) = self.connections.remove(&id)
                && self.present[connection.client] == Some(id)
            {
                self.present[connection.client] = None;
                self.lose_transport(connection.client);
            }
        }
        self.pods[pod] = self.new_pod()?;
        Ok(())
    }

    /// Nobody waits for the pod's calls any more; they may arrive all the same, at once or much later.
    pub(crate) fn abandon_calls(&mut self, pod: usize) {
        self.replicas.forget(pod);
        for job in std::mem::take(&mut self.pods[pod].jobs) {
            if let Job::Commit(batch) = job {
                match self.random.below(3) {
                    0 => drop(self.commit(&batch)),
                    1 if self.has(Fault::Ghost) => self.ghosts.push(batch),
                    _ => {}
                }
            }
        }
    }

    /// The commit that a pod has sent arrives, if it has sent one.
    pub(crate) fn finish_commits(&mut self, pod: usize) {
        for job in std::mem::take(&mut self.pods[pod].jobs) {
            if let Job::Commit(batch) = job {
                let reply = self.commit(&batch);
                self.pods[pod].answer(vec![Input::Committed(reply)]);
            } else {
                self.pods[pod].jobs.push_back(job);
            }
        }
    }

    /// A call arrives that nobody waits for.
    pub(crate) fn haunt(&mut self) {
        if !self.ghosts.is_empty() {
            let index = self.random.below(self.ghosts.len());
            let batch = self.ghosts.swap_remove(index);
            self.counts.meet(Met::Ghost);
            self.commit(&batch);
        }
    }

    /// The pod stops, with everything under way, or goes on after minutes.
    pub(crate) fn toggle_pause(&mut self, pod: usize) -> Result<(), Broken> {
        self.pods[pod].paused = !self.pods[pod].paused;
        if !self.pods[pod].paused {
            self.now_ms += 30_000 + self.random.below(300_000) as u64;
            if self.random.one_in(3) && self.pods[pod].listens() {
                // The server has cut off a subscriber that did not read: the gateway hears that it missed something.
                self.pods[pod].published.clear();
                self.pods[pod].published.push_back(Input::Missed);
            }
            return Ok(());
        }
        self.counts.meet(Met::Pause);
        for client in 0..self.clients.len() {
            let here = self.present[client].and_then(|id| self.connections.get(&id)).is_some_and(|c| c.pod == pod);
            if here && self.random.below(4) > 0 {
                self.disconnect(client);
            }
        }
        Ok(())
    }

    pub(crate) fn toggle_store(&mut self, pod: usize) -> Result<(), Broken> {
        let away = !self.pods[pod].away && !self.calm;
        self.pods[pod].away = away;
        // A pod that opens the document has no call of it under way.
        if self.pods[pod].is_open() { self.input(pod, Input::StoreAway(away)) } else { Ok(()) }
    }

    /// The store carries out one job of a pod.
    pub(crate) fn work(&mut self, pod: usize) -> Result<(), Broken> {
        let opens = self.pods[pod].is_opening();
        if self.pods[pod].away || !opens && self.pods[pod].jobs.is_empty() {
            return Ok(());
        }
        let carry_out = |world: &mut Self| {
            if opens {
                return world.open_further(pod);
            }
            world.carry_out_job(pod);
            Ok(())
        };
        if self.reaches_lost_primary(pod) {
            self.at_lost_primary(carry_out)
        } else if !self.meet_new_primary(pod) {
            carry_out(self)
        } else {
            Ok(())
        }
    }

    fn carry_out_job(&mut self, pod: usize) {
        let index = if self.has(Fault::Reorder) { self.random.below(self.pods[pod].jobs.len()) } else { 0 };
        let lost = self.fault(Fault::LostReply, 8);
        let Some(job) = self.pods[pod].jobs.remove(index) else { return };
        if lost {
            self.counts.meet(Met::LostReply);
        }
        if let Job::Wait(question) = job {
            return self.ask_for_durability(pod, question, lost);
        }
        let replies = match job.clone() {
            Job::Lookup { connection, clients, after } => {
                let client = self.connections.get(&connection).map_or(0, |connection| connection.client);
                if lost {
                    let why = Refusal::new(Code::StoreUnavailable, "lost");
                    vec![Input::LookedUp { connection, result: Err(why) }]
                } else if self.store.has(&after) {
                    let part = self.store.after(after.version);
                    let role = self.roles[client];
                    let rows = self.store.rows(&clients);
                    let lookup = document::Lookup { role, rows, tail: logged(part.entries), more: part.more };
                    vec![Input::LookedUp { connection, result: Ok(lookup) }]
                } else {
                    let why = Refusal::new(Code::StoreUnavailable, "the history changed");
                    vec![Input::LookedUp { connection, result: Err(why) }, Input::Forked]
                }
            }
            Job::Commit(batch) => {
                let reply = self.commit(&batch);
                if lost {
                    // The pod asks again; and perhaps its first call is only now on its way.
                    if self.fault(Fault::Ghost, 2) {
                        self.ghosts.push(batch);
                    }
                    self.pods[pod].jobs.push_back(job);
                    return;
                }
                vec![Input::Committed(reply)]
            }
            _ if lost => {
                self.pods[pod].jobs.push_back(job);
                return;
            }
            Job::Fetch { after } if self.store.has(&after) => {
                let part = self.store.after(after.version);
                let beyond = part.entries.last().map(|last| last.at.version + 1).filter(|_| part.more);
                let mut inputs = vec![Input::Learned(logged(part.entries))];
                inputs.extend(beyond.map(Input::Hint));
                inputs
            }
            Job::Fetch { .. } => vec![Input::Forked],
            Job::Wait(_) => Vec::new(),
            Job::Save(snapshot) => {
                if !self.asks_lost_primary {
                    self.replicas.save(&snapshot, self.now_ms);
                }
                let saving = self.store.save(&snapshot.at, Snapshot::clone(&snapshot), self.now_ms);
                match saving {
                    Saving::Stored => self.counts.meet(Met::Saved),
                    Saving::Stale => self.counts.meet(Met::SavedAlready),
                    Saving::Forked => return self.pods[pod].answer(vec![Input::Forked]),
                }
                vec![Input::Saved(snapshot.at.version)]
            }
        };
        self.pods[pod].answer(replies);
    }

    /// Runs the commit script and publishes what it appended.
    pub(crate) fn commit(&mut self, batch: &Batch) -> CommitReply {
        let before = self.store.version();
        self.counts.meet_times(Met::Offered, batch.entries.len());
        if self.compare_and_set && batch.head != *self.store.head() && self.store.has(&batch.head) {
            let part = self.store.after(batch.head.version);
            let verdicts = vec![Verdict::Behind; batch.entries.len()];
            return CommitReply { verdicts, tail: logged(part.entries), more: part.more, forked: false };
        }
        if !self.asks_lost_primary {
            self.replicas.commit(batch, self.now_ms);
        }
        let answer = self.store.commit(&batch.head, batch.floor, &new_entries(&batch.entries), self.now_ms);
        let Some((verdicts, part)) = answer else {
            return CommitReply { verdicts: Vec::new(), tail: Vec::new(), more: false, forked: true };
        };
        for (entry, verdict) in batch.entries.iter().zip(&verdicts) {
            self.excuse_healer(entry, *verdict);
            match verdict {
                Verdict::Dup(_) => self.counts.meet(Met::Duplicate),
                Verdict::Behind => self.counts.meet(Met::Behind),
                Verdict::Gap(_) => self.counts.meet(Met::Gap),
                Verdict::Ok(_) | Verdict::Overloaded => {}
            }
        }
        let appended = logged(self.store.all.iter().skip(before as usize).cloned().collect());
        self.counts.meet_times(Met::Appended, appended.len());
        let folded = appended.iter().filter(|logged| logged.entry.base + 1 < logged.at.version).count();
        self.counts.meet_times(Met::Folded, folded);
        self.counts
            .meet_times(Met::Newline, appended.iter().filter(|logged| &*logged.entry.client_id == "newline").count());
        if let Some(last) = appended.last() {
            let version = last.at.version;
            if self.asks_lost_primary {
                self.edits.lose(appended.iter().map(|logged| &logged.entry));
                self.counts.meet(Met::LostTail);
            }
            for other in 0..self.pods.len() {
                if self.asks_lost_primary && !self.knows_lost_primary(other) || !self.pods[other].listens() {
                    continue;
                }
                let lost = self.fault(Fault::LostPublish, 8);
                let twice = self.fault(Fault::Duplicate, 8);
                let first = self.fault(Fault::Duplicate, 8);
                let input = if self.random.one_in(8) { Input::Hint(version) } else { Input::Learned(appended.clone()) };
                let published = &mut self.pods[other].published;
                match (lost, twice, first) {
                    (true, ..) => self.pods[other].missed = true,
                    (_, true, _) => published.extend([input.clone(), input]),
                    (_, _, true) => published.push_front(input),
                    _ => published.push_back(input),
                }
            }
        }
        CommitReply { verdicts, tail: logged(part.entries), more: part.more, forked: false }
    }

    pub(crate) fn reply(&mut self, pod: usize) -> Result<(), Broken> {
        let reorder = self.has(Fault::Reorder);
        let index = if reorder { self.random.below(self.pods[pod].replies.len()) } else { 0 };
        let Some(reply) = self.pods[pod].replies.remove(index) else { return Ok(()) };
        self.pods[pod].tells(&reply);
        for input in reply.inputs {
            self.input(pod, input)?;
        }
        self.pods[pod].told(reply.era);
        Ok(())
    }

    pub(crate) fn deliver_publish(&mut self, pod: usize) -> Result<(), Broken> {
        if !self.pods[pod].is_open() {
            return Ok(());
        }
        match self.pods[pod].published.pop_front() {
            Some(published) => self.hear_publish(pod, published),
            None => Ok(()),
        }
    }

    /// Hands an input to a pod's document and carries out what comes of it.
    pub(crate) fn input(&mut self, pod: usize, input: Input) -> Result<(), Broken> {
        self.goes_on()?;
        match &self.pods[pod].copy {
            Copy::Open => {}
            Copy::None | Copy::Opening(_) => return Ok(()),
            Copy::Reopening(_) => {
                // Nothing but mail is taken until the document is read.
                if !matches!(input, Input::Join(_) | Input::Edit(_) | Input::Leave { .. } | Input::Cursor { .. }) {
                    return Ok(());
                }
                self.counts.meet(Met::TurnedAway);
            }
        }
        if !matches!(input, Input::Tick) {
            self.trace(|| format!("pod {pod} <- {input:?}"));
        }
        for command in self.pods[pod].document.handle(input, self.now_ms) {
            self.trace(|| format!("pod {pod} -> {command:?}"));
            match command {
                Command::Send { to, event } => {
                    self.count_event(&event, to.len());
                    for id in to {
                        self.give(id, Got::Event(event.clone()));
                    }
                }
                Command::Answer { to, reply, answer } => self.answer(to, reply, answer)?,
                Command::Lookup { connection, clients, after, .. } => {
                    self.pods[pod].jobs.push_back(Job::Lookup { connection, clients, after });
                }
                Command::Commit(batch) => self.pods[pod].jobs.push_back(Job::Commit(batch)),
                Command::Fetch { after } => self.pods[pod].jobs.push_back(Job::Fetch { after }),
                Command::Save(snapshot) => self.pods[pod].jobs.push_back(Job::Save(snapshot)),
                Command::Publish(peer) => {
                    for other in (0..self.pods.len())
                        .filter(|other| *other != pod && self.pods[*other].listens())
                        .collect::<Vec<_>>()
                    {
                        let input = Input::Peer { pod: format!("pod{pod}").into(), peer: peer.clone() };
                        self.pods[other].published.push_back(input);
                    }
                }
                Command::WritePresence(_) => self.pods[pod].answer(vec![Input::PresenceWritten(true)]),
                Command::ReadPresence => self.pods[pod].answer(vec![Input::PresenceUnread]),
                Command::WatchPods(_) => {}
                Command::PauseReading { connection, pause } => {
                    if let Some(connection) = self.connections.get_mut(&connection) {
                        connection.paused = pause;
                    }
                }
                Command::MakeDurable { ticket, at, by_commit } => self.pods[pod].make_durable(ticket, at, by_commit),
                Command::Diverged { version } => return Err(Broken(format!("copies differ at {version}"))),
                // The checker knows which may be lost.
                Command::GivenUp { .. } => {}
                Command::Reopen => return self.reopen(pod),
            }
        }
        Ok(())
    }

    fn count_event(&mut self, event: &Event, times: usize) {
        match event {
            Event::Rejoin => self.counts.meet_times(Met::Rejoin, times),
            Event::DocumentJoined(joined) => self.counts.meet(match joined.content {
                JoinedContent::Edits(_) => Met::JoinByEntries,
                JoinedContent::Text(_) | JoinedContent::Ops(_) => Met::JoinByContent,
            }),
            Event::Error(refusal) if refusal.code == Code::NotDurableYet => {
                self.counts.meet_times(Met::NotDurableYet, times);
            }
            Event::Edit(_)
            | Event::EditCommitted { .. }
            | Event::AccessChanged { .. }
            | Event::UserJoined(_)
            | Event::UserLeft { .. }
            | Event::Presence { .. }
            | Event::CursorUpdate { .. }
            | Event::TypingUpdate { .. }
            | Event::Error(_) => {}
        }
    }
}

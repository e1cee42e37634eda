//! What the pod remembers of answers, and that it asks once for many who want to know.
//!
//! In: keys, how to ask for them, and words that something changed. Out: answers. An answer is kept under the moment its
//! question was put: one that was under way when a change was heard is not stored, and asked for again; but whoever must
//! know gets it, for it is newer than what they had heard of, and they hear of later changes themselves.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use quick_cache::sync::Cache;
use tokio::time::{Instant, sleep};

use crate::store::StoreError;

/// An answer is relied on for this long (CONTRACT section 2).
pub(super) const FRESH: Duration = Duration::from_secs(60);
/// One that is older than this is given and asked for again behind the caller's back.
const RECENT: Duration = Duration::from_secs(5);
/// Preferred to no answer for this long (CONTRACT section 1).
pub(super) const STALE: Duration = Duration::from_secs(24 * 3600);
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// After a failure a stale answer is given at once for this long, so that a source that hangs costs one client its time
/// and not all.
const AILING: Duration = Duration::from_secs(5);
/// Between attempts, twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// Changes that are remembered one by one; beyond it everything counts as changed.
const MARKS_MAX: usize = 10_000;
/// Times at which anything was said to change that are told apart; beyond it the earlier of two counts for both.
const UNSETTLED_MAX: usize = 64;
/// Questions under way; beyond it they are put without being shared.
const FLIGHTS_MAX: usize = 50_000;

/// An answer: what there is, or that there is nothing.
pub(super) type Answer<V> = Option<V>;
/// Asks the source itself.
pub(super) type Ask<V> = Arc<dyn Fn(Wish) -> Flying<V> + Send + Sync>;

/// A question under way, shared by whoever waits for it.
type Landing<V> = Shared<Flying<V>>;
type Flying<V> = BoxFuture<'static, Result<Asked<V>, StoreError>>;

/// What a caller relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wish {
    /// On an answer of the last minute.
    Recent,
    /// On what the source says after this is asked, or on nothing: what is remembered is no answer. Changes that come
    /// later are the caller's.
    Now,
}

/// What a source said.
#[derive(Debug, Clone)]
pub(super) struct Asked<V> {
    pub(super) answer: Answer<V>,
    /// How old it is already, where another pod had asked.
    pub(super) age: Duration,
}

/// Answers by key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Memory<V> {
    inner: Arc<Inner<V>>,
}

struct Inner<V> {
    /// Those that are too old are not taken out, only passed over.
    entries: Cache<Arc<str>, Entry<V>>,
    state: Mutex<State<V>>,
    /// A no is relied on for this long.
    fresh_no: Duration,
    /// How long an answer may be used, if there is no better one, after it was said that anything may have changed.
    doubtful: Duration,
}

#[derive(Clone)]
struct Entry<V> {
    answer: Answer<V>,
    /// Its question's number.
    number: u64,
    at: Instant,
}

struct State<V> {
    /// Numbers questions and changes in their order.
    last: u64,
    everything_changed: u64,
    /// Answers to questions up to this number are worth nothing any more.
    settled: u64,
    /// When it was said that anything may have changed, by number; those that are long enough ago are in `settled`.
    unsettled: VecDeque<(u64, Instant)>,
    changed: HashMap<Arc<str>, u64>,
    flights: HashMap<(Arc<str>, Wish), Flight<V>>,
    ailing_until: Option<Instant>,
}

struct Flight<V> {
    number: u64,
    landing: WeakShared<Flying<V>>,
}

/// What somebody wants to know: its key, and the names that a change calls it by.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) key: Arc<str>,
    pub(super) parts: Vec<Arc<str>>,
}

impl<V: Clone + PartialEq + Send + Sync + 'static> Memory<V> {
    /// Of at most so many answers.
    pub(super) fn new(entries_max: usize, fresh_no: Duration, doubtful: Duration) -> Memory<V> {
        let state = State {
            last: 0,
            everything_changed: 0,
            settled: 0,
            unsettled: VecDeque::new(),
            changed: HashMap::new(),
            flights: HashMap::new(),
            ailing_until: None,
        };
        let entries = Cache::new(entries_max);
        Memory { inner: Arc::new(Inner { entries, state: Mutex::new(state), fresh_no, doubtful }) }
    }

    /// The answer, from memory as far as the wish allows. `differs` is called if an answer that was given from memory
    /// turns out to be old.
    ///
    /// # Errors
    /// When there is no answer, not even a stale one where that is enough.
    pub(super) async fn get(
        &self,
        question: &Question,
        wish: Wish,
        ask: &Ask<V>,
        differs: impl FnOnce(Answer<V>) + Send + 'static,
    ) -> Result<Answer<V>, StoreError> {
        if wish == Wish::Recent
            && let Some(entry) = self.remembered(question).filter(|entry| self.is_fresh(entry))
        {
            if entry.at.elapsed() > RECENT {
                self.ask_behind(question, ask, entry.answer.clone(), differs);
            }
            return Ok(entry.answer);
        }
        let is_ailing = self.is_ailing();
        if is_ailing && let Some(entry) = self.stale(question, wish) {
            self.ask_behind(question, ask, entry.answer.clone(), differs);
            return Ok(entry.answer);
        }
        let by = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        loop {
            let (number, landing) = self.fly(question, wish, ask);
            match landing.await {
                // Who must know would have no answer at all where changes come faster than answers.
                Ok(asked) if wish == Wish::Now || self.counts(question, number) => {
                    if wish == Wish::Recent && asked.age > FRESH {
                        self.ask_behind(question, ask, asked.answer.clone(), differs);
                    }
                    return Ok(asked.answer);
                }
                // A change was heard meanwhile.
                Ok(_) if Instant::now() < by => {}
                Ok(_) => return Err(StoreError::Unavailable("it changes faster than it can be asked for".into())),
                Err(error) => {
                    if let Some(entry) = self.stale(question, wish) {
                        return Ok(entry.answer);
                    }
                    // Whoever must know comes again by himself; a source in trouble is not helped by more questions.
                    let comes_again = wish == Wish::Now && is_ailing;
                    if comes_again || !error.is_passing() || Instant::now() + pause >= by {
                        return Err(error);
                    }
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause *= 2;
                }
            }
        }
    }

    /// What is called by one of these names has changed.
    pub(super) fn forget(&self, part: &Arc<str>) {
        let mut state = self.inner.state();
        state.last += 1;
        let now = state.last;
        if state.changed.len() >= MARKS_MAX && !state.changed.contains_key(part) {
            state.changed.clear();
            state.everything_changed = now;
            // Some of what is forgotten was named, and nobody knows any more what.
            self.inner.entries.clear();
        } else {
            state.changed.insert(Arc::clone(part), now);
        }
    }

    /// It was said that anything may have changed.
    pub(super) fn forget_all(&self) {
        let mut state = self.inner.state();
        let now = state.doubt_all();
        let is_full = state.unsettled.len() >= UNSETTLED_MAX;
        match state.unsettled.back_mut() {
            Some((number, _)) if is_full => *number = now,
            Some(_) | None => state.unsettled.push_back((now, Instant::now())),
        }
    }

    /// Something may have been said and was not heard: everything is asked for again, and counts until it is answered.
    pub(super) fn doubt_all(&self) {
        self.inner.state().doubt_all();
    }

    /// What was answered last, whatever was said since.
    pub(super) fn last(&self, key: &Arc<str>) -> Answer<V> {
        self.kept(key).and_then(|entry| entry.answer)
    }

    fn kept(&self, key: &Arc<str>) -> Option<Entry<V>> {
        self.inner.entries.get(key).filter(|entry| entry.at.elapsed() < STALE)
    }

    /// The answer that is remembered, unless it was forgotten.
    fn remembered(&self, question: &Question) -> Option<Entry<V>> {
        let entry = self.kept(&question.key)?;
        self.inner.state().counts(question, entry.number).then_some(entry)
    }

    /// An answer that is better than none; a stale no is none, because it would be a statement about the user.
    fn stale(&self, question: &Question, wish: Wish) -> Option<Entry<V>> {
        if wish == Wish::Now {
            return None;
        }
        let entry = self.kept(&question.key)?;
        let mut state = self.inner.state();
        state.settle(self.inner.doubtful);
        let counts = entry.number > state.settled && !state.is_named(question, entry.number);
        (counts && entry.answer.is_some()).then_some(entry)
    }

    fn counts(&self, question: &Question, number: u64) -> bool {
        self.inner.state().counts(question, number)
    }

    fn is_fresh(&self, entry: &Entry<V>) -> bool {
        entry.at.elapsed() < if entry.answer.is_some() { FRESH } else { self.inner.fresh_no }
    }

    fn is_ailing(&self) -> bool {
        self.inner.state().ailing_until.is_some_and(|until| Instant::now() < until)
    }

    fn ask_behind(
        &self,
        question: &Question,
        ask: &Ask<V>,
        given: Answer<V>,
        differs: impl FnOnce(Answer<V>) + Send + 'static,
    ) {
        let is_under_way = self.inner.state().flights.contains_key(&(question.key.clone(), Wish::Now));
        if is_under_way {
            return;
        }
        let (memory, question) = (self.clone(), question.clone());
        let (number, landing) = self.fly(&question, Wish::Now, ask);
        tokio::spawn(async move {
            if let Ok(asked) = landing.await
                && memory.counts(&question, number)
                && asked.answer != given
            {
                differs(asked.answer);
            }
        });
    }

    /// The question, put or joined while it is under way, and its number. It ends when nobody waits for it any more.
    fn fly(&self, question: &Question, wish: Wish, ask: &Ask<V>) -> (u64, Landing<V>) {
        let key = (Arc::clone(&question.key), wish);
        let mut state = self.inner.state();
        if let Some(flight) = state.flights.get(&key).filter(|flight| state.counts(question, flight.number))
            && let Some(landing) = flight.landing.upgrade()
        {
            return (flight.number, landing);
        }
        state.last += 1;
        let number = state.last;
        let end = Landed { inner: Arc::clone(&self.inner), key: key.clone(), number };
        let (inner, question, asking) = (Arc::clone(&self.inner), question.clone(), ask(wish));
        let landing = async move {
            let _end = end;
            let at = Instant::now();
            let result = asking.await;
            inner.landed(&question, number, at, &result);
            result
        };
        let landing = landing.boxed().shared();
        if state.flights.len() < FLIGHTS_MAX
            && let Some(weak) = landing.downgrade()
        {
            state.flights.insert(key, Flight { number, landing: weak });
        }
        (number, landing)
    }
}

impl<V: Clone + Send + Sync + 'static> Inner<V> {
    fn landed(&self, question: &Question, number: u64, at: Instant, result: &Result<Asked<V>, StoreError>) {
        let mut state = self.state();
        match result {
            Ok(asked) => {
                state.ailing_until = None;
                let at = at.checked_sub(asked.age).unwrap_or(at);
                let is_newer = |entry: Entry<V>| state.counts(question, entry.number) && entry.at > at;
                if state.counts(question, number) && !self.entries.get(&question.key).is_some_and(is_newer) {
                    let entry = Entry { answer: asked.answer.clone(), number, at };
                    self.entries.insert(Arc::clone(&question.key), entry);
                }
            }
            Err(error) => {
                let now = Instant::now();
                // Once for all who ask meanwhile.
                if state.ailing_until.is_none_or(|until| until <= now) {
                    tracing::warn!(%error, "nobody can tell about users or accesses; what is remembered is relied on");
                }
                state.ailing_until = Some(now + AILING);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> State<V> {
    /// What was asked before this is not relied on any more. The number of this change.
    fn doubt_all(&mut self) -> u64 {
        self.last += 1;
        self.everything_changed = self.last;
        self.last
    }

    /// Nothing counts any more that was asked before anything was said to change so long ago.
    fn settle(&mut self, doubtful: Duration) {
        while let Some((number, _)) = self.unsettled.front().filter(|(_, at)| at.elapsed() >= doubtful) {
            self.settled = *number;
            self.unsettled.pop_front();
        }
    }

    /// Whether no change was heard since the question of this number.
    fn counts(&self, question: &Question, number: u64) -> bool {
        number > self.everything_changed && !self.is_named(question, number)
    }

    /// Whether a change since then named it.
    fn is_named(&self, question: &Question, number: u64) -> bool {
        question.parts.iter().any(|part| self.changed.get(part).is_some_and(|changed| *changed > number))
    }
}

/// Takes a question out when it is answered or given up.
struct Landed<V> {
    inner: Arc<Inner<V>>,
    key: (Arc<str>, Wish),
    number: u64,
}

impl<V> Drop for Landed<V> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            state.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;

//! What is kept, for how long, and what is not believed: a source that says what it is told to, and paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, watch};

use super::*;

/// A source that says what it is set to, or nothing while it is away.
#[derive(Clone)]
struct Source {
    says: watch::Sender<Option<Answer<u32>>>,
    asked: Arc<AtomicUsize>,
    /// How long an answer takes after it was decided.
    takes: Duration,
    /// How old its answers are for those who take recent ones.
    age: Duration,
}

impl Source {
    fn new(takes: Duration) -> Source {
        Source { says: watch::Sender::new(Some(Some(1))), asked: Arc::default(), takes, age: Duration::ZERO }
    }

    fn ask(&self) -> Ask<u32> {
        let source = self.clone();
        Arc::new(move |wish| {
            let source = source.clone();
            let asking = async move {
                source.asked.fetch_add(1, Ordering::SeqCst);
                let said = *source.says.borrow();
                sleep(source.takes).await;
                let age = if wish == Wish::Recent { source.age } else { Duration::ZERO };
                let answer = said.ok_or_else(|| StoreError::Unavailable("away".into()))?;
                Ok(Asked { answer, age })
            };
            asking.boxed()
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

const DAY: u64 = 24 * 3600;

fn question() -> Question {
    Question { key: "k".into(), parts: vec!["k".into()] }
}

async fn get(memory: &Memory<u32>, source: &Source, wish: Wish) -> Result<Answer<u32>, StoreError> {
    memory.get(&question(), wish, &source.ask(), |_| {}).await
}

/// In which answers are worth something for so many seconds after anything may have changed.
fn memory(doubtful_s: u64) -> Memory<u32> {
    Memory::new(100, Duration::from_secs(5), Duration::from_secs(doubtful_s))
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_a_minute_and_a_no_for_some_seconds() {
    let (memory, source) = (memory(DAY), Source::new(Duration::from_millis(10)));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    assert_eq!(source.asked(), 1);
    source.says.send_replace(Some(None));
    sleep(Duration::from_secs(59)).await;
    // Given once more, and found to be old behind the caller's back.
    let (tell, mut told) = mpsc::channel(1);
    let differs = move |answer| tell.try_send(answer).unwrap();
    assert_eq!(memory.get(&question(), Wish::Recent, &source.ask(), differs).await.unwrap(), Some(1));
    assert_eq!(told.recv().await, Some(None));
    assert_eq!((get(&memory, &source, Wish::Recent).await.unwrap(), source.asked()), (None, 2));
    source.says.send_replace(Some(Some(2)));
    sleep(Duration::from_secs(6)).await;
    assert_eq!((get(&memory, &source, Wish::Recent).await.unwrap(), source.asked()), (Some(2), 3));
    source.says.send_replace(Some(Some(3)));
    assert_eq!(get(&memory, &source, Wish::Now).await.unwrap(), Some(3));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_better_than_none_for_a_day_and_a_stale_no_never() {
    let (memory, source) = (memory(DAY), Source::new(Duration::from_secs(2)));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(None);
    sleep(Duration::from_secs(23 * 3600)).await;
    let started = Instant::now();
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    // The source is known to be away: nobody else waits for it.
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    sleep(Duration::from_secs(2 * 3600)).await;
    let started = Instant::now();
    assert!(get(&memory, &source, Wish::Recent).await.is_err());
    assert!(started.elapsed() <= Duration::from_secs(11), "{:?}", started.elapsed());
    source.says.send_replace(Some(None));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), None);
    source.says.send_replace(None);
    sleep(Duration::from_secs(6)).await;
    assert!(get(&memory, &source, Wish::Recent).await.is_err(), "no is a statement that must be true now");
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_change_is_neither_given_nor_kept() {
    let (memory, source) = (memory(DAY), Source::new(Duration::from_secs(1)));
    for forget in [|memory: &Memory<u32>| memory.forget(&"k".into()), Memory::forget_all] {
        source.says.send_replace(Some(Some(1)));
        forget(&memory);
        let change = async {
            sleep(Duration::from_millis(500)).await;
            source.says.send_replace(Some(Some(2)));
            forget(&memory);
            // Whoever comes now does not get the old answer either.
            get(&memory, &source, Wish::Recent).await
        };
        let (first, second) = tokio::join!(get(&memory, &source, Wish::Recent), change);
        assert_eq!((first.unwrap(), second.unwrap()), (Some(2), Some(2)));
        assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_must_know_has_an_answer_although_changes_come_faster_than_answers() {
    let (memory, source) = (memory(DAY), Source::new(Duration::from_secs(1)));
    get(&memory, &source, Wish::Now).await.unwrap();
    let changes = async {
        loop {
            memory.forget(&question().key);
            sleep(Duration::from_millis(300)).await;
        }
    };
    let answers = async {
        source.says.send_replace(Some(None));
        memory.forget(&question().key);
        let since = Instant::now();
        assert_eq!(get(&memory, &source, Wish::Now).await.unwrap(), None, "it is gone");
        assert_eq!(since.elapsed().as_secs(), 1);
        // Who could do with one of the last minute has more time, and is told so in the end.
        assert!(get(&memory, &source, Wish::Recent).await.is_err());
    };
    tokio::select! {
        () = changes => {}
        () = answers => {}
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_must_know_gets_no_stale_answer_and_asks_a_source_in_trouble_once() {
    let (memory, source) = (memory(DAY), Source::new(Duration::ZERO));
    assert_eq!(get(&memory, &source, Wish::Now).await.unwrap(), Some(1));
    source.says.send_replace(None);
    assert!(get(&memory, &source, Wish::Now).await.is_err());
    let asked = source.asked();
    assert!(asked > 2, "a failure may pass while somebody waits");
    assert!(get(&memory, &source, Wish::Now).await.is_err());
    assert_eq!(source.asked(), asked + 1);
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn after_anything_may_have_changed_a_stale_answer_counts_for_a_bounded_time_however_often_it_is_said() {
    for often in [1, 10, 1_000] {
        let (memory, source) = (memory(60), Source::new(Duration::ZERO));
        assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
        source.says.send_replace(None);
        for _ in 0..often {
            memory.forget_all();
            sleep(Duration::from_secs(59) / often).await;
        }
        assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1), "{often}");
        assert!(memory.inner.state().unsettled.len() <= UNSETTLED_MAX);
        sleep(Duration::from_secs(1)).await;
        assert!(get(&memory, &source, Wish::Recent).await.is_err(), "{often}");
        source.says.send_replace(Some(Some(2)));
        assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(2));
        assert!(memory.inner.state().unsettled.len() <= UNSETTLED_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_missed_is_asked_for_again_and_an_old_answer_still_counts() {
    let (memory, source) = (memory(60), Source::new(Duration::ZERO));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(None);
    memory.doubt_all();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(Some(Some(2)));
    sleep(AILING).await;
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_change_named_is_not_even_a_stale_one() {
    let (memory, source) = (memory(DAY), Source::new(Duration::ZERO));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(None);
    memory.forget(&"k".into());
    assert!(get(&memory, &source, Wish::Recent).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn more_changes_than_are_remembered_one_by_one_forget_everything() {
    let (memory, source) = (memory(DAY), Source::new(Duration::ZERO));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(Some(Some(2)));
    memory.forget(&"k".into());
    for number in 0..=MARKS_MAX {
        memory.forget(&number.to_string().into());
    }
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_question_ends_when_nobody_waits_for_it_and_leaves_nothing_behind() {
    let (memory, source) = (memory(DAY), Source::new(Duration::from_secs(100)));
    let waiting = tokio::time::timeout(Duration::from_secs(1), get(&memory, &source, Wish::Recent)).await;
    assert!(waiting.is_err());
    assert!(memory.inner.state().flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_pod_is_given_and_asked_for_again() {
    let memory = memory(DAY);
    let source = Source { age: Duration::from_secs(1800), ..Source::new(Duration::from_millis(1)) };
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    source.says.send_replace(Some(Some(2)));
    sleep(Duration::from_secs(1)).await;
    // What the other pod was told was given at once; by now this pod has its own answer, and keeps that.
    assert_eq!(source.asked(), 2);
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(2));
    assert_eq!(source.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_that_was_answered_a_day_ago() {
    let (memory, source) = (memory(DAY), Source::new(Duration::ZERO));
    assert_eq!(get(&memory, &source, Wish::Recent).await.unwrap(), Some(1));
    sleep(STALE - Duration::from_millis(1)).await;
    assert_eq!(memory.last(&question().key), Some(1));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(memory.last(&question().key), None);
}

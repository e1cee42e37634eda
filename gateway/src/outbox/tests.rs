//! What waits, in which order, and what happens when too much of it does.

use std::time::Duration;

use super::*;

fn outbox() -> (Outbox, prometheus_client::metrics::counter::Counter) {
    let metrics = Metrics::default();
    let common = Common::new(Budget::new(1 << 30, &metrics), metrics.clone());
    (Outbox::new(ConnectionId(7), common), metrics.slow_consumers)
}

fn frame(length: usize) -> Bytes {
    Bytes::from(vec![b'x'; length])
}

/// Waits as the owner does.
async fn until(outbox: &Outbox, is_so: impl Fn(&Outbox) -> bool) {
    poll_fn(|context| {
        outbox.register(context.waker());
        if is_so(outbox) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// One write to a socket that takes whatever it is given.
fn taken_from(outbox: &Outbox) -> Vec<Bytes> {
    let mut queue = outbox.queue();
    let frames: Vec<_> = queue.frames.iter().take(FRAMES_PER_WRITE).map(|frame| frame.bytes.clone()).collect();
    queue.written(frames.iter().map(Bytes::len).sum());
    queue.tell_drained();
    frames
}

#[test]
fn frames_come_out_in_order_and_the_end_after_them() {
    let (outbox, _) = outbox();
    for n in 0..FRAMES_PER_WRITE + 1 {
        outbox.push(Bytes::from(n.to_string()));
    }
    outbox.close(Ending::Disconnect);
    outbox.close(Ending::Transport { code: 1001, reason: "late" });
    outbox.push(frame(1));
    let batch = taken_from(&outbox);
    assert_eq!((batch.len(), &batch[3][..]), (FRAMES_PER_WRITE, &b"3"[..]));
    assert_ne!(outbox.write(), Progress::Over(Ending::Disconnect), "one frame is left");
    assert_eq!(taken_from(&outbox).len(), 1);
    assert_eq!(outbox.write(), Progress::Over(Ending::Disconnect));
    assert_eq!(outbox.waiting(), Waiting::default());
}

#[test]
fn edits_beyond_the_bound_wait_for_the_document_until_half_of_them_is_out() {
    let (outbox, slow) = outbox();
    let drained = Arc::new(Notify::new());
    let mut taken = 0;
    while outbox.push_edit_later(frame(1024), &drained) {
        taken += 1;
    }
    assert_eq!(taken, EDIT_BYTES_MAX / 1024);
    assert!(!outbox.has_room_for_edits(&drained) && !outbox.is_closing() && slow.get() == 0);
    let is_told = || futures_util::FutureExt::now_or_never(drained.notified()).is_some();
    while outbox.waiting().edit > EDIT_BYTES_LOW {
        assert!(!is_told(), "{:?} wait", outbox.waiting());
        taken_from(&outbox);
    }
    assert!(is_told() && outbox.has_room_for_edits(&drained));
    assert!(outbox.push_edit_later(frame(EDIT_BYTES_MAX / 2), &drained));
}

#[test]
fn of_a_cursor_only_the_latest_waits_at_the_last_place() {
    let (outbox, _) = outbox();
    let texts = |batch: &[Bytes]| batch.iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect::<Vec<_>>();
    for (text, class) in [
        ("a1", Class::Latest(1)),
        ("b1", Class::Latest(2)),
        ("joined", Class::Must),
        ("a2", Class::Latest(1)),
        ("left", Class::LatestMust(1)),
    ] {
        outbox.push_later(Bytes::from(text), class);
    }
    assert_eq!(texts(&taken_from(&outbox)), ["b1", "joined", "a2", "left"]);
    assert_eq!(outbox.waiting().bytes(), 0);
}

#[test]
fn cursors_beyond_their_bound_are_dropped_and_close_nothing() {
    let (outbox, slow) = outbox();
    for n in 0..1000 {
        outbox.push_later(frame(1024), Class::Latest(n));
    }
    assert_eq!((outbox.waiting().latest, outbox.is_closing(), slow.get()), (LATEST_BYTES_MAX, false, 0));
}

#[test]
fn one_frame_is_always_taken_and_a_reader_that_stops_is_dropped_and_counted() {
    let (outbox, slow) = outbox();
    outbox.push(frame(WAITING_BYTES_MAX + 1));
    assert!(!outbox.is_closing());
    outbox.push(frame(1));
    outbox.push(frame(1));
    assert_eq!(outbox.write(), Progress::Over(Ending::Drop));
    assert_eq!((outbox.waiting(), slow.get()), (Waiting::default(), 1));
}

#[test]
fn snapshots_have_a_limit_of_their_own() {
    let (outbox, _) = outbox();
    outbox.push_later(frame(WAITING_BYTES_MAX * 4), Class::Snapshot);
    outbox.push(frame(WAITING_BYTES_MAX));
    assert!(!outbox.is_closing() && outbox.has_snapshot());
    taken_from(&outbox);
    assert!(!outbox.has_snapshot());
    outbox.push_later(frame(SNAPSHOT_BYTES_MAX), Class::Snapshot);
    outbox.push_later(frame(1), Class::Snapshot);
    assert!(outbox.is_closing());
}

#[tokio::test]
async fn what_a_full_socket_does_not_take_is_left_to_the_owner_in_order() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Arc::new(Stream::from(tcp));
    let (mut peer, _) = listener.accept().await.unwrap();
    let (outbox, _) = outbox();
    outbox.attach(socket.clone());
    let mut expected = Vec::new();
    let mut sent = 0;
    // Until the socket is full; the last frames wait, one of them perhaps written in part.
    while outbox.waiting().bytes() == 0 {
        let frame = vec![u8::try_from(sent % 251).unwrap(); 65_536 + sent];
        expected.extend_from_slice(&frame);
        outbox.push(Bytes::from(frame));
        sent += 1;
    }
    outbox.push_later(Bytes::from_static(b"after"), Class::Snapshot);
    expected.extend_from_slice(b"after");
    assert_eq!(outbox.write(), Progress::Full { took: true }, "others wrote");
    assert_eq!(outbox.write(), Progress::Full { took: false }, "nobody reads");
    assert!(outbox.has_snapshot(), "what the owner has in its hands still waits");
    let reader = tokio::spawn(async move {
        let mut read = vec![0; expected.len()];
        tokio::io::AsyncReadExt::read_exact(&mut peer, &mut read).await.unwrap();
        read == expected
    });
    while outbox.write() != Progress::Done {
        socket.writable().await.unwrap();
    }
    assert_eq!(outbox.waiting(), Waiting::default());
    assert!(reader.await.unwrap());
}

#[tokio::test]
async fn reading_waits_while_it_is_paused() {
    let (outbox, _) = outbox();
    let [one, two] = ["one", "two"].map(Arc::from);
    until(&outbox, |outbox| !outbox.is_paused()).await;
    outbox.pause_reading(&one, true);
    outbox.pause_reading(&one, true);
    outbox.pause_reading(&two, true);
    outbox.pause_reading(&one, false);
    let waiting = tokio::spawn({
        let outbox = outbox.clone();
        async move { until(&outbox, |outbox| !outbox.is_paused()).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    outbox.pause_reading(&two, false);
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hint_waits_for_the_answer_to_connect_and_tells_the_time_that_is_left_then() {
    let (outbox, _) = outbox();
    outbox.hint(Instant::now() + Duration::from_secs(9));
    assert_eq!(outbox.waiting(), Waiting::default(), "nobody is there to hear it");
    tokio::time::advance(Duration::from_secs(2)).await;
    outbox.push_text("40{}");
    outbox.connected();
    let said = taken_from(&outbox);
    let said: Vec<_> = said.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
    assert!(said.len() == 2 && said[1].ends_with(r#"42["draining",{"reconnectAfterMs":7000}]"#), "{said:?}");
    outbox.connected();
    assert_eq!(taken_from(&outbox).len(), 0, "it is said once");
    outbox.hint(Instant::now());
    assert_eq!(taken_from(&outbox).len(), 1, "and at once to whoever is connected");
}

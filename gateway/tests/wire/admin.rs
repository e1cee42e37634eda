//! The admin port under peers that do not behave: probes get through all the same.
//!
//! In: a peer that asks and never reads. Out: when it is let go.

use std::{io::ErrorKind, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpSocket, time::Instant};

use crate::harness::Gateway;

/// Far more than one answer: the gateway reads no further while so much waits.
const REQUESTS: usize = 1000;

#[tokio::test]
async fn a_peer_that_never_reads_its_answers_gives_its_place_back() {
    let gateway = Gateway::alone().await;
    // Buffers that are soon full.
    let [listening, connecting] = [(); 2].map(|()| TcpSocket::new_v4().unwrap());
    listening.set_send_buffer_size(4096).unwrap();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listening.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(collab_gateway::admin::serve(listener, gateway.admin.clone(), std::future::pending()));
    connecting.set_recv_buffer_size(4096).unwrap();
    let mut peer = connecting.connect(address).await.unwrap();
    peer.write_all("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS).as_bytes()).await.unwrap();
    // In the gateway's own time: whenever nothing else happens the clock jumps.
    tokio::time::pause();
    let start = Instant::now();
    while !matches!(peer.try_write(b"G"), Err(error) if error.kind() != ErrorKind::WouldBlock) {
        // A kubelet gives a probe a few tries, ten seconds apart.
        assert!(start.elapsed() < Duration::from_secs(20), "it still holds one of the few places");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    serving.abort();
}

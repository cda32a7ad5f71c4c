//! A rolling restart under load, as clients notice it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on};
use tokio::time::Instant;

/// A proposal that is lost on its way to the leader is told after 5.4 s; nothing else takes that long.
const FLAGS: [&str; 2] = ["--heartbeat-interval=20", "--election-timeout=200"];
const LONGEST_WAIT: Duration = Duration::from_secs(4);

const WRITERS: usize = 9;

#[derive(Default)]
struct Noticed {
    written: Cell<u64>,
    /// Connections that ended, or that nobody took.
    reconnects: Cell<u64>,
    /// Other answers than the one hoped for.
    refusals: RefCell<Vec<(u32, String)>>,
    longest: Cell<Duration>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// Writes until told to stop; goes on at the next member when one does not serve.
async fn write(writer: usize, ports: [u16; 3], noticed: &Noticed, is_over: &Cell<bool>) -> u64 {
    let (mut member, mut acknowledged) = (writer, 0);
    let mut client = None;
    while !is_over.get() {
        let Some(connected) = &client else {
            match Client::connect(ports[member % 3]).await {
                Ok(connected) => client = Some(connected),
                Err(_) => {
                    member += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            continue;
        };
        let start = Instant::now();
        let value = (acknowledged + 1).to_string();
        let result = connected.put_kv(&format!("writer/{writer}"), &value).await;
        noticed.longest.set(noticed.longest.get().max(start.elapsed()));
        match result {
            Ok(_) => {
                acknowledged += 1;
                count(&noticed.written);
            }
            Err(CallError::Status { code, message }) => {
                noticed.refusals.borrow_mut().push((code, message));
                (client, member) = (None, member + 1);
            }
            Err(_) => {
                count(&noticed.reconnects);
                (client, member) = (None, member + 1);
            }
        }
    }
    acknowledged
}

#[test]
fn rolling_restart_under_load_costs_clients_a_reconnect_and_loses_no_proposal() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let ports = [0, 1, 2].map(|member| cluster.client_port(member));
        let (noticed, is_over) = (Noticed::default(), Cell::new(false));
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| Box::pin(write(writer, ports, &noticed, &is_over))).collect();
        let restarts = async {
            for round in 0..6 {
                let (leader, followers) = cluster.roles().await;
                // Each second time the leader itself.
                let restarted = if round % 2 == 0 { leader } else { followers[0] };
                cluster.terminate(restarted).await;
                cluster.start_again(restarted).await;
            }
            is_over.set(true);
        };
        let mut writers: Vec<_> = writers.into_iter().map(|writer| (writer, None)).collect();
        let mut restarts = Box::pin(restarts);
        let mut are_restarted = false;
        std::future::poll_fn(|cx| {
            are_restarted = are_restarted || restarts.as_mut().poll(cx).is_ready();
            for (writer, acknowledged) in
                writers.iter_mut().filter(|(_, acknowledged)| acknowledged.is_none())
            {
                if let std::task::Poll::Ready(count) = writer.as_mut().poll(cx) {
                    *acknowledged = Some(count);
                }
            }
            let is_done = are_restarted && writers.iter().all(|(_, acknowledged)| acknowledged.is_some());
            if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        drop(restarts);
        println!(
            "6 restarts: {} writes, {} reconnects, longest wait {:?}, refusals {:?}",
            noticed.written.get(),
            noticed.reconnects.get(),
            noticed.longest.get(),
            noticed.refusals.borrow()
        );
        let untold = noticed.refusals.borrow().iter().find(|(code, _)| *code != 14).cloned();
        assert_eq!(untold, None, "only Unavailable may be told, which clients retry");
        assert!(noticed.longest.get() < LONGEST_WAIT, "a write waited {:?}", noticed.longest.get());
        let client = cluster.client(0).await;
        for (writer, (_, acknowledged)) in writers.iter().enumerate() {
            let key = format!("writer/{writer}");
            let request = pb::RangeRequest { key: key.into(), ..Default::default() };
            let found = client.range(&request).await.unwrap();
            let value: u64 = std::str::from_utf8(&found.kvs[0].value).unwrap().parse().unwrap();
            // The last one may have been written and not acknowledged.
            let acknowledged = acknowledged.unwrap();
            assert!((acknowledged..=acknowledged + 1).contains(&value), "{value} for {acknowledged}");
        }
    });
}

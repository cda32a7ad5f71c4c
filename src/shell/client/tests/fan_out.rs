//! What it costs to tell many watchers of one change. Prints figures; asserts that nothing is lost.

use super::watch::{Watch, of_key};
use super::*;

/// Clients read in `connections` threads; one writer, which waits for each put.
fn measure(connections: usize, streams: usize, watchers: usize, puts: usize) {
    let server = Server::start(quick());
    let events = connections * streams * watchers * puts;
    let (ready_out, ready) = mpsc::channel();
    let (cpu_ns, elapsed) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..connections)
            .map(|_| {
                let (server, ready_out) = (&server, ready_out.clone());
                scope.spawn(move || {
                    client(async {
                        let client = Client::connect(server).await;
                        let mut watches = Vec::new();
                        for _ in 0..streams {
                            let mut watch = Watch::open(&client).await;
                            for _ in 0..watchers {
                                watch.created(of_key("k")).await;
                            }
                            watches.push(watch);
                        }
                        ready_out.send(()).unwrap();
                        let reads = watches.into_iter().map(|mut watch| async move {
                            let mut seen = 0;
                            while seen < watchers * puts {
                                seen += watch.next().await.events.len();
                            }
                            assert_eq!(seen, watchers * puts);
                        });
                        futures_util::future::join_all(reads).await;
                    });
                })
            })
            .collect();
        (0..connections).for_each(|_| ready.recv_timeout(PATIENCE).unwrap());
        let before_ns = server.cpu_ns();
        #[expect(clippy::disallowed_types, reason = "a measurement")]
        let start = std::time::Instant::now();
        client(async {
            let client = Client::connect(&server).await;
            for _ in 0..puts {
                assert_eq!(client.call(PUT, put("k", &[b'v'; 100])).await.status().0, 0);
            }
        });
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        (server.cpu_ns() - before_ns, start.elapsed())
    });
    println!(
        "{connections} connections x {streams} streams x {watchers} watchers, {puts} puts: {:.0} events/s, \
         shard CPU {} ns/event",
        events as f64 / elapsed.as_secs_f64(),
        cpu_ns / events as u64,
    );
}

#[test]
fn fan_out_to_a_thousand_watchers_loses_nothing() {
    let puts = if cfg!(debug_assertions) { 20 } else { 1_000 };
    measure(2, 1, 500, puts);
    measure(2, 50, 10, puts);
    measure(10, 100, 1, puts);
}

//! What clients feel while every member is restarted in turn: calls that fail and are tried again on
//! another member, as client libraries do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::Cluster;
use pinion_kit::client::{CallError, Client};
use tokio::time::Instant;

/// Longer than a member lets a request wait.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Default)]
pub struct Felt {
    pub calls: u64,
    /// Calls by how often they were tried.
    pub attempts: BTreeMap<u32, u64>,
    pub errors: BTreeMap<String, u64>,
    pub slowest: Duration,
}

/// Restarts all members, one after the other, each when the one before serves again; `clients` put
/// all the while.
pub async fn restart(cluster: &mut Cluster, clients: usize) -> Felt {
    let felt = Rc::new(RefCell::new(Felt::default()));
    let is_over = Rc::new(Cell::new(false));
    let ports: Vec<u16> = (0..cluster.count()).map(|member| cluster.client_port(member)).collect();
    let start = |number| {
        let (felt, is_over, ports) = (Rc::clone(&felt), Rc::clone(&is_over), ports.clone());
        tokio::task::spawn_local(client(number, ports, felt, is_over))
    };
    let tasks: Vec<_> = (0..clients).map(start).collect();
    for member in 0..cluster.count() {
        cluster.terminate(member).await;
        cluster.spawn(member);
        cluster.wait_ready(member).await;
    }
    is_over.set(true);
    for task in tasks {
        task.await.expect("a client does not panic");
    }
    felt.take()
}

async fn client(number: usize, ports: Vec<u16>, felt: Rc<RefCell<Felt>>, is_over: Rc<Cell<bool>>) {
    let mut at = number;
    let mut connection: Option<Client> = None;
    let key = format!("client {number}");
    while !is_over.get() {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let call = async {
                if connection.is_none() {
                    connection = Some(Client::connect(ports[at % ports.len()]).await?);
                }
                connection.as_ref().expect("set above").put_kv(&key, "x").await
            };
            let answer = tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or(Err(CallError::Deadline));
            let Err(error) = answer else { break };
            // What a connection's end is called depends on where it was noticed.
            let what = match error {
                CallError::Transport(_) => "connection ended or refused".to_owned(),
                other => other.to_string(),
            };
            *felt.borrow_mut().errors.entry(what).or_default() += 1;
            connection = None;
            at += 1;
        }
        let mut felt = felt.borrow_mut();
        felt.calls += 1;
        *felt.attempts.entry(attempts).or_default() += 1;
        felt.slowest = felt.slowest.max(began.elapsed());
    }
}

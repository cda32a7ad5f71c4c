//! Real client libraries of Python against the binary: etcd3gw, tooz, and a WebSocket. `PINION_PYTHON` names an
//! interpreter that has them (`pip install etcd3gw tooz websocket-client`); skipped loudly where they are missing.

use pinion_kit::program::run_python;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

#[test]
fn clients_of_openstack_and_a_websocket_do_with_us_what_they_do_with_etcd() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        run_python(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/clients.py"), server.client_port(), &[])
            .await;
    });
}

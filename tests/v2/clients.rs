//! A real client of v2: python-etcd. `PINION_PYTHON` names an interpreter that has it (`pip install python-etcd`, with
//! the aliases of `collections` that Python has dropped put back); skipped loudly where it is missing.

use pinion_kit::program::run_python;
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on};

use crate::v2::member;

#[test]
fn python_etcd_does_with_us_what_it_does_with_etcd() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        run_python(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/v2/clients.py"), server.client_port(), &[])
            .await;
    });
}

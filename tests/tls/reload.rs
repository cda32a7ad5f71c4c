//! Certificates, keys, CAs and lists that change while a member serves.

use std::fs;

use pinion_kit::client::CallError;
use pinion_kit::tls::{self, Authority, Holder};
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, eventually};

use crate::programs::Secured;

async fn calls(port: u16, authority: &Authority, holder: &Holder) -> Result<(), CallError> {
    tls::connect(port, &authority.certificate, Some(holder)).await?.status().await.map(drop)
}

#[test]
fn new_files_are_used_by_new_connections_and_bad_ones_leave_the_old_in_use() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (old, new) = (Authority::new(&work, "old"), Authority::new(&work, "new"));
        let list = work.join("list.crl");
        fs::write(&list, old.revoke(&[])).unwrap();
        // The member's own copy of the pool.
        let pool = work.join("pool.pem");
        fs::copy(&old.certificate, &pool).unwrap();
        let shown = old.issue("shown");
        let [certificate, key] = shown.flags("cert-file", "key-file");
        let more = [
            certificate,
            key,
            format!("--trusted-ca-file={}", pool.display()),
            format!("--client-crl-file={}", list.display()),
        ];
        let member = Secured::start(&work, &old, &more).await;
        let port = member.port;
        let (of_old, of_new, revoked) = (old.issue("user"), new.issue("user"), old.issue("revoked"));
        let open = tls::connect(port, &old.certificate, Some(&of_old)).await.unwrap();
        calls(port, &old, &revoked).await.unwrap();
        calls(port, &old, &of_new).await.unwrap_err();
        // Somebody is revoked.
        tls::replace(&old.revoke(&[&revoked]), &list);
        eventually(async || match calls(port, &old, &revoked).await {
            Err(_) => Ok(()),
            Ok(()) => Err("still taken"),
        })
        .await;
        // A CA comes to the pool.
        let both = [&old, &new].map(|authority| fs::read(&authority.certificate).unwrap());
        tls::replace(&both.concat(), &pool);
        eventually(async || calls(port, &old, &of_new).await).await;
        calls(port, &old, &of_old).await.unwrap();
        // Garbage leaves everything as it is, and is told.
        tls::replace(b"garbage", &pool);
        member.server.says("changed files cannot be used; the old ones stay in use").await;
        calls(port, &old, &of_new).await.unwrap();
        tls::replace(&both[1], &pool);
        eventually(async || match calls(port, &old, &of_old).await {
            Err(_) => Ok(()),
            Ok(()) => Err("the CA that left is still believed"),
        })
        .await;
        // The member's own certificate, of another CA: its key comes a moment later than it.
        new.issue("server").replace(&shown);
        eventually(async || calls(port, &new, &of_new).await).await;
        // Whoever was connected all the time has noticed nothing.
        open.status().await.unwrap();
    });
}

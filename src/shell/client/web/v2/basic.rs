//! Who makes a request of the v2 API: a user of v3, shown by HTTP Basic.
//!
//! A password is compared by bcrypt once for each user, password and auth revision; what a shard remembers of it is a
//! keyed hash (HMAC of SHA-1, its key drawn by the shard and known to nobody else), which is found or not. A change of
//! users or roles is a new revision, at which everybody is compared anew.
//!
//! Bounds: `KNOWN_MAX` remembered; a comparison waits in the queue of `runtime::passwords` like any login.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use prost::Message as _;
use sha1::{Digest as _, Sha1};

use crate::auth;
use crate::pb::peer;
use crate::request::{Login, Query};
use crate::rpc::{Status, status};
use crate::shell::client::call::identity::own_read;
use crate::shell::client::{Backend, ClientShard};

/// Users and passwords that one shard remembers; when there are more, all are compared again.
const KNOWN_MAX: usize = 16_384;

/// Bytes of a block of SHA-1.
const BLOCK_BYTES: usize = 64;

type Mac = [u8; 20];

/// What a shard knows of users and passwords.
pub(in crate::shell::client) struct Basics {
    key: [u8; BLOCK_BYTES],
    known: RefCell<BTreeMap<Mac, Arc<Login>>>,
}

impl Default for Basics {
    fn default() -> Self {
        let mut key = [0; BLOCK_BYTES];
        getrandom::fill(&mut key).expect("the kernel has randomness");
        Self { key, known: RefCell::default() }
    }
}

impl Basics {
    /// HMAC, as RFC 2104 has it, of a user with a password at an auth revision.
    fn mac(&self, user: &str, password: &str, revision: u64) -> Mac {
        let padded = |pad: u8| self.key.map(|byte| byte ^ pad);
        let inner = Sha1::new()
            .chain_update(padded(0x36))
            .chain_update(revision.to_le_bytes())
            .chain_update((user.len() as u64).to_le_bytes())
            .chain_update(user)
            .chain_update(password)
            .finalize();
        Sha1::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
    }

    fn recall(&self, mac: &Mac) -> Option<Arc<Login>> {
        self.known.borrow().get(mac).map(Arc::clone)
    }

    fn remember(&self, mac: Mac, login: &Arc<Login>) {
        let mut known = self.known.borrow_mut();
        if KNOWN_MAX <= known.len() {
            known.clear();
        }
        known.insert(mac, Arc::clone(login));
    }
}

impl<B: Backend> ClientShard<B> {
    /// Who makes a request: `None` where nobody is asked, and in it none where no credentials are shown.
    ///
    /// # Errors
    /// The credentials are not good, or the member cannot tell.
    pub(super) async fn basic_login(
        self: &Rc<Self>,
        address: Option<IpAddr>,
        authorization: Option<&[u8]>,
    ) -> Result<Option<Option<Arc<Login>>>, Status> {
        let Some(revision) = self.identities.revision() else { return Ok(None) };
        let Some(header) = authorization else { return Ok(Some(None)) };
        let (user, password) = auth::basic(header).ok_or(status::AUTH_FAILED)?;
        let known = self.basics.recall(&self.basics.mac(&user, &password, revision));
        if let Some(login) = known {
            return Ok(Some(Some(login)));
        }
        let record = match self.ask(own_read(true, Query::PasswordOf(user.clone()))).await {
            Ok((_, response)) => {
                let record = peer::PasswordRecord::decode(&response.body[..]);
                Some(record.expect("the store's answer decodes"))
            }
            Err(status) if status == status::AUTH_FAILED => None,
            Err(status) => return Err(status),
        };
        // An unknown user takes as long.
        let hash = record.as_ref().and_then(|record| String::from_utf8(record.hash.to_vec()).ok());
        let fits = self.config.passwords.fits((address, user.clone()), password.clone(), hash).await?;
        let Some(record) = record.filter(|_| fits) else { return Err(status::AUTH_FAILED) };
        let login = Arc::new(Login { name: user.clone().into(), revision: record.revision });
        self.basics.remember(self.basics.mac(&user, &password, record.revision), &login);
        Ok(Some(Some(login)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_of_this_shard_user_password_and_revision_alone() {
        let (basics, other) = (Basics::default(), Basics::default());
        let mac = basics.mac("ab", "c", 7);
        assert_eq!(mac, basics.mac("ab", "c", 7));
        for different in [
            basics.mac("a", "bc", 7),
            basics.mac("ab", "d", 7),
            basics.mac("ab", "c", 8),
            other.mac("ab", "c", 7),
        ] {
            assert_ne!(mac, different);
        }
        let login = Arc::new(Login { name: "ab".into(), revision: 7 });
        basics.remember(mac, &login);
        assert_eq!(basics.recall(&mac), Some(login));
    }
}

//! The response header of etcd (`ResponseHeader`, field 1 of nearly every message), which the shard puts in
//! front of the body that the store wrote.

use std::cell::RefCell;

use crate::types::proto::{
    INT_FIELD_LEN_MAX, int_field_len, put_int_field, put_message_head, put_uint_field, uint_field_len,
};
use crate::types::{ClusterId, MemberId, Term};

/// The header's field in every answer.
const HEADER: u8 = 1;
/// Fields of `ResponseHeader`.
const CLUSTER_ID: u8 = 1;
const MEMBER_ID: u8 = 2;
const REVISION: u8 = 3;
const TERM: u8 = 4;
/// The largest header, with its tag and length.
pub(in crate::shell::client) const HEADER_BYTES_MAX: usize = 2 + 4 * INT_FIELD_LEN_MAX;

/// Encodes response headers of one member.
pub(in crate::shell::client) struct Headers {
    /// `cluster_id` and `member_id`, encoded.
    identity: RefCell<Vec<u8>>,
}

fn identity(cluster: ClusterId, member: MemberId) -> Vec<u8> {
    let mut identity = Vec::new();
    put_uint_field(&mut identity, CLUSTER_ID, cluster.0);
    put_uint_field(&mut identity, MEMBER_ID, member.0);
    identity
}

impl Headers {
    pub(in crate::shell::client) fn new(cluster: ClusterId, member: MemberId) -> Self {
        Self { identity: RefCell::new(identity(cluster, member)) }
    }

    /// Answers are another's from now on: a proxy's are those of whoever answers it.
    pub(in crate::shell::client) fn be(&self, cluster: ClusterId, member: MemberId) {
        self.identity.replace(identity(cluster, member));
    }

    /// Appends field 1 with the header; its revision is left out where it is 0.
    pub(in crate::shell::client) fn put(&self, out: &mut Vec<u8>, revision: i64, term: Term) {
        let identity = self.identity.borrow();
        let length = identity.len() + int_field_len(revision) + uint_field_len(term.0);
        put_message_head(out, HEADER, length);
        out.extend_from_slice(&identity);
        put_int_field(out, REVISION, revision);
        put_uint_field(out, TERM, term.0);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::etcdserverpb as pb;

    #[test]
    fn header_in_front_of_a_body_decodes_as_one_message_for_extreme_numbers() {
        let numbers = [0, 1, 127, 128, 1 << 14, (1 << 35) - 1, 1 << 35, 1 << 62, i64::MAX];
        for cluster in numbers {
            for revision in numbers {
                for term in numbers {
                    let headers = Headers::new(ClusterId(cluster.cast_unsigned()), MemberId(u64::MAX));
                    let mut bytes = Vec::new();
                    headers.put(&mut bytes, revision, Term(term.cast_unsigned()));
                    assert!(bytes.len() <= HEADER_BYTES_MAX);
                    let body = pb::DeleteRangeResponse { deleted: 7, ..Default::default() };
                    bytes.extend(body.encode_to_vec());
                    let whole = pb::DeleteRangeResponse::decode(&bytes[..]).unwrap();
                    let header = whole.header.unwrap();
                    assert_eq!(header.cluster_id, cluster.cast_unsigned());
                    assert_eq!(header.member_id, u64::MAX);
                    assert_eq!(header.revision, revision);
                    assert_eq!(header.raft_term, term.cast_unsigned());
                    assert_eq!(whole.deleted, 7);
                }
            }
        }
    }
}

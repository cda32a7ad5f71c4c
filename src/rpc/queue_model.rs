//! A store of a few keys and leases, just enough for `Lock`, `Election` and leases to be tried against.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::*;
use crate::pb::mvccpb;
use crate::request::{Outcome, Rejection};

/// Keys with their history. Revision 1 is empty.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) revision: i64,
    pub(crate) keys: BTreeMap<Bytes, KeyValue>,
    pub(crate) leases: BTreeMap<i64, i64>,
    /// Every change, oldest first.
    pub(crate) events: Vec<mvccpb::Event>,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new(), events: Vec::new() }
    }
}

impl Model {
    /// What the state machine would answer.
    pub(crate) fn carry_out(&mut self, command: &Command) -> Outcome {
        let body = match command {
            Command::Propose { kind, body, .. } => {
                let before = self.events.len();
                let body = self.propose(*kind, body.clone())?;
                self.revision += i64::from(before < self.events.len());
                body
            }
            Command::Read(Read { query: Query::Range(range), .. }) => self.range(range).encode_to_vec(),
            Command::Read(Read { query: Query::Txn(txn), .. }) => {
                self.txn(txn, self.revision)?.encode_to_vec()
            }
            Command::Read(Read { query: Query::LeaseKeepAlive(id), .. }) => {
                let ttl = self.leases.get(&id.0).copied().unwrap_or(0);
                pb::LeaseKeepAliveResponse { header: None, id: id.0, ttl }.encode_to_vec()
            }
            Command::Read(Read { query: Query::LeaseTimeToLive(request), .. }) => {
                let ttl = self.leases.get(&request.id).copied();
                let mut response = pb::LeaseTimeToLiveResponse {
                    id: request.id,
                    ttl: ttl.unwrap_or(-1),
                    granted_ttl: ttl.unwrap_or(0),
                    ..Default::default()
                };
                if request.keys {
                    let attached = self.keys.values().filter(|kv| kv.lease == request.id && kv.lease != 0);
                    response.keys = attached.map(|kv| kv.key.clone()).collect();
                }
                response.encode_to_vec()
            }
            Command::Read(Read { query: Query::LeaseLeases, .. }) => {
                let leases = self.leases.keys().map(|&id| pb::LeaseStatus { id }).collect();
                pb::LeaseLeasesResponse { leases, ..Default::default() }.encode_to_vec()
            }
            other => panic!("not in the model: {other:?}"),
        };
        Ok(Response { revision: self.revision, body, resume: None })
    }

    fn propose(&mut self, kind: RequestKind, body: Bytes) -> Result<Vec<u8>, Rejection> {
        let revision = self.revision + 1;
        Ok(match kind {
            RequestKind::Txn => {
                let txn = pb::TxnRequest::decode(body).unwrap();
                self.txn(&txn, revision)?.encode_to_vec()
            }
            RequestKind::DeleteRange => {
                let delete = pb::DeleteRangeRequest::decode(body).unwrap();
                self.delete(&delete.key, revision);
                Vec::new()
            }
            RequestKind::LeaseGrant => {
                let grant = pb::LeaseGrantRequest::decode(body).unwrap();
                self.leases.insert(grant.id, grant.ttl);
                let (id, ttl) = (grant.id, grant.ttl);
                pb::LeaseGrantResponse { id, ttl, ..Default::default() }.encode_to_vec()
            }
            RequestKind::LeaseRevoke => {
                let id = pb::LeaseRevokeRequest::decode(body).unwrap().id;
                self.revoke(id, revision)?;
                Vec::new()
            }
            other => panic!("not in the model: {other:?}"),
        })
    }

    fn revoke(&mut self, id: i64, revision: i64) -> Result<(), Rejection> {
        self.leases.remove(&id).ok_or(Rejection::LeaseNotFound(LeaseId(id)))?;
        let attached = |kv: &&KeyValue| kv.lease == id;
        let keys: BTreeSet<Bytes> = self.keys.values().filter(attached).map(|kv| kv.key.clone()).collect();
        keys.iter().for_each(|key| self.delete(key, revision));
        Ok(())
    }

    fn delete(&mut self, key: &Bytes, revision: i64) {
        if self.keys.remove(key).is_some() {
            let kv = KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() };
            let kind = mvccpb::event::EventType::Delete;
            self.events.push(mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: None });
        }
    }

    fn put(&mut self, put: &pb::PutRequest, revision: i64) -> Result<(), Rejection> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Rejection::LeaseNotFound(LeaseId(put.lease)));
        }
        let old = self.keys.get(&put.key);
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |old| old.version + 1),
            value: put.value.clone(),
            lease: put.lease,
        };
        self.keys.insert(put.key.clone(), kv.clone());
        self.events.push(mvccpb::Event { kv: Some(kv), ..Default::default() });
        Ok(())
    }

    fn txn(&mut self, txn: &pb::TxnRequest, revision: i64) -> Result<pb::TxnResponse, Rejection> {
        let holds = |compare: &pb::Compare| {
            let created = self.keys.get(&compare.key).map_or(0, |kv| kv.create_revision);
            assert_eq!(compare.result, i32::from(CompareResult::Equal));
            compare.target_union == Some(TargetUnion::CreateRevision(created))
        };
        let succeeded = txn.compare.iter().all(holds);
        let mut responses = Vec::new();
        for operation in if succeeded { &txn.success } else { &txn.failure } {
            let done = match operation.request.as_ref().unwrap() {
                Op::RequestPut(request) => {
                    self.put(request, revision)?;
                    Done::ResponsePut(pb::PutResponse::default())
                }
                Op::RequestRange(request) => Done::ResponseRange(self.range(request)),
                Op::RequestDeleteRange(request) => {
                    self.delete(&request.key, revision);
                    Done::ResponseDeleteRange(pb::DeleteRangeResponse::default())
                }
                Op::RequestTxn(_) => panic!("not in the model"),
            };
            responses.push(pb::ResponseOp { response: Some(done) });
        }
        Ok(pb::TxnResponse { succeeded, responses, ..Default::default() })
    }

    fn range(&self, range: &pb::RangeRequest) -> pb::RangeResponse {
        let is_meant = |kv: &&KeyValue| {
            let is_named = if range.range_end.is_empty() {
                kv.key == range.key
            } else {
                range.key <= kv.key && kv.key < range.range_end
            };
            let newest = range.max_create_revision;
            is_named && (newest == 0 || kv.create_revision <= newest)
        };
        let mut kvs: Vec<KeyValue> = self.keys.values().filter(is_meant).cloned().collect();
        let count = kvs.len().try_into().unwrap();
        if range.sort_order != 0 {
            assert_eq!(range.sort_target(), SortTarget::Create);
            kvs.sort_by_key(|kv| kv.create_revision);
        }
        if range.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
        if range.limit != 0 {
            kvs.truncate(range.limit.try_into().unwrap());
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        pb::RangeResponse { count, kvs, ..Default::default() }
    }
}

//! A write of a node as the log has it, read and checked.

use crate::directory::deadlines::NODE_TTL_MAX_S;
use crate::mvcc::Expiry;
use crate::pb::peer;
use crate::request::{NodeMethod, Rejection};
use crate::types::NodePath;

/// A write of a node that decodes.
pub(super) struct NodeWrite<'r> {
    pub(super) method: NodeMethod,
    pub(super) path: NodePath,
    pub(super) request: &'r peer::NodeWrite,
    pub(super) expiry: Option<Expiry>,
}

impl<'r> NodeWrite<'r> {
    pub(super) fn read(request: &'r peer::NodeWrite) -> Result<Self, Rejection> {
        let method = NodeMethod::from_number(request.method).ok_or_else(|| {
            Rejection::Undecodable(format!("a write of a node by method {}", request.method))
        })?;
        let path = usize::try_from(request.root_bytes)
            .ok()
            .and_then(|root_bytes| NodePath::of_parts(request.key.clone(), root_bytes))
            .ok_or_else(|| Rejection::Undecodable("a write of a node without a path".into()))?;
        let expiry = request
            .expiry
            .as_ref()
            .map(|expiry| Expiry { at_ns: expiry.at_ns, ttl_s: expiry.ttl_s.min(NODE_TTL_MAX_S) });
        Ok(Self { method, path, request, expiry })
    }

    /// Whether something of the node is read besides being written: its value, or whether it is there.
    pub(super) fn reads(&self) -> bool {
        let is_conditional = !matches!(self.method, NodeMethod::Set | NodeMethod::CreateInOrder);
        !self.request.shows_nothing || is_conditional || self.request.refresh
    }

    /// Whether the node's name is not known before it is made.
    pub(super) fn makes_name(&self) -> bool {
        self.method == NodeMethod::CreateInOrder
    }

    /// Whether it is about what is below the node, too.
    pub(super) fn is_wide(&self) -> bool {
        self.request.recursive || self.request.is_directory
    }
}

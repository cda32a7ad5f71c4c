//! `/v2/members` and `/v2/machines`: the members of v3's cluster, in the words of v2.
//!
//! A list is this member's, and may be stale. Changes are those of `MemberAdd`, `MemberRemove` and `MemberUpdate`, with
//! their checks; while rights are asked for they need the right to run the cluster.

use std::rc::Rc;

use bytes::Bytes;
use prost::Message as _;

use super::{CLUSTER_ID, Request, crowded, refuse};
use crate::config::Url;
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{Command, Permit, Query};
use crate::rpc::json::put_text;
use crate::rpc::web::{AnswerHead, JSON};
use crate::rpc::{Code, Method, Status, convert, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::identity::{guarded, own_read};
use crate::shell::client::web::gateway::{messages_of, read_message};
use crate::shell::client::web::sink::Sink;
use crate::shell::client::{Backend, ClientShard};
use crate::types::MemberId;

const METHODS: &str = "GET,POST,DELETE,PUT";

/// Why a request fails: the HTTP status, and what is said.
struct No(u16, String);

impl No {
    fn of(status: &Status) -> Self {
        let http = match status.code {
            _ if *status == status::MEMBER_EXISTS => return Self(409, "membership: ID exists".into()),
            _ if *status == status::PEER_URL_EXISTS => return Self(409, "membership: peerURL exists".into()),
            _ if *status == status::USER_EMPTY => 401,
            Code::InvalidArgument => 400,
            Code::Unauthenticated | Code::PermissionDenied => 401,
            _ => 500,
        };
        Self(http, status.message.clone().into_owned())
    }

    /// For what etcd's handler has no words.
    fn internal() -> Self {
        Self(500, "Internal Server Error".into())
    }
}

/// What is asked.
enum Ask {
    List,
    Leader,
    Add,
    Remove(String),
    Update(String),
}

impl Ask {
    /// None: no such path.
    fn of(method: &str, rest: &str) -> Option<Self> {
        let id = rest.strip_prefix('/').unwrap_or(rest);
        Some(match (method, id) {
            ("GET", "") => Self::List,
            ("GET", "leader") => Self::Leader,
            ("POST", "") => Self::Add,
            ("DELETE", id) if !id.is_empty() => Self::Remove(id.to_owned()),
            ("PUT", id) if !id.is_empty() => Self::Update(id.to_owned()),
            _ => return None,
        })
    }
}

fn id_of(text: &str) -> Result<MemberId, No> {
    u64::from_str_radix(text, 16).map(MemberId).map_err(|_| no_such(text))
}

fn no_such(id: &str) -> No {
    No(404, format!("No such member: {id}"))
}

fn put_urls(name: &str, urls: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
    for (number, url) in urls.iter().enumerate() {
        if 0 < number {
            out.push(b',');
        }
        put_text(url, out);
    }
    out.push(b']');
}

fn put_member(member: &pb::Member, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"id\":\"{:x}\",\"name\":", member.id).as_bytes());
    put_text(&member.name, out);
    put_urls("peerURLs", &member.peer_ur_ls, out);
    put_urls("clientURLs", &member.client_ur_ls, out);
    out.push(b'}');
}

impl<B: Backend> ClientShard<B> {
    /// The members as this one knows them.
    pub(super) async fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let (_, response) = self.ask(own_read(false, Query::MemberList)).await?;
        let list = pb::MemberListResponse::decode(&response.body[..]).expect("the store's own message");
        Ok(list.members)
    }

    /// Whether `id` was a member once.
    async fn is_removed(&self, id: MemberId) -> Result<bool, Status> {
        let (_, response) = self.ask(own_read(false, Query::Membership)).await?;
        let membership = peer::Membership::decode(&response.body[..]).expect("the store's own message");
        Ok(membership.removed.contains(&id.0))
    }

    /// Answers with all client URLs.
    pub(super) fn spawn_machines(self: &Rc<Self>, account: &Rc<Account>, sink: Sink) {
        let Some(place) = self.node_place(0) else { return refuse(account, sink, &crowded()) };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let _place = place;
            match shard.members().await {
                Ok(members) => {
                    let urls: Vec<_> = members.into_iter().flat_map(|member| member.client_ur_ls).collect();
                    let head = AnswerHead::new(200, "text/plain; charset=utf-8");
                    sink.answer_bytes(&account, head, urls.join(", ").as_bytes());
                }
                Err(status) => shard.answer_no(&account, sink, &No::of(&status)),
            }
        })
        .detach();
    }

    /// A request about members; `rest` of its path is behind `/v2/members`.
    pub(super) fn on_members(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: Request,
        rest: &str,
        body: &[u8],
        sink: Sink,
    ) {
        if !METHODS.split(',').any(|known| known == request.method) {
            let head = AnswerHead::of_text(405).with("Allow", METHODS);
            return sink.answer_bytes(account, head, b"Method Not Allowed\n");
        }
        let Some(ask) = Ask::of(&request.method, rest) else {
            return match request.method.as_str() {
                "GET" => self.answer_no(account, sink, &No(404, "Not found".into())),
                _ => self.answer_no(account, sink, &No(405, "Method Not Allowed".into())),
            };
        };
        let Some(place) = self.node_place(request.bytes() + body.len()) else {
            return refuse(account, sink, &crowded());
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        let body = Bytes::copy_from_slice(body);
        glommio::spawn_local(async move {
            let _place = place;
            match shard.carry_out(&account, &request, ask, &body).await {
                Ok((status, text)) => {
                    let content_type = if text.is_empty() { "" } else { JSON };
                    let head = AnswerHead::new(status, content_type).with(CLUSTER_ID, shard.cluster_id());
                    sink.answer_bytes(&account, head, &text);
                }
                Err(no) => shard.answer_no(&account, sink, &no),
            }
        })
        .detach();
    }

    fn answer_no(&self, account: &Rc<Account>, sink: Sink, No(status, why): &No) {
        let head = AnswerHead::new(*status, JSON).with(CLUSTER_ID, self.cluster_id());
        sink.answer(account, head, |out| {
            out.extend_from_slice(b"{\"message\":");
            put_text(why, out);
            out.push(b'}');
        });
    }

    /// The URLs of a body, as the gateway reads them.
    fn peer_urls(&self, request: &Request, body: &[u8]) -> Result<Vec<String>, No> {
        let content_type = request.content_type.as_deref().unwrap_or_default();
        let named = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        if !named.eq_ignore_ascii_case(JSON.as_bytes()) {
            let shown = String::from_utf8_lossy(content_type);
            return Err(No(415, format!("Bad Content-Type {shown}, accept application/json")));
        }
        let message = read_message(messages_of(Method::MemberAdd).request, body, self.receive_bytes_max);
        let message = message.map_err(|status| No(400, status.message.into_owned()))?;
        let request = pb::MemberAddRequest::decode(message).expect("the gateway's own message");
        // `MemberUpdate` takes any text; v2 takes only what can be dialed.
        if request.peer_ur_ls.is_empty() {
            return Err(No(400, "no valid URLs given".into()));
        }
        match request.peer_ur_ls.iter().find_map(|url| Url::parse(url).err()) {
            None => Ok(request.peer_ur_ls),
            Some(error) => Err(No(400, error.to_string())),
        }
    }

    async fn carry_out(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: &Request,
        ask: Ask,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), No> {
        let mut out = Vec::new();
        let (method, message, id) = match ask {
            Ask::List => {
                let members = self.members().await.map_err(|status| No::of(&status))?;
                out.extend_from_slice(b"{\"members\":[");
                for (number, member) in members.iter().enumerate() {
                    if 0 < number {
                        out.push(b',');
                    }
                    put_member(member, &mut out);
                }
                out.extend_from_slice(b"]}\n");
                return Ok((200, out));
            }
            Ask::Leader => {
                let members = self.members().await.map_err(|status| No::of(&status))?;
                let leader = self.leadership.leader().map(|(leader, _)| leader.0);
                let leader = members.iter().find(|member| Some(member.id) == leader);
                put_member(leader.ok_or_else(|| No(503, "During election".into()))?, &mut out);
                out.push(b'\n');
                return Ok((200, out));
            }
            Ask::Add => {
                let peer_ur_ls = self.peer_urls(request, body)?;
                let add = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
                (Method::MemberAdd, add.encode_to_vec(), String::new())
            }
            Ask::Remove(text) => {
                let remove = pb::MemberRemoveRequest { id: id_of(&text)?.0 };
                (Method::MemberRemove, remove.encode_to_vec(), text)
            }
            Ask::Update(text) => {
                let id = id_of(&text)?.0;
                let peer_ur_ls = self.peer_urls(request, body)?;
                let update = pb::MemberUpdateRequest { id, peer_ur_ls };
                (Method::MemberUpdate, update.encode_to_vec(), text)
            }
        };
        let no = |status: Status| match status == status::MEMBER_NOT_FOUND {
            true => no_such(&id),
            false => No::of(&status),
        };
        let before = match method {
            Method::MemberAdd => self.members().await.map_err(no)?,
            _ => Vec::new(),
        };
        let command = convert::command(method, message.into(), &self.limits, || 0).map_err(no)?;
        let login = self.basic_login(account.address, request.authorization.as_deref()).await.map_err(no)?;
        let command = match login {
            None => command,
            Some(login) if matches!(command, Command::Member(_)) => {
                self.permit(login, Permit::Admin).await.map_err(no)?;
                command
            }
            Some(login) => guarded(command, login),
        };
        match self.ask(command).await {
            Ok(_) => {}
            Err(status) if status == status::MEMBER_NOT_FOUND => {
                let is_removed = self.is_removed(id_of(&id)?).await.map_err(no)?;
                return Err(match method {
                    _ if !is_removed => no_such(&id),
                    Method::MemberRemove => No(410, format!("Member permanently removed: {id}")),
                    // As etcd, which tells nobody why an update of such a member fails.
                    _ => No::internal(),
                });
            }
            Err(status) => return Err(no(status)),
        }
        if method != Method::MemberAdd {
            return Ok((204, Vec::new()));
        }
        // Whoever is there now and was not.
        let members = self.members().await.map_err(no)?;
        let added = members.iter().find(|member| before.iter().all(|known| known.id != member.id));
        put_member(added.ok_or_else(No::internal)?, &mut out);
        out.push(b'\n');
        Ok((201, out))
    }
}

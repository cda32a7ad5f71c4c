//! Users, roles and rights, with the real binary.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod against_etcd;
mod by_certificate;
mod clients;
mod cluster;
mod etcdctl;
mod floods;
mod health;
mod jwt;
mod manage;
mod names;
mod secrets;
mod table;
mod watching;

//! Requests of the v2 API.

use std::fmt::Write as _;

use pinion_kit::{Launch, Server, WorkDir};
use serde_json::Value;

use crate::web::{Answer, Web};

/// A member that serves v2, alone.
pub async fn member(work: &WorkDir) -> Server {
    Launch::new(work.join("data")).flag("--enable-v2").start().await
}

/// Escapes a text for a form.
pub fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        write!(out, "%{byte:02X}").unwrap();
        out
    })
}

/// A request as it is sent.
pub fn request(method: &str, path: &str, headers: &str, form: &str) -> String {
    let length = form.len();
    format!(
        "{method} /v2{path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{form}"
    )
}

/// A request with a body of JSON.
pub fn json_request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} /v2{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// One answer to one request.
pub async fn ask(web: &mut Web, method: &str, path: &str, form: &str) -> Answer {
    web.send(request(method, path, "", form)).await;
    web.answer().await.expect("an answer")
}

/// The answer to a request that goes well.
pub async fn well(web: &mut Web, method: &str, path: &str, form: &str) -> Value {
    let answer = ask(web, method, path, form).await;
    assert!(answer.status < 300, "{method} {path} {form}: {} {}", answer.status, answer.text());
    answer.json()
}

/// The error code of one that does not.
pub async fn fault(web: &mut Web, method: &str, path: &str, form: &str) -> i64 {
    let answer = ask(web, method, path, form).await;
    assert!(400 <= answer.status, "{method} {path} {form}: {} {}", answer.status, answer.text());
    answer.json()["errorCode"].as_i64().unwrap()
}

/// The paths below a node, in order.
pub fn paths(node: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for child in node["nodes"].as_array().into_iter().flatten() {
        found.push(child["key"].as_str().unwrap().to_owned());
        found.extend(paths(child));
    }
    found
}

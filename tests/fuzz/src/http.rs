//! HTTP/1 and the gateway's JSON against second readings of the same rules.
//!
//! Claims, for any bytes: a head is the same whatever follows it, and partial when its last byte is missing; whoever is
//! sent to another path is sent to one of this server, by a header's characters, and not on and on; a body
//! and a stream of requests come out the same however they are cut; a text that is read as a message is written
//! again as a text that reads as the same bytes, wherever the message is cut. Nothing panics, and memory follows the
//! bytes that came.

use arbitrary::Unstructured;
use pinion::rpc::http1::{Decoder, Length, Parsed, parse};
use pinion::rpc::json::{self, Call, Splitter, Writer};
use pinion::rpc::method;
use pinion::rpc::web::{Ask, Route, Rules, route};

use crate::{below, memory};

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => head(rest),
        1 => body(rest),
        2 => text(rest),
        _ => stream(rest),
    }
}

fn head(bytes: &[u8]) {
    let told = |bytes: &[u8]| match parse(bytes, &mut Vec::new()) {
        Ok(Parsed::Partial) => Ok(None),
        Ok(Parsed::Whole(head, length)) => {
            moved(&head.ask);
            Ok(Some((format!("{head:?}"), length)))
        }
        Err(malformed) => {
            assert!((400..600).contains(&malformed.status()));
            Err(malformed)
        }
    };
    let Ok(Some((head, length))) = told(bytes) else { return };
    assert!(length <= bytes.len());
    assert_eq!(told(&bytes[..length]), Ok(Some((head, length))), "what follows is not looked at");
    assert_eq!(told(&bytes[..length - 1]), Ok(None), "the last byte is needed");
}

/// Where else a request is sent.
fn moved(ask: &Ask<'_>) {
    let rules = Rules::default();
    let Route::Moved(location) = route(ask, &rules) else { return };
    assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location:?}");
    assert!(location.starts_with('/') && !location.starts_with("//"), "{location}");
    let (path, query) = location.split_once('?').unwrap_or((&location, ""));
    let again = route(&Ask { path, query, ..*ask }, &rules);
    // The gateway's root is the one clean path that moves.
    assert!(!matches!(again, Route::Moved(_)) || path == "/v3", "{location} moves again: {again:?}");
}

fn body(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let length = match below(&mut input, 3) {
        0 => Length::Chunked,
        _ => Length::Exact(below(&mut input, 300) as u64),
    };
    let size = 1 + below(&mut input, 50);
    let bytes = input.take_rest();
    let decode = |size: usize| {
        let (mut decoder, mut data, mut left) = (Decoder::new(length), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(size) {
            decoder.decode(&mut piece, &mut |bytes| data.extend_from_slice(bytes))?;
            left.extend_from_slice(piece);
        }
        Ok::<_, pinion::rpc::http1::BodyError>((data, left, decoder.is_over()))
    };
    let whole = decode(bytes.len().max(1));
    assert_eq!(decode(size), whole);
    if let Ok((data, left, _)) = whole {
        assert!(data.len() + left.len() <= bytes.len());
    }
}

fn text(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let table = method::table();
    let Some(call) = Call::of_path(table[below(&mut input, table.len())].path) else { return };
    let size = 1 + below(&mut input, 20);
    let text = input.take_rest();
    let mut bytes = Vec::new();
    let read = memory::bounded(64 * text.len() + 64 * 1024, || json::read(call.request, text, &mut bytes));
    if read.is_err() {
        return;
    }
    let mut written = Vec::new();
    let mut writer = Writer::begin(call.request, &mut written);
    for piece in bytes.chunks(size) {
        writer.put(piece, &mut written);
    }
    writer.end(&mut written);
    let mut again = Vec::new();
    json::read(call.request, &written, &mut again).expect("our own text is read");
    assert_eq!(again, bytes, "{}", written.escape_ascii());
}

fn stream(rest: &[u8]) {
    let mut input = Unstructured::new(rest);
    let max = [16, 64, 1_000][below(&mut input, 3)];
    let size = 1 + below(&mut input, 50);
    let bytes = input.take_rest();
    let cut = |size: usize| {
        let (mut splitter, mut found) = (Splitter::new(max), Vec::new());
        for piece in bytes.chunks(size) {
            let pushed = splitter.push(piece);
            found.extend(std::iter::from_fn(|| splitter.take()));
            if let Err(error) = pushed {
                return (found, Some(error));
            }
            assert!(splitter.len() <= max, "what is not whole is bounded");
        }
        let unfinished = splitter.finish().err();
        (found, unfinished)
    };
    // Where it is too large depends on the cut by at most one piece; the messages before it do not.
    let (whole, _) = cut(bytes.len().max(1));
    let (found, _) = cut(size);
    let shared = whole.len().min(found.len());
    assert_eq!(whole[..shared], found[..shared]);
    for message in found {
        assert!(message.len() <= max && message.starts_with(b"{"));
    }
}

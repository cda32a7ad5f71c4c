//! gzip-encoded messages, which etcd takes and answers in kind.
//!
//! A small message can inflate a thousandfold, so inflating stops one byte past the limit: the
//! buffer never holds more.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::rpc::{Code, Status};

/// Inflates a message of at most `max` bytes.
pub(in crate::shell::client) fn inflate(compressed: &[u8], max: u32) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    let taken = MultiGzDecoder::new(compressed).take(u64::from(max) + 1).read_to_end(&mut out);
    match taken {
        Ok(n) if n as u64 <= u64::from(max) => Ok(out),
        Ok(_) => Err(Status {
            code: Code::ResourceExhausted,
            message: format!("grpc: received message after decompression larger than max {max}").into(),
        }),
        Err(error) => Err(Status {
            code: Code::Internal,
            message: format!("grpc: failed to decompress the message: {error}").into(),
        }),
    }
}

/// Compresses an answer. The fastest level: the client asked by compressing, not by saying how.
pub(in crate::shell::client) fn deflate(parts: &[&[u8]]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for part in parts {
        encoder.write_all(part).expect("writing to a Vec does not fail");
    }
    encoder.finish().expect("writing to a Vec does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_survives_both_ways() {
        let compressed = deflate(&[b"hello ", b"world"]);
        assert_eq!(inflate(&compressed, 11).unwrap(), b"hello world");
    }

    #[test]
    fn bomb_stops_one_byte_past_the_limit() {
        let bomb = deflate(&[&vec![0; 64 << 20]]);
        assert!(bomb.len() < 1 << 20);
        let refused = inflate(&bomb, 1000).unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
    }

    #[test]
    fn garbage_and_a_cut_stream_are_refused() {
        assert_eq!(inflate(b"not gzip", 1000).unwrap_err().code, Code::Internal);
        let whole = deflate(&[b"hello"]);
        for cut in 1..whole.len() {
            assert!(inflate(&whole[..cut], 1000).is_err(), "cut at {cut}");
        }
    }
}

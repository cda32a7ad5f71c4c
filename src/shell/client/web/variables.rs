//! `/debug/vars`: facts about the process, under the names of Go's `expvar`.
//!
//! Of `memstats` there is what has a meaning without a garbage collector: `Sys`, what the process has of the
//! machine's memory, and `HeapSys`, what it could have.

use crate::rpc::json::put_text;

/// Appends the object.
pub(super) fn put(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"cmdline\":[");
    for (number, word) in std::env::args_os().enumerate() {
        if 0 < number {
            out.push(b',');
        }
        put_text(&word.to_string_lossy(), out);
    }
    out.extend_from_slice(b"],\"memstats\":{");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    if let (Some(resident), Some(size)) = (kibibytes("VmRSS:"), kibibytes("VmSize:")) {
        let facts = format!("\"Sys\":{},\"HeapSys\":{}", resident << 10, size << 10);
        out.extend_from_slice(facts.as_bytes());
    }
    out.extend_from_slice(b"},\"file_descriptor_limit\":");
    out.extend_from_slice(descriptors_max().to_string().as_bytes());
    out.extend_from_slice(b"}\n");
}

/// The soft limit, of which the process of etcd speaks too.
fn descriptors_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let numbers = line.map(|line| line.split_ascii_whitespace().filter_map(|word| word.parse().ok()));
    numbers.and_then(|mut numbers| numbers.next()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_json_and_tell_of_this_process() {
        let mut out = Vec::new();
        put(&mut out);
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(!found["cmdline"].as_array().unwrap().is_empty());
        assert!(1 << 20 < found["memstats"]["Sys"].as_u64().unwrap());
        assert!(0 < found["file_descriptor_limit"].as_u64().unwrap());
    }
}

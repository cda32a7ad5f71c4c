//! ADDRESSES: where the names of members led when they were last looked up, for a start while no name can be.
//!
//! ```text
//! pinion addresses, format 1
//! name <host:port> <address> <address> ...
//! crc32 <of all above>
//! ```
//!
//! It is a hint and nothing else: a file that is damaged, or of another version, is said and left out, and who
//! answers at an address has to prove that it is the member. It is written whenever a look-up tells something new.

use std::fs;
use std::io;

use super::data_dir::{DataDir, DataDirError, checked_lines, replace, value, with_crc};
use crate::shell::net::KnownAddresses;

const NAME: &str = "ADDRESSES";
const TITLE: &str = "pinion addresses, format 1";

/// A larger file is not ours.
const BYTES_MAX: u64 = 4 << 20;

impl DataDir {
    /// The addresses that were kept; none where there is no file that can be read.
    pub(in crate::shell) fn addresses(&self) -> KnownAddresses {
        let path = self.root().join(NAME);
        let read = fs::metadata(&path).and_then(|found| {
            if BYTES_MAX < found.len() { Err(io::Error::other("it is too large")) } else { fs::read(&path) }
        });
        let problem = match read {
            Ok(bytes) => match parse(&bytes) {
                Ok(addresses) => return addresses,
                Err((_, problem)) => problem.to_owned(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return KnownAddresses::new(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %path.display(), problem, "the last good addresses of names are not known; names are looked up anew");
        KnownAddresses::new()
    }

    /// A writer of ADDRESSES for any thread, to be called by one at a time.
    pub(in crate::shell) fn addresses_writer(
        &self,
    ) -> impl Fn(&KnownAddresses) -> Result<(), DataDirError> + use<> {
        let root = self.root().to_owned();
        move |addresses| replace(&root, NAME, &format(addresses))
    }
}

fn format(addresses: &KnownAddresses) -> String {
    let mut text = format!("{TITLE}\n");
    for (name, addresses) in addresses {
        // A name that would not be read back is left out.
        if name.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
            continue;
        }
        text += &format!("name {name}");
        for address in addresses {
            text += &format!(" {address}");
        }
        text.push('\n');
    }
    with_crc(text)
}

fn parse(bytes: &[u8]) -> Result<KnownAddresses, (usize, &'static str)> {
    let mut lines = checked_lines(bytes, TITLE)?;
    let mut addresses = KnownAddresses::new();
    while lines.clone().next().is_some() {
        let mut words = value(&mut lines, "name")?.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let parsed: Result<Vec<_>, _> = words.map(str::parse).collect();
        addresses.insert(name, parsed.map_err(|_error| (0, "not an address"))?);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_back_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), None).unwrap();
        assert!(data.addresses().is_empty());
        let own = |text: &str| text.split(' ').map(|address| address.parse().unwrap()).collect();
        let mut kept = KnownAddresses::new();
        kept.insert("a.example:2380".to_owned(), own("10.0.0.1:2380 [fd00::1]:2380"));
        kept.insert("b.example:2380".to_owned(), own("[fe80::1%3]:2380"));
        data.addresses_writer()(&kept).unwrap();
        assert_eq!(data.addresses(), kept);
        let path = dir.path().join("data").join(NAME);
        let text = fs::read(&path).unwrap();
        for position in 0..text.len() {
            let mut damaged = text.clone();
            damaged[position] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(data.addresses().is_empty(), "byte {position}");
        }
        kept.insert("two words:1".to_owned(), own("10.0.0.1:1"));
        data.addresses_writer()(&kept).unwrap();
        assert_eq!(data.addresses().len(), 2, "a name that is none is not written");
    }
}

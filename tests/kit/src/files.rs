//! Data directories seen from outside.

use std::fs;
use std::path::Path;

/// A directory's copy, with the permissions of the original.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Segments of a member's log: the oldest, and the one that is prepared behind the open one.
pub fn segments(data_dir: &Path) -> (u32, u32) {
    let names = fs::read_dir(data_dir.join("wal")).unwrap();
    let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let numbers: Vec<u32> =
        names.filter_map(|name| u32::from_str_radix(name.strip_suffix(".wal")?, 16).ok()).collect();
    (*numbers.iter().min().unwrap(), *numbers.iter().max().unwrap())
}

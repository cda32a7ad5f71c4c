//! What a power cut may do here and what it may not: were an image impossible, its check would blame
//! the server for nothing; were a possible one never made, the check would see nothing.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::disk::{Bytes, Content, Data, Disk, Fate, NameFate, Node, Op, ROOT};

fn empty() -> Disk {
    Disk::new(&Node::Dir(Default::default()))
}

fn create(disk: &mut Disk, name: &str) -> u64 {
    let ino = disk.next_ino();
    disk.apply(&Op::Create { dir: ROOT, name: name.to_owned(), ino, is_dir: false });
    ino
}

fn write(disk: &mut Disk, ino: u64, offset: u64, bytes: &[u8]) {
    disk.apply(&Op::Write { ino, offset, data: Data::new(bytes) });
}

/// All different roots that many cuts leave.
fn images(disk: &Disk, fate: Fate) -> Vec<Node> {
    let mut images = Vec::new();
    for seed in 0..300 {
        let image = disk.after_cut(fate, &mut StdRng::seed_from_u64(seed));
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images
}

fn file<'a>(image: &'a Node, name: &str) -> Option<&'a Content> {
    let Node::Dir(nodes) = image else { panic!("the root is a directory") };
    match nodes.get(name) {
        Some(Node::File(content)) => Some(content),
        _ => None,
    }
}

const TORN: Fate = Fate { bytes: Bytes::EachSector(0.5), names: NameFate::Everything };

#[test]
fn synced_bytes_are_in_every_image_and_later_sectors_come_and_go_alone() {
    let mut disk = empty();
    let ino = create(&mut disk, "a");
    write(&mut disk, ino, 0, &[1; 1024]);
    disk.apply(&Op::SyncFile { ino, range: None });
    write(&mut disk, ino, 512, &[2; 1024]);
    let images = images(&disk, TORN);
    let mut found: Vec<Vec<u8>> = images
        .iter()
        .map(|image| {
            let bytes = file(image, "a").unwrap().read(0, 4096);
            assert_eq!(bytes[..512], [1; 512]);
            bytes[512..].chunks(512).map(|sector| sector[0]).collect()
        })
        .collect();
    found.sort();
    assert_eq!(found, [vec![1], vec![1, 0], vec![1, 2], vec![2], vec![2, 0], vec![2, 2]]);
}

#[test]
fn a_sector_written_twice_may_be_left_in_either_version() {
    let mut disk = empty();
    let ino = create(&mut disk, "a");
    write(&mut disk, ino, 0, &[1; 512]);
    disk.apply(&Op::SyncFile { ino, range: None });
    write(&mut disk, ino, 0, &[2; 100]);
    write(&mut disk, ino, 200, &[3; 100]);
    let mut found: Vec<(u8, u8)> = images(&disk, TORN)
        .iter()
        .map(|image| {
            let bytes = file(image, "a").unwrap().read(0, 512);
            (bytes[0], bytes[200])
        })
        .collect();
    found.sort();
    assert_eq!(found, [(1, 1), (2, 1), (2, 3)]);
}

#[test]
fn a_range_sync_covers_its_own_sectors_and_no_others() {
    let mut disk = empty();
    let ino = create(&mut disk, "a");
    write(&mut disk, ino, 0, &[1; 1536]);
    disk.apply(&Op::SyncFile { ino, range: Some(512..1024) });
    let lost = Fate { bytes: Bytes::Nothing, names: NameFate::Everything };
    let images = images(&disk, lost);
    let bytes = file(&images[0], "a").unwrap().read(0, 4096);
    assert_eq!(images.len(), 1);
    assert_eq!(bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn names_without_a_directory_sync_may_be_lost_and_renames_undone() {
    let mut disk = empty();
    let ino = create(&mut disk, "a.tmp");
    write(&mut disk, ino, 0, b"new");
    disk.apply(&Op::SyncFile { ino, range: None });
    disk.apply(&Op::Rename { dir: ROOT, from: "a.tmp".to_owned(), to: "a".to_owned() });
    let fate = Fate { bytes: Bytes::Nothing, names: NameFate::UpTo };
    let named = |disk: &Disk| {
        let mut names: Vec<Vec<String>> = images(disk, fate)
            .into_iter()
            .map(|image| {
                let Node::Dir(nodes) = image else { panic!("the root is a directory") };
                nodes.into_keys().collect()
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(named(&disk), [vec![], vec!["a".to_owned()], vec!["a.tmp".to_owned()]]);
    disk.apply(&Op::SyncDir { dir: ROOT });
    assert_eq!(named(&disk), [vec!["a".to_owned()]]);
}

#[test]
fn in_any_order_a_name_still_waits_for_what_it_builds_on() {
    let mut disk = empty();
    create(&mut disk, "a");
    create(&mut disk, "b");
    disk.apply(&Op::Rename { dir: ROOT, from: "a".to_owned(), to: "c".to_owned() });
    let fate = Fate { bytes: Bytes::Nothing, names: NameFate::AnyOrder };
    let images = images(&disk, fate);
    assert_eq!(images.len(), 6, "a, c or neither, each with and without b");
    assert!(images.iter().any(|image| file(image, "b").is_some() && file(image, "a").is_none()));
}

#[test]
fn a_shortened_file_may_come_back_at_its_old_length() {
    let mut disk = Disk::new(&Node::File(Content::from_bytes(&[7; 1000])).below(&["a"]));
    let ino = disk.names(ROOT).unwrap()["a"];
    disk.apply(&Op::Resize { ino, bytes: 600 });
    let mut found: Vec<u64> =
        images(&disk, TORN).iter().map(|image| file(image, "a").unwrap().bytes()).collect();
    found.sort();
    assert_eq!(found, [600, 1000]);
    disk.apply(&Op::Resize { ino, bytes: 1000 });
    assert_eq!(disk.content(ino).unwrap().read(600, 400), [0; 400]);
}

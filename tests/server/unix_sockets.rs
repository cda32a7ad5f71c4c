//! Members by the files of unix sockets: what comes to them, whose a file is, and what is left of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use pinion_kit::program::run;
use pinion_kit::{
    Launch, Server, TEST_DEADLINE, WorkDir, block_on, etcds, eventually, installed, server_is_etcd, skip,
    start_all,
};

/// A directory whose name leaves room for that of a socket, of which the kernel takes 107 bytes.
fn short() -> WorkDir {
    WorkDir::inside(Path::new("/tmp"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A member whose clients come by this file, too.
fn by_file(launch: Launch, path: &Path) -> Launch {
    let both = format!("{},unix://{}", launch.client_url(), path.display());
    launch
        .flag(format!("--listen-client-urls={both}"))
        // etcd 3.5 has no path in what it advertises.
        .flag(format!("--advertise-client-urls={both}"))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[test]
fn etcdctl_and_curl_have_their_session_by_a_file() {
    if server_is_etcd() {
        return skip("etcd 3.5 advertises no path; with --advertise-client-urls of http it does the same");
    }
    block_on(TEST_DEADLINE, async {
        let work = short();
        let (path, metrics) = (work.join("c.sock"), work.join("m.sock"));
        let launch = by_file(Launch::new(work.join("data")), &path)
            .flag(format!("--listen-metrics-urls=unix://{}", metrics.display()));
        let server = launch.start().await;
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        // What bind leaves with the umask of whoever started it, as etcd's.
        assert_eq!(mode | 0o022, 0o777, "{mode:o}");
        for (number, etcdctl) in etcds("etcdctl").iter().enumerate() {
            for (args, wanted) in [
                (format!("put k{number} v"), "OK\n".to_owned()),
                (format!("get k{number}"), format!("k{number}\nv\n")),
                ("endpoint health".to_owned(), "is healthy".to_owned()),
                ("member list".to_owned(), format!("unix://{}", path.display())),
                ("lock name echo locked".to_owned(), "locked".to_owned()),
            ] {
                let mut all = vec![format!("--endpoints=unix://{}", path.display())];
                all.extend(words(&args));
                let (success, told) = run(etcdctl, &all, "").await;
                assert!(success && told.contains(&wanted), "{args}: {told}");
            }
        }
        if let Some(curl) = installed("curl") {
            for (file, path, data, wanted) in [
                (&path, "/version", "", "etcdserver"),
                (&path, "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#, "revision"),
                (&path, "/v3/kv/range", r#"{"key":"YQ=="}"#, r#""value":"Yg==""#),
                (&metrics, "/metrics", "", "etcd_server_has_leader 1"),
                // Clients count by their user, which is the runner's.
                (&metrics, "/metrics", "", "address=\"unix:uid="),
                (&metrics, "/health", "", "true"),
            ] {
                let mut args = words("-sS --unix-socket");
                args.extend([file.display().to_string(), format!("http://localhost{path}")]);
                if !data.is_empty() {
                    args.extend(["-d".to_owned(), data.to_owned()]);
                }
                let (success, told) = run(&curl, &args, "").await;
                assert!(success && told.contains(wanted), "{path}: {told}");
            }
        }
        assert!(is_socket(&path) && is_socket(&metrics));
        let exit = server.terminate().await;
        assert!(exit.status.success(), "{}", exit.output);
        assert!(!path.exists() && !metrics.exists(), "the files go with the member");
    });
}

#[test]
fn a_killed_members_file_is_taken_over_and_no_other_is() {
    if server_is_etcd() {
        return skip("etcd removes whatever has the name");
    }
    block_on(TEST_DEADLINE, async {
        let work = short();
        let path = work.join("c.sock");
        let launch = by_file(Launch::new(work.join("data")), &path);
        let mut server = launch.start().await;
        server.kill();
        assert!(is_socket(&path), "a kill leaves it behind");
        // The kernel closes its sockets a moment after its end.
        eventually(async || match UnixStream::connect(&path) {
            Ok(_) => Err("somebody listens"),
            Err(error) => Ok(error),
        })
        .await;
        let server = launch.start().await;
        UnixStream::connect(&path).unwrap();

        let second = by_file(Launch::new(work.join("second")), &path);
        let exit = second.start_refused().await;
        exit.assert_says(&[
            "--listen-client-urls",
            "c.sock",
            "in use by another process",
            "choose another path",
        ]);
        assert!(!second.data_dir.exists(), "it wrote before it had its addresses");
        UnixStream::connect(&path).unwrap();
        drop(server);

        let other = work.join("other.sock");
        let _foreign = UnixListener::bind(&other).unwrap();
        let exit = by_file(Launch::new(work.join("third")), &other).start_refused().await;
        exit.assert_says(&["in use by another process"]);

        let file = work.join("file");
        fs::write(&file, "precious").unwrap();
        let exit = by_file(Launch::new(work.join("fourth")), &file).start_refused().await;
        exit.assert_says(&["is no socket, and it is not removed"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        let exit = by_file(Launch::new(work.join("fifth")), &work.join("no/such")).start_refused().await;
        exit.assert_says(&["no/such", "No such file or directory"]);
        let long = work.join(&"n".repeat(108));
        let exit = by_file(Launch::new(work.join("sixth")), &long).start_refused().await;
        exit.assert_says(&["at most 107 bytes long"]);
    });
}

/// A member that waits for others holds its file, and its clients are refused until it serves.
#[test]
fn of_two_members_on_one_file_one_ends() {
    if server_is_etcd() {
        return skip("etcd removes whatever has the name");
    }
    block_on(TEST_DEADLINE, async {
        let work = short();
        let path = work.join("c.sock");
        for pair in 0..3 {
            let launches =
                ["a", "b"].map(|name| by_file(Launch::new(work.join(&format!("{pair}{name}"))), &path));
            let mut servers = launches.each_ref().map(Launch::spawn);
            let loser = eventually(async || {
                servers.iter_mut().position(|server| !server.is_running()).ok_or("both are alive")
            })
            .await;
            servers[loser].wait_exit().await.assert_says(&["in use by another process"]);
            servers[1 - loser].wait_ready().await.unwrap();
            UnixStream::connect(&path).unwrap();
        }
    });
}

fn peer_file(work: &WorkDir, name: &str) -> PathBuf {
    work.join(&format!("{name}.peer"))
}

/// Members that meet by files, with more flags each.
fn by_peer_files(work: &WorkDir, names: &[&str], scheme: &str, more: &[String]) -> Vec<Launch> {
    let url = |name: &str| format!("{scheme}://{}", peer_file(work, name).display());
    let listed: Vec<String> = names.iter().map(|name| format!("{name}={}", url(name))).collect();
    let launch = |name: &&str| {
        let mut launch = Launch::new(work.join(name))
            .named(name)
            .flag(format!("--listen-peer-urls={}", url(name)))
            .flag(format!("--initial-advertise-peer-urls={}", url(name)));
        launch.initial_cluster = Some(listed.join(","));
        launch.flags.extend_from_slice(more);
        launch
    };
    names.iter().map(launch).collect()
}

async fn see_all(servers: &[Server], key: &str) {
    servers[0].connect().await.put_kv(key, "v").await.unwrap();
    for server in servers {
        assert_eq!(server.connect().await.get(key).await.unwrap().unwrap(), "v");
    }
}

#[test]
fn three_members_meet_by_files_and_change_them() {
    if server_is_etcd() {
        return skip("etcd's members meet by host:port in their working directory alone");
    }
    block_on(TEST_DEADLINE, async {
        let work = short();
        let launches = by_peer_files(&work, &["m0", "m1", "m2"], "unix", &[]);
        let mut servers = start_all(&launches).await;
        see_all(&servers, "a").await;
        servers.iter_mut().for_each(Server::kill);
        assert!(launches.iter().all(|launch| is_socket(&peer_file(&work, &launch.name))));
        drop(servers);
        let mut servers = start_all(&launches).await;
        see_all(&servers, "b").await;

        // One moves to another file, which the list is told.
        let client = servers[0].connect().await;
        let members = client.member_list(true).await.unwrap().members;
        let moved = members.iter().find(|member| member.name == "m2").unwrap().id;
        let url = format!("unix://{}", work.join("moved.peer").display());
        eventually(async || client.member_update(moved, &url).await).await;
        let exit = servers.pop().unwrap().terminate().await;
        assert!(exit.status.success(), "{}", exit.output);
        assert!(!peer_file(&work, "m2").exists());
        let launch = launches[2]
            .clone()
            .flag(format!("--listen-peer-urls={url}"))
            .flag(format!("--initial-advertise-peer-urls={url}"));
        servers.push(launch.start().await);
        see_all(&servers, "c").await;

        // A fourth comes by its file. etcd's rule: everybody has been in touch for a while.
        let fourth = format!("unix://{}", peer_file(&work, "m3").display());
        eventually(async || client.member_add(&fourth, false).await).await;
        let mut launch = by_peer_files(&work, &["m0", "m1", "m3"], "unix", &[]).pop().unwrap();
        launch.initial_cluster = launch.initial_cluster.map(|listed| format!("{listed},m2={url}"));
        servers.push(launch.flag("--initial-cluster-state=existing").start().await);
        see_all(&servers, "d").await;
        for bad in ["unix://", "unix:///a/", &format!("unix:///{}", "n".repeat(200))] {
            let refused = client.member_add(bad, false).await.unwrap_err();
            assert!(format!("{refused:?}").contains("given member URLs are invalid"), "{refused:?}");
        }
    });
}

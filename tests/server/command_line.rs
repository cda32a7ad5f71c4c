//! Completions in the shells that are here, and the manual page as the tools for it read it.

use std::path::Path;

use pinion_kit::program::run;
use pinion_kit::{TEST_DEADLINE, block_on, installed, server_binary};

/// Sources the script that the binary makes and asks for completions of each line, as the shell does at a tab.
const ASK_BASH: &str = r#"
source /dev/stdin < <("$1" completion bash) || exit 1
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _pinion; echo "$*: ${COMPREPLY[*]}"; }
ask pinion snap
ask pinion snapshot ""
ask pinion snapshot restore --bump
ask pinion recover --force-new-cluster-
ask pinion completion z
ask pinion --listen-cl
ask pinion --name=x --wal-sy
ask pinion --data-dir /us
ask pinion --data-dir = /us
ask pinion --cert-file /etc/host
"#;

const BASH_ANSWERS: &str = "\
pinion snap: snapshot
pinion snapshot : restore status
pinion snapshot restore --bump: --bump-revision
pinion recover --force-new-cluster-: --force-new-cluster-of-older
pinion completion z: zsh
pinion --listen-cl: --listen-client-urls --listen-client-http-urls
pinion --name=x --wal-sy: --wal-sync
pinion --data-dir /us: /usr
pinion --data-dir = /us: /usr
";

fn pinion() -> String {
    server_binary().to_str().unwrap().to_owned()
}

#[test]
fn bash_completes_commands_flags_and_paths_by_the_script_that_the_binary_makes() {
    block_on(TEST_DEADLINE, async {
        let Some(bash) = installed("bash") else { return };
        let args = ["-c".to_owned(), ASK_BASH.to_owned(), "bash".to_owned(), pinion()];
        let (is_well, said) = run(&bash, &args, "").await;
        assert!(is_well && said.starts_with(BASH_ANSWERS), "{said}");
        let files = said.lines().last().unwrap();
        assert!(files.contains("/etc/hosts"), "{files}");
    });
}

#[test]
fn scripts_for_other_shells_are_read_by_them() {
    block_on(TEST_DEADLINE, async {
        for shell in ["zsh", "fish"] {
            let Some(program) = installed(shell) else { continue };
            let (is_well, script) =
                run(Path::new(&pinion()), &["completion".to_owned(), shell.to_owned()], "").await;
            assert!(is_well, "{script}");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), script).unwrap();
            let args = ["-n".to_owned(), file.path().to_str().unwrap().to_owned()];
            let (is_well, said) = run(&program, &args, "").await;
            assert!(is_well && said.is_empty(), "{shell}: {said}");
        }
    });
}

#[test]
fn the_manual_page_is_set_without_a_complaint() {
    block_on(TEST_DEADLINE, async {
        let Some(groff) = installed("groff") else { return };
        let (is_well, page) = run(Path::new(&pinion()), &["man".to_owned()], "").await;
        assert!(is_well, "{page}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), page).unwrap();
        let args = ["-man", "-ww", "-Tutf8", "-rLL=100n", "-P-cbou"].map(str::to_owned);
        let args = [&args[..], &[file.path().to_str().unwrap().to_owned()]].concat();
        let (is_well, set) = run(&groff, &args, "").await;
        let path = file.path().to_str().unwrap();
        assert!(is_well && !set.contains(path), "it complains of a line: {set}");
        for words in ["snapshot restore", "--listen-client-urls", "EXIT STATUS"] {
            assert!(set.contains(words), "{words} is not in:\n{set}");
        }
    });
}

#[test]
fn a_misspelt_command_or_flag_is_refused_with_the_one_that_may_be_meant() {
    block_on(TEST_DEADLINE, async {
        for (args, meant) in [
            (&["sttaus", "d"][..], "did you mean `pinion status`?"),
            (&["--lsten-client-urls=http://127.0.0.1:1"], "did you mean --listen-client-urls?"),
            (&["snapshot", "restore", "f", "--data-dri=d"], "did you mean --data-dir?"),
        ] {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            let (is_well, said) = run(Path::new(&pinion()), &args, "").await;
            assert!(!is_well && said.contains(meant), "{args:?}: {said}");
        }
    });
}

//! Changes of the host, each with its undo. Nothing is changed unless `--apply` asks for it.

use super::finding::{Finding, Fix};
use super::host::Host;

/// Changes what the findings say how to change. A line for each.
pub(super) fn apply(host: &Host, findings: &[Finding]) -> Vec<String> {
    let fixes = findings.iter().filter_map(|finding| Some((finding.name, finding.fix.as_ref()?)));
    fixes.map(|(name, fix)| told(host, name, fix)).collect()
}

fn told(host: &Host, name: &str, Fix { path, value, before }: &Fix) -> String {
    match host.write(path, value) {
        Ok(()) => format!("changed {name}: echo {value} > {path}; undo: echo {before} > {path}"),
        Err(error) => format!("not changed {name}: {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::check::{Described, all};
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn each_change_is_told_with_its_undo_and_ends_its_warning() {
        let pages = "/sys/kernel/mm/transparent_hugepage/enabled";
        let queue = "/proc/sys/net/core/somaxconn";
        let (_dir, host) =
            Described::new("apply", &[(&pages[1..], "[always] madvise never"), (&queue[1..], "128")]);
        let looked = || all(&host, Path::new("/nowhere"), &BTreeSet::new());
        let warned = |findings: &[Finding]| {
            let is_warned = |finding: &&Finding| finding.verdict == Verdict::Warn && finding.fix.is_some();
            findings.iter().filter(is_warned).count()
        };
        assert_eq!(warned(&looked()), 2);
        let told = apply(&host, &looked());
        assert_eq!(
            told,
            [
                format!("changed huge pages: echo madvise > {pages}; undo: echo always > {pages}"),
                format!("changed accept queue: echo 4096 > {queue}; undo: echo 128 > {queue}"),
            ]
        );
        assert_eq!(host.read(queue).as_deref(), Some("4096"));
        assert_eq!(warned(&looked()), 0);
    }

    #[test]
    fn what_cannot_be_changed_is_told_with_the_reason() {
        let (_dir, host) = Described::new("apply-not", &[]);
        let finding = Finding::warn("swap", "found", "advice").fixed_by("/proc/no/such/file", "1", "0");
        let told = apply(&host, &[finding]);
        assert!(told[0].starts_with("not changed swap: /proc/no/such/file: "), "{told:?}");
    }
}

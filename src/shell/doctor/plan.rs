//! Which cores of this host a member's roles fit on.
//!
//! Of the cores that processes here may use (or those that were named) the plan takes one node's, one of each physical
//! core's threads, and none that serves disks or network cards, as long as enough are left. What `--placement=auto` does
//! with a list of cores is done with what remains.

use std::collections::BTreeSet;

use super::cores::{self, listed};
use super::host::Host;
use crate::config::{Placement, Plan, parse_cores};
use crate::shell::runtime::placement;

/// With fewer, roles share cores anyway, and `--placement=auto` says how.
const CORES_MIN: usize = 3;

/// With so many, one is left to the system and whatever else runs.
const CORES_SPARING: usize = 5;

/// What fits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// None: `auto`.
    pub(super) plan: Option<Plan>,
    /// Cores that the process is to be kept on; empty: any.
    pub(super) cores: BTreeSet<u32>,
    /// Where its memory is to be, on a host with several nodes.
    pub(super) node: Option<u32>,
    /// A sentence for each thing that was taken into account.
    pub(super) reasons: Vec<String>,
}

impl Fit {
    /// The value of `--placement`.
    pub(super) fn placement(&self) -> String {
        self.plan.as_ref().map_or_else(|| "auto".to_owned(), ToString::to_string)
    }

    fn any(reason: &str) -> Self {
        Self { plan: None, cores: BTreeSet::new(), node: None, reasons: vec![reason.to_owned()] }
    }
}

/// The plan for this host, on the cores that are named if any are.
pub(super) fn fit(host: &Host, named: &BTreeSet<u32>) -> Fit {
    let Some((usable, _)) = cores::usable(host) else {
        return Fit::any("the kernel does not tell which cores there are");
    };
    let mut reasons = Vec::new();
    let mut cores: BTreeSet<u32> = if named.is_empty() {
        usable
    } else {
        reasons.push(format!("--cores names {}", listed(named)));
        usable.intersection(named).copied().collect()
    };
    let node = keep_one_node(host, &mut cores, &mut reasons);
    keep_one_thread_a_core(host, &mut cores, &mut reasons);
    if named.is_empty() {
        leave_interrupts_alone(host, &mut cores, &mut reasons);
        if CORES_SPARING <= cores.len()
            && let Some(first) = cores.pop_first()
        {
            reasons.push(format!("core {first} is left to the rest of the system"));
        }
    }
    let allowed: Vec<usize> = cores.iter().filter_map(|&core| usize::try_from(core).ok()).collect();
    let plan = if cores.len() < CORES_MIN { None } else { placement::plan(&Placement::Auto, &allowed).ok() };
    if plan.is_none() {
        reasons.push(format!("with {} the roles share cores as auto has them", count_of(cores.len())));
        cores.clear();
    }
    Fit { plan, cores, node, reasons }
}

fn count_of(cores: usize) -> String {
    if cores == 1 { "one core".to_owned() } else { format!("{cores} cores") }
}

/// Memory of another node costs every access: the node with the most of the cores. Its number, if there are others.
fn keep_one_node(host: &Host, cores: &mut BTreeSet<u32>, reasons: &mut Vec<String>) -> Option<u32> {
    let of_node = |node: u32| {
        let list = host.read(&format!("/sys/devices/system/node/node{node}/cpulist"))?;
        let on_it: BTreeSet<u32> = parse_cores(&list)?.intersection(cores).copied().collect();
        Some((node, on_it))
    };
    let nodes: Vec<(u32, BTreeSet<u32>)> = cores::nodes(host).into_iter().filter_map(of_node).collect();
    if nodes.len() < 2 {
        return None;
    }
    // Of equal ones the first.
    let (node, kept) = nodes.into_iter().rev().max_by_key(|(_, kept)| kept.len())?;
    if kept.is_empty() {
        return None;
    }
    reasons.push(format!("node {node} has {} of them, and memory beside them", kept.len()));
    *cores = kept;
    Some(node)
}

/// A spinning thread takes what the other thread of its core needs.
fn keep_one_thread_a_core(host: &Host, cores: &mut BTreeSet<u32>, reasons: &mut Vec<String>) {
    let is_second = |&core: &u32| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let siblings = host.read(&path).as_deref().and_then(parse_cores).unwrap_or_default();
        siblings.intersection(cores).next().is_some_and(|&first| first < core)
    };
    let seconds: BTreeSet<u32> = cores.iter().copied().filter(is_second).collect();
    if seconds.is_empty() || cores.len() - seconds.len() < CORES_MIN {
        return;
    }
    reasons.push(format!("{} are second threads of others", listed(&seconds)));
    cores.retain(|core| !seconds.contains(core));
}

fn leave_interrupts_alone(host: &Host, cores: &mut BTreeSet<u32>, reasons: &mut Vec<String>) {
    let serving: BTreeSet<u32> =
        cores::interrupted(host).unwrap_or_default().intersection(cores).copied().collect();
    if serving.is_empty() {
        return;
    }
    if cores.len() - serving.len() < CORES_MIN {
        reasons.push(format!(
            "{} serve disks and network cards, and too few others are left to keep away from them",
            listed(&serving)
        ));
        return;
    }
    reasons.push(format!("{} serve disks and network cards", listed(&serving)));
    cores.retain(|core| !serving.contains(core));
}

#[cfg(test)]
mod tests {
    use super::super::check::Described;
    use super::*;

    fn placement(test: &str, files: &[(&str, &str)], named: &[u32]) -> (String, Fit) {
        let (_dir, host) = Described::new(test, files);
        let fit = fit(&host, &named.iter().copied().collect());
        (fit.placement(), fit)
    }

    #[test]
    fn on_few_cores_it_is_auto() {
        let (plan, fit) = placement("plan-few", &[("sys/devices/system/cpu/online", "0-1")], &[]);
        assert_eq!((plan.as_str(), fit.cores.len(), fit.node), ("auto", 0, None));
        assert_eq!(placement("plan-none", &[], &[]).0, "auto");
    }

    #[test]
    fn one_node_one_thread_a_core_and_no_interrupts_are_left_over() {
        let files = [
            ("sys/devices/system/cpu/online", "0-23"),
            ("proc/self/status", "Cpus_allowed_list:\t0-23\n"),
            ("sys/devices/system/node/node0/cpulist", "0-5,12-17"),
            ("sys/devices/system/node/node1/cpulist", "6-11,18-23"),
            ("sys/devices/system/cpu/cpu12/topology/thread_siblings_list", "0,12"),
            ("sys/devices/system/cpu/cpu13/topology/thread_siblings_list", "1,13"),
            ("sys/devices/system/cpu/cpu14/topology/thread_siblings_list", "2,14"),
            ("sys/devices/system/cpu/cpu15/topology/thread_siblings_list", "3,15"),
            ("sys/devices/system/cpu/cpu16/topology/thread_siblings_list", "4,16"),
            ("sys/devices/system/cpu/cpu17/topology/thread_siblings_list", "5,17"),
            ("proc/interrupts", " 40:  1  0  PCI-MSI  nvme0q1\n"),
            ("proc/irq/40/effective_affinity_list", "3"),
        ];
        let (plan, fit) = placement("plan-big", &files, &[]);
        // Of 0 to 5 core 3 serves the disk, and core 0 is the system's.
        assert_eq!(plan, "shards=5;raft=2;log=1;store=4");
        assert_eq!((listed(&fit.cores).as_str(), fit.node), ("1,2,4,5", Some(0)));
        assert_eq!(fit.reasons.len(), 4, "{:?}", fit.reasons);
        // Named ones are taken as they are, but for a second thread.
        let (plan, fit) = placement("plan-named", &files, &[3, 4, 5, 16]);
        assert_eq!((plan.as_str(), listed(&fit.cores).as_str()), ("shards=3;raft=4;log=4;store=5", "3,4,5"));
    }

    #[test]
    fn interrupts_everywhere_are_said_and_not_shunned() {
        let files = [
            ("sys/devices/system/cpu/online", "0-3"),
            ("proc/interrupts", " 40:  1  0  PCI-MSI  virtio0-req.0\n"),
            ("proc/irq/40/smp_affinity_list", "0-3"),
        ];
        let (plan, fit) = placement("plan-interrupts", &files, &[]);
        assert_eq!(plan, "shards=3;raft=1;log=0;store=2");
        assert!(fit.reasons[0].contains("too few others"), "{:?}", fit.reasons);
    }
}

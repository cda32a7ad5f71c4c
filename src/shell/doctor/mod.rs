//! `pinion doctor`: whether this host gives Pinion what its latency and durability depend on.
//!
//! Reads `/proc` and `/sys`, tries what can be tried, and changes nothing unless it is asked to. Each finding says what was
//! found, what it costs and what to do; `tuning/README.md` tells the reasons at length, and how to undo each change.

mod apply;
mod check;
mod cores;
mod disk;
mod finding;
mod host;
mod plan;
mod trial;
mod unit;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use finding::{Finding, Verdict};
use host::Host;
use plan::Fit;
use serde_json::json;

use crate::config::Doctor;

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoctorError {
    #[error("--unit: cannot write {}", path.display())]
    Unit { path: PathBuf, source: io::Error },
    #[error("--unit: where is this program")]
    Program { source: io::Error },
}

/// Everything that was found out.
struct Report {
    findings: Vec<Finding>,
    /// A line for each change of the host.
    changes: Vec<String>,
    fit: Fit,
}

/// The report, and whether a member could start here and keep its promises.
///
/// # Errors
/// The unit could not be written; nothing was changed then.
pub(super) fn run(doctor: &Doctor) -> Result<(String, bool), DoctorError> {
    let host = Host::this();
    let fit = plan::fit(&host, &doctor.cores);
    if let Some(path) = &doctor.unit {
        write_unit(path, &fit, &doctor.data_dir)?;
    }
    let mut findings = check::all(&host, &doctor.data_dir, &doctor.cores);
    findings.push(trial::io_uring());
    findings.push(trial::pinned(&doctor.cores));
    findings.push(trial::clock());
    findings.extend(trial::syncs(&check::existing_above(&doctor.data_dir)));
    findings.extend(doctor.peers.iter().map(|peer| trial::peer(peer)));
    let changes = if doctor.apply { apply::apply(&host, &findings) } else { Vec::new() };
    let report = Report { findings, changes, fit };
    let text = if doctor.is_json { report.json() } else { report.text(doctor) };
    Ok((text, report.count(Verdict::Fail) == 0))
}

fn write_unit(path: &Path, fit: &Fit, data_dir: &Path) -> Result<(), DoctorError> {
    let program = std::env::current_exe().map_err(|source| DoctorError::Program { source })?;
    unit::write(path, fit, &program, data_dir)
        .map_err(|source| DoctorError::Unit { path: path.to_owned(), source })
}

impl Report {
    fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    fn json(&self) -> String {
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "name": finding.name,
                    "verdict": finding.verdict.word().to_ascii_lowercase(),
                    "found": finding.found,
                    "advice": finding.advice,
                })
            })
            .collect();
        let told = json!({
            "findings": findings,
            "changes": self.changes,
            "placement": self.fit.placement(),
            "reasons": self.fit.reasons,
        });
        format!("{told:#}\n")
    }

    fn text(&self, doctor: &Doctor) -> String {
        let mut text: String = self.findings.iter().map(lines).collect();
        write!(text, "\n--placement={}\n", self.fit.placement()).expect(WRITES);
        for reason in &self.fit.reasons {
            writeln!(text, "{:12} {reason}", "").expect(WRITES);
        }
        if let Some(path) = &doctor.unit {
            writeln!(text, "\nwritten: {}, whose first lines say how it is installed", path.display())
                .expect(WRITES);
        }
        for change in &self.changes {
            write!(text, "\n{change}\n").expect(WRITES);
        }
        writeln!(
            text,
            "\n{} pass, {} warn, {} fail, {} unknown",
            self.count(Verdict::Pass),
            self.count(Verdict::Warn),
            self.count(Verdict::Fail),
            self.count(Verdict::Unknown)
        )
        .expect(WRITES);
        let fixable = self.findings.iter().filter(|finding| finding.fix.is_some()).count();
        if !doctor.apply && 0 < fixable {
            writeln!(text, "pinion doctor --apply changes {fixable} of these, and says how to undo it")
                .expect(WRITES);
        }
        text
    }
}

const WRITES: &str = "a String takes every write";

fn lines(finding: &Finding) -> String {
    let mut text = format!("{:7} {:22} {}\n", finding.verdict.word(), finding.name, finding.found);
    if !finding.advice.is_empty() {
        writeln!(text, "{:30} {}", "", finding.advice).expect(WRITES);
    }
    text
}

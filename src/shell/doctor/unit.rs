//! A systemd unit that fits this host: `tuning/pinion.service` with its cores, memory and directories.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use super::cores::listed;
use super::plan::Fit;

/// The unit of the repository, whose every line has its reason beside it.
const TEMPLATE: &str = include_str!("../../../tuning/pinion.service");

/// Where systemd finds a program by its name.
const FOUND: [&str; 2] = ["/usr/local/bin/pinion", "/usr/bin/pinion"];

/// The directory that the unit makes by itself.
const STATE_DIR: &str = "/var/lib/pinion";

/// Writes it. A file that is there stays as it is.
pub(super) fn write(path: &Path, fit: &Fit, program: &Path, data_dir: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(of(fit, program, data_dir).as_bytes())?;
    file.sync_all()
}

/// The unit's text. The lines of the template that say the same are replaced.
fn of(fit: &Fit, program: &Path, data_dir: &Path) -> String {
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let mut text = String::new();
    for line in TEMPLATE.lines() {
        let said = match line {
            "ExecStart=pinion" if FOUND.iter().all(|found| program != Path::new(found)) => {
                format!("ExecStart={}", quoted(program))
            }
            "WorkingDirectory=/var/lib/pinion" if !data_dir.starts_with(STATE_DIR) => {
                format!(
                    "{line}\n# The data is elsewhere, in a directory that User= owns.\nReadWritePaths={}",
                    quoted(&data_dir)
                )
            }
            "ProtectHome=yes" if is_at_home(&data_dir) || is_at_home(program) => {
                "# Program or data are below a home directory.\nProtectHome=no".to_owned()
            }
            "#CPUAffinity=2-5" if !fit.cores.is_empty() => format!(
                "CPUAffinity={}\n# A PINION_PLACEMENT of the environment file goes before this one.\nEnvironment=\"PINION_PLACEMENT={}\"",
                listed(&fit.cores).replace(',', " "),
                fit.placement()
            ),
            "#NUMAPolicy=bind" if fit.node.is_some() => "NUMAPolicy=bind".to_owned(),
            "#NUMAMask=0" => fit.node.map_or_else(|| line.to_owned(), |node| format!("NUMAMask={node}")),
            _ => line.to_owned(),
        };
        text.push_str(&said);
        text.push('\n');
    }
    text
}

fn is_at_home(path: &Path) -> bool {
    ["/home", "/root", "/run/user"].iter().any(|home| path.starts_with(home))
}

/// A path as a word of a unit: `%` means something there, and blanks end a word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%").replace('\\', "\\\\").replace('"', "\\\"");
    if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plan;

    /// Lines that one text has and the other has not.
    fn new_lines(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !TEMPLATE.lines().any(|old| old == *line)).collect()
    }

    #[test]
    fn a_host_with_few_cores_gets_the_unit_as_it_is() {
        let fit = Fit { plan: None, cores: [].into(), node: None, reasons: Vec::new() };
        let text = of(&fit, Path::new("/usr/local/bin/pinion"), Path::new("/var/lib/pinion/m1"));
        assert_eq!(text, TEMPLATE);
    }

    #[test]
    fn cores_node_program_and_directory_are_written_where_the_template_has_them() {
        let plan = Plan { shards: vec![4, 5], raft: 2, log: 1, store: 3 };
        let fit = Fit { plan: Some(plan), cores: (1..6).collect(), node: Some(1), reasons: Vec::new() };
        let text = of(&fit, Path::new("/run/user/7/a b/pinion"), Path::new("/srv/100%/data"));
        assert_eq!(
            new_lines(&text),
            [
                "ExecStart=\"/run/user/7/a b/pinion\"",
                "# The data is elsewhere, in a directory that User= owns.",
                "ReadWritePaths=/srv/100%%/data",
                "CPUAffinity=1 2 3 4 5",
                "# A PINION_PLACEMENT of the environment file goes before this one.",
                "Environment=\"PINION_PLACEMENT=shards=4,5;raft=2;log=1;store=3\"",
                "NUMAPolicy=bind",
                "NUMAMask=1",
                "# Program or data are below a home directory.",
                "ProtectHome=no",
            ]
        );
    }
}

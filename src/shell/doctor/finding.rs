//! What a check found, and what to do about it.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Slower or less predictable than it could be.
    Warn,
    /// Pinion would not start, or could not keep its promises.
    Fail,
    /// This host does not tell.
    Unknown,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Unknown => "unknown",
        }
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// What to do; empty if nothing.
    pub(super) advice: &'static str,
    /// What `--apply` writes.
    pub(super) fix: Option<Fix>,
}

/// A file of `/proc` or `/sys` that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fix {
    pub(super) path: String,
    pub(super) value: &'static str,
    /// What it holds now.
    pub(super) before: String,
}

impl Finding {
    pub(super) fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Pass, found: found.into(), advice: "", fix: None }
    }

    pub(super) fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Unknown, found: found.into(), advice: "", fix: None }
    }

    pub(super) fn warn(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), advice, fix: None }
    }

    pub(super) fn fail(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), advice, fix: None }
    }

    /// The same, and `--apply` writes `value` into a file in place of `before`.
    pub(super) fn fixed_by(
        self,
        path: impl Into<String>,
        value: &'static str,
        before: impl Into<String>,
    ) -> Self {
        Self { fix: Some(Fix { path: path.into(), value, before: before.into() }), ..self }
    }
}

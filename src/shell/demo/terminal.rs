//! Keys of a terminal, or words from anything else, and a screen with a last line that changes.
#![expect(unsafe_code, reason = "modes of a terminal, which std does not offer")]

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::sync::mpsc::Sender;

/// Words longer than this are none.
const LINE_BYTES_MAX: u64 = 256;

/// An order of whoever looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    KillLeader,
    KillFollower,
    FreezeLeader,
    FreezeFollower,
    BringBack,
    Status,
    Help,
    Quit,
    Unknown(String),
}

/// What a demo's main loop waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Order(Order),
    /// A signal asked for the end.
    Signal(i32),
}

pub(super) const KEYS: &str = "  k  kill leader       K  kill follower
  f  freeze leader     F  freeze follower
  b  bring back who is away
  s  status     ?  help     q  quit
";

impl Order {
    /// A key, or its words.
    pub(super) fn parse(word: &str) -> Self {
        match word.trim() {
            "k" | "kill leader" => Self::KillLeader,
            "K" | "kill follower" => Self::KillFollower,
            "f" | "freeze leader" => Self::FreezeLeader,
            "F" | "freeze follower" => Self::FreezeFollower,
            "b" | "back" | "bring back" => Self::BringBack,
            "s" | "status" => Self::Status,
            "?" | "h" | "help" => Self::Help,
            "q" | "quit" | "exit" => Self::Quit,
            other => Self::Unknown(other.chars().filter(|c| !c.is_control()).collect()),
        }
    }
}

/// Standard input and output, which are as they were when it is dropped.
pub(super) struct Terminal {
    /// Modes of the terminal before. None: keys are not read one by one.
    before: Option<libc::termios>,
    line: String,
    is_gone: bool,
}

impl Terminal {
    /// Reads keys as they are pressed, if both ends are a terminal.
    pub(super) fn open() -> Self {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let before = if is_terminal { enter_key_mode() } else { None };
        Self { before, line: String::new(), is_gone: false }
    }

    pub(super) fn has_keys(&self) -> bool {
        self.before.is_some()
    }

    /// Nobody reads any more.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Prints text above the line that changes.
    pub(super) fn say(&mut self, text: &str) {
        let (clear, line) = if self.has_keys() { ("\r\x1b[K", &*self.line) } else { ("", "") };
        let whole = format!("{clear}{text}\n{line}");
        self.write(&whole);
    }

    /// Changes the last line, where there is one.
    pub(super) fn show(&mut self, line: String) {
        if self.has_keys() && line != self.line {
            self.write(&format!("\r\x1b[K{line}"));
            self.line = line;
        }
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stdout();
        self.is_gone |= out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: the modes that the same call of the kernel has told.
            unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
            self.write("\n");
        }
    }
}

/// Without echo and without waiting for a line; Ctrl-C stays a signal. The modes before.
fn enter_key_mode() -> Option<libc::termios> {
    // SAFETY: all zeros is a value of this struct of numbers.
    let mut before: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the struct outlives the call.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut before) } != 0 {
        return None;
    }
    let mut modes = before;
    modes.c_lflag &= !(libc::ICANON | libc::ECHO);
    // SAFETY: as above.
    (unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const modes) } == 0).then_some(before)
}

/// Reads standard input until it ends, which is an order to quit.
pub(super) fn read_orders(has_keys: bool, events: &Sender<Event>) {
    let mut input = io::stdin().lock();
    let send = |order| events.send(Event::Order(order)).is_ok();
    if has_keys {
        let mut key = [0];
        while matches!(input.read(&mut key), Ok(1)) {
            // Arrows and the like come as several bytes, of which none is a key here but letters.
            if !key[0].is_ascii_graphic() {
                continue;
            }
            if !send(Order::parse(char::from(key[0]).encode_utf8(&mut [0; 4]))) {
                return;
            }
        }
    } else {
        let mut line = Vec::new();
        loop {
            line.clear();
            // A longer line comes in pieces, none of which is an order.
            match input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(read) if 0 < read => {}
                _ => break,
            }
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() && !text.starts_with('#') && !send(Order::parse(&text)) {
                return;
            }
        }
    }
    send(Order::Quit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_a_key_and_words() {
        for (key, words) in [
            ("k", "kill leader"),
            ("K", "kill follower\n"),
            ("f", " freeze leader"),
            ("F", "freeze follower"),
            ("b", "back"),
            ("s", "status"),
            ("?", "help"),
            ("q", "quit"),
        ] {
            assert_eq!(Order::parse(key), Order::parse(words));
            assert!(!matches!(Order::parse(key), Order::Unknown(_)), "{key}");
            assert!(KEYS.contains(&format!("  {key}  ")), "{key} is not told");
        }
        assert_eq!(Order::parse("k\u{1b}[2J"), Order::Unknown("k[2J".to_owned()));
    }
}

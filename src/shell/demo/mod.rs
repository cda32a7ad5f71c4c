//! `pinion demo`: three members on this machine, with data and a load, to be killed, frozen and brought back.
//!
//! The members are processes of this same program; nothing of them is left at the end, however it comes: they end with
//! their parent, and a process of its own removes their directory. One loop waits for keys, signals and the next look
//! at the members; the load's threads tell it through `flow` alone.

mod error;
mod flow;
mod gateway_client;
mod load;
mod members;
mod place;
mod terminal;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::error::DemoError;
use self::gateway_client::GatewayClient;
use self::load::Load;
use self::members::{MEMBERS_COUNT, Member, State};
use self::place::Place;
use self::terminal::{Event, KEYS, Order, Terminal};
use crate::config::Demo;

/// Between two looks at the members and the writes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Between two changes of the last line.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Until members answer, and until somebody leads.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// For the first values, which come before anything is killed.
const PUT_PATIENCE: Duration = Duration::from_secs(10);

/// Values that are there from the start: as many as this under `demo/fleet/`.
const FLEET_COUNT: usize = 500;

/// Below what a transaction may have.
const PUTS_AT_ONCE: usize = 100;

/// Runs until somebody has seen enough.
///
/// # Errors
/// [`DemoError`], with nothing left behind.
pub(super) fn run(demo: &Demo) -> Result<(), DemoError> {
    // First, since it copies this process, which has one thread only now.
    let place = Place::make(demo.dir.as_deref().unwrap_or(&std::env::temp_dir()))?;
    let (sender, events) = mpsc::channel();
    watch_signals(sender.clone())?;
    let members = members::prepare(place.path(), &members::choose_ports(demo.port)?);
    let mut show = Show {
        members,
        _place: place,
        terminal: Terminal::open(),
        events,
        waiting: VecDeque::new(),
        has_ended: false,
    };
    show.terminal.say("three members start ...");
    show.start()?;
    if show.has_ended {
        return Ok(());
    }
    show.greet();
    let has_keys = show.terminal.has_keys();
    let read = move || terminal::read_orders(has_keys, &sender);
    let what = "the reader of keys";
    let reader = std::thread::Builder::new().name("keys".to_owned()).spawn(read);
    reader.map_err(|source| DemoError::Start { what, source })?;
    let ports: Vec<u16> = show.members.iter().map(|member| member.ports.client).collect();
    let load = Load::start(&ports).map_err(|source| DemoError::Start { what: "the load", source })?;
    show.go_on(&load);
    load.stop();
    Ok(())
}

fn watch_signals(events: Sender<Event>) -> Result<(), DemoError> {
    let refuse = |source| DemoError::Start { what: "signal handling", source };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(refuse)?;
    let listen = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop).map_err(refuse)
}

/// Members, and whoever looks at them.
struct Show {
    members: Vec<Member>,
    /// Removed when the members are gone.
    _place: Place,
    terminal: Terminal,
    events: Receiver<Event>,
    /// Orders that have to wait: without keys one is carried out behind the other.
    waiting: VecDeque<Order>,
    has_ended: bool,
}

impl Drop for Show {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }
}

impl Show {
    /// Starts all members and gives them something to hold.
    fn start(&mut self) -> Result<(), DemoError> {
        self.members.iter_mut().try_for_each(Member::start)?;
        let until = Instant::now() + START_PATIENCE;
        for slot in 0..MEMBERS_COUNT {
            while self.members[slot].ask().is_none_or(|status| status.leader == 0) {
                if self.wait(LOOK_INTERVAL) {
                    self.has_ended = true;
                    return Ok(());
                }
                if let Some(ended) = self
                    .members
                    .iter_mut()
                    .find_map(|member| member.take_end().then(|| (member.name.clone(), member.last_words())))
                {
                    return Err(DemoError::Ended { name: ended.0, line: ended.1 });
                }
                if until <= Instant::now() {
                    let member = &self.members[slot];
                    return Err(DemoError::Late { name: member.name.clone(), line: member.last_words() });
                }
            }
        }
        let mut client = GatewayClient::new(self.members[0].ports.client, PUT_PATIENCE);
        let own = [("demo/greeting", "hello"), ("demo/config/limits", r#"{"rate": 1500, "unit": "puts/s"}"#)];
        let mut pairs: Vec<_> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let address = |number| format!("10.0.{}.{}:8080", number / 250, number % 250);
        pairs.extend((0..FLEET_COUNT).map(|number| (format!("demo/fleet/{number:03}"), address(number))));
        for some in pairs.chunks(PUTS_AT_ONCE) {
            client.put_all(some).map_err(|source| DemoError::Data { source })?;
        }
        Ok(())
    }

    /// Waits at most this long. Whether a signal asks for the end; orders are kept.
    fn wait(&mut self, at_most: Duration) -> bool {
        match self.events.recv_timeout(at_most) {
            Ok(Event::Signal(_)) => true,
            Ok(Event::Order(order)) => {
                self.waiting.push_back(order);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }

    fn greet(&mut self) {
        let leader = members::leader(&mut self.members);
        let mut text = String::from("one cluster of three members; its data is gone when this ends\n\n");
        for (slot, member) in self.members.iter().enumerate() {
            let role = if leader == Some(slot) { "leader  " } else { "follower" };
            let (name, port, pid) = (&member.name, member.ports.client, member.pid());
            writeln!(text, "  {name}  http://127.0.0.1:{port}  {role}  process {pid}").expect(WRITES);
        }
        let endpoints: Vec<String> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.ports.client)).collect();
        write!(
            text,
            "\n  export ETCDCTL_API=3 ETCDCTL_ENDPOINTS={}\n  etcdctl get --prefix demo/fleet/00\n  dashboard: http://127.0.0.1:{}/dashboard\n\n\
             six writers, two at each member, put 1,500 values a second together\n\n{KEYS}",
            endpoints.join(","),
            self.members[leader.unwrap_or(0)].ports.client,
        )
        .expect(WRITES);
        self.terminal.say(&text);
    }

    /// Carries out orders until there is one to quit.
    fn go_on(&mut self, load: &Load) {
        // The act whose gap is measured, in words.
        let mut act = String::new();
        let (mut shown, mut counted) = (Instant::now(), 0);
        loop {
            if self.wait(LOOK_INTERVAL) || self.terminal.is_gone() {
                return;
            }
            let now = Instant::now();
            if let Some(gap) = load.with_flow(|flow| flow.take_gap(now)) {
                self.tell_gap(&act, gap);
            }
            for slot in 0..MEMBERS_COUNT {
                if self.members[slot].take_end() {
                    let member = &self.members[slot];
                    let told = format!("{} has ended by itself: {}", member.name, member.last_words());
                    self.terminal.say(&told);
                }
            }
            while let Some(order) = self.next_order(load) {
                if order == Order::Quit {
                    return;
                }
                if let Some(done) = self.carry_out(order, load) {
                    act = done;
                }
            }
            let since = now.saturating_duration_since(shown);
            if STATUS_INTERVAL <= since && self.terminal.has_keys() {
                let accepted = load.with_flow(|flow| flow.accepted_count());
                let rate = u128::from(accepted - counted) * 1_000 / since.as_millis().max(1);
                (shown, counted) = (now, accepted);
                let line = format!("{rate:>6} puts/s   {}", self.states());
                self.terminal.show(line);
            }
        }
    }

    /// The next order, if its turn has come: without keys, a gap is told before the next act. An act without a quorum
    /// has no end, so what can end it does not wait.
    fn next_order(&self, load: &Load) -> Option<Order> {
        let must_wait = !self.terminal.has_keys() && self.has_quorum();
        if must_wait && load.with_flow(|flow| flow.is_looking()) {
            None
        } else {
            self.waiting.front().cloned()
        }
    }

    fn has_quorum(&self) -> bool {
        let up = self.members.iter().filter(|member| member.state == State::Up).count();
        MEMBERS_COUNT < 2 * up
    }

    /// Does as it is told. Some: what was done, whose gap is measured from now on.
    fn carry_out(&mut self, order: Order, load: &Load) -> Option<String> {
        self.waiting.pop_front();
        let (is_kill, of_leader) = match order {
            Order::KillLeader => (true, true),
            Order::KillFollower => (true, false),
            Order::FreezeLeader => (false, true),
            Order::FreezeFollower => (false, false),
            Order::BringBack => return self.bring_back(load),
            Order::Status => {
                let states = self.states();
                self.terminal.say(&states);
                return None;
            }
            Order::Help => {
                self.terminal.say(KEYS);
                return None;
            }
            Order::Unknown(word) => {
                self.terminal.say(&format!("{word}: no such key\n{KEYS}"));
                return None;
            }
            Order::Quit => return None,
        };
        let Some(slot) = self.find(of_leader) else {
            self.terminal.say(if of_leader { "nobody leads now" } else { "no follower is left" });
            return None;
        };
        load.with_flow(|flow| flow.on_act(Instant::now()));
        let member = &mut self.members[slot];
        let done = if is_kill {
            member.kill();
            "killed"
        } else {
            member.freeze();
            "frozen"
        };
        let role = if of_leader { "leader" } else { "follower" };
        let told = format!("{role} {} {done}", member.name);
        if !self.has_quorum() {
            self.terminal
                .say(&format!("{told}; one of three is no quorum, and nothing is accepted (b: bring back)"));
        }
        Some(told)
    }

    /// A member with that role. While somebody is being elected it waits for the end of that.
    fn find(&mut self, of_leader: bool) -> Option<usize> {
        if !self.has_quorum() && of_leader {
            return None;
        }
        let until = Instant::now() + START_PATIENCE;
        loop {
            let leader = members::leader(&mut self.members);
            let up = |slot: &usize| self.members[*slot].state == State::Up;
            if of_leader && leader.is_some() {
                return leader;
            }
            if !of_leader && (leader.is_some() || !self.has_quorum()) {
                return (0..MEMBERS_COUNT).filter(up).find(|slot| Some(*slot) != leader);
            }
            if until <= Instant::now() {
                return None;
            }
            if self.wait(LOOK_INTERVAL) {
                self.waiting.push_front(Order::Quit);
                return None;
            }
        }
    }

    fn bring_back(&mut self, load: &Load) -> Option<String> {
        let mut back = Vec::new();
        // The gap of an act that left no quorum ends now, and goes on to be measured.
        let goes_on = !self.has_quorum() && load.with_flow(|flow| flow.is_looking());
        for slot in 0..MEMBERS_COUNT {
            let member = &mut self.members[slot];
            match member.state {
                State::Up => continue,
                State::Frozen => member.thaw(),
                State::Ended => {
                    if let Err(error) = member.start() {
                        let told = format!("{} cannot start: {error}", member.name);
                        self.terminal.say(&told);
                        continue;
                    }
                }
            }
            back.push(self.members[slot].name.clone());
        }
        if back.is_empty() {
            self.terminal.say("nobody is away");
            return None;
        }
        let told = format!("{} brought back", back.join(" and "));
        if goes_on {
            return Some(format!("no quorum until {told}"));
        }
        load.with_flow(|flow| flow.on_act(Instant::now()));
        Some(told)
    }

    fn tell_gap(&mut self, act: &str, gap: Duration) {
        let leader = members::leader(&mut self.members);
        let leads =
            leader.map_or("nobody leads".to_owned(), |slot| format!("{} leads", self.members[slot].name));
        let ms = gap.as_secs_f64() * 1e3;
        let ms = if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
        self.terminal.say(&format!("{act}: {ms} ms without an accepted write; {leads}"));
    }

    fn states(&mut self) -> String {
        let leader = members::leader(&mut self.members);
        let states = self.members.iter().enumerate().map(|(slot, member)| {
            let state = match member.state {
                State::Up if leader == Some(slot) => "leader",
                State::Up if !member.answers => "starts",
                State::Up => "follower",
                State::Frozen => "frozen",
                State::Ended => "away",
            };
            format!("{} {state}", member.name)
        });
        states.collect::<Vec<_>>().join("   ")
    }
}

const WRITES: &str = "a String takes every write";

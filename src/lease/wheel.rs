//! A timer wheel: things to look at again, each at a tick of its own.
//!
//! Levels of 64 slots; a slot of level n spans 64^n ticks. A timer waits in the level of the highest
//! six-bit digit in which its tick differs from the present one, in the slot of that digit. When the
//! present reaches the slot, its timers go on to lower levels, and from level 0 they go off.
//! Timers are numbers chosen by the owner, small and dense; their links are kept here, in one array.
//!
//! Invariants: a timer is in one slot or in none; it never goes off before its tick; no slot that
//! holds a timer begins before the present tick.
//! Cost: insert and remove O(1) without allocation once the timer's number was seen; going off O(1),
//! after at most one move per level. `pop` does as much as it is allowed to in one call.

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 64 bits of ticks in digits of six.
const LEVELS: usize = 11;
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Timer {
    at: u64,
    next: u32,
    previous: u32,
    /// Level and slot; `NONE_PLACE` while it is in none.
    place: u16,
}

const NO_PLACE: u16 = u16::MAX;
const IDLE: Timer = Timer { at: 0, next: NONE, previous: NONE, place: NO_PLACE };

/// See the module.
#[derive(Debug)]
pub(super) struct Wheel {
    now: u64,
    timers: Vec<Timer>,
    /// First timer of each slot, level by level.
    heads: Vec<u32>,
    /// Which slots of a level hold timers.
    occupied: [u64; LEVELS],
}

/// What `pop` came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Popped {
    /// It went off and is in the wheel no more.
    Timer(u32),
    /// No timer is left at or before the tick.
    Nothing,
    /// There may be more, but the steps are used up.
    Pause,
}

impl Wheel {
    pub(super) fn new(now: u64) -> Self {
        Self { now, timers: Vec::new(), heads: vec![NONE; LEVELS * SLOTS], occupied: [0; LEVELS] }
    }

    /// Sets a timer that is not set. One whose tick has passed goes off at the next `pop`.
    pub(super) fn insert(&mut self, timer: u32, at: u64) {
        let slot = timer as usize;
        if self.timers.len() <= slot {
            self.timers.resize(slot + 1, IDLE);
        }
        assert!(self.timers[slot].place == NO_PLACE, "timer {timer} is set already");
        let at = at.max(self.now);
        let differing = 63 - ((at ^ self.now) | 1).leading_zeros();
        let level = differing / SLOT_BITS;
        let digit = digit_of(at, level);
        let place = level as usize * SLOTS + digit;
        let head = std::mem::replace(&mut self.heads[place], timer);
        if head != NONE {
            self.timers[head as usize].previous = timer;
        }
        let number = u16::try_from(place).expect("a few hundred slots");
        self.timers[slot] = Timer { at, next: head, previous: NONE, place: number };
        self.occupied[level as usize] |= 1 << digit;
    }

    /// Takes a timer out, if it is set.
    pub(super) fn remove(&mut self, timer: u32) {
        let Some(found) = self.timers.get_mut(timer as usize) else { return };
        let Timer { next, previous, place, .. } = std::mem::replace(found, IDLE);
        if place == NO_PLACE {
            return;
        }
        if next != NONE {
            self.timers[next as usize].previous = previous;
        }
        if previous != NONE {
            self.timers[previous as usize].next = next;
            return;
        }
        let place = usize::from(place);
        self.heads[place] = next;
        if next == NONE {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }

    /// The next timer that goes off at or before tick `to`, looking at `steps` timers at most, which
    /// are counted down.
    pub(super) fn pop(&mut self, to: u64, steps: &mut usize) -> Popped {
        loop {
            let Some((begin, level, digit)) = self.first_slot().filter(|&(begin, ..)| begin <= to) else {
                self.now = self.now.max(to);
                return Popped::Nothing;
            };
            if *steps == 0 {
                return Popped::Pause;
            }
            *steps -= 1;
            self.now = self.now.max(begin);
            let timer = self.heads[level * SLOTS + digit];
            let at = self.timers[timer as usize].at;
            self.remove(timer);
            if level == 0 {
                return Popped::Timer(timer);
            }
            // One at a time: a slot may hold any number. The rest of it begins at the present tick and
            // so stays the first slot; none is added to it, since its digit does not differ any more.
            self.insert(timer, at);
        }
    }

    /// The occupied slot that begins first; of several, that of the highest level: its timers may be
    /// as early as the others.
    fn first_slot(&self) -> Option<(u64, usize, usize)> {
        let mut first: Option<(u64, usize, usize)> = None;
        for (level, &occupied) in self.occupied.iter().enumerate() {
            if occupied == 0 {
                continue;
            }
            let digit = occupied.trailing_zeros();
            let shift = SLOT_BITS * u32::try_from(level).expect("a few levels");
            let above =
                self.now.checked_shr(shift + SLOT_BITS).map_or(0, |above| above << (shift + SLOT_BITS));
            let begin = above | u64::from(digit) << shift;
            if first.is_none_or(|(earliest, ..)| begin <= earliest) {
                first = Some((begin, level, digit as usize));
            }
        }
        first
    }
}

fn digit_of(tick: u64, level: u32) -> usize {
    let digit = (tick >> (SLOT_BITS * level)) & (SLOTS as u64 - 1);
    usize::try_from(digit).expect("six bits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// All that goes off up to `to`, in calls of `steps`.
    fn drain(wheel: &mut Wheel, to: u64, steps: usize) -> Vec<u32> {
        let mut gone = Vec::new();
        loop {
            let mut left = steps;
            match wheel.pop(to, &mut left) {
                Popped::Timer(timer) => gone.push(timer),
                Popped::Nothing => return gone,
                Popped::Pause => {}
            }
        }
    }

    #[test]
    fn timers_go_off_at_their_tick_as_in_a_sorted_map() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut now = if random.random() { 0 } else { random.random_range(0..1 << 50) };
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for _ in 0..400 {
                let timer = random.random_range(0..40);
                match random.random_range(0..10) {
                    0..5 => {
                        wheel.remove(timer);
                        let reach = 1_u64 << random.random_range(0..44);
                        let at =
                            (now + random.random_range(0..reach)).saturating_sub(random.random_range(0..3));
                        wheel.insert(timer, at);
                        model.insert(timer, at);
                    }
                    5 => {
                        wheel.remove(timer);
                        model.remove(&timer);
                    }
                    _ => {
                        let reach = 1_u64 << random.random_range(0..40);
                        now += random.random_range(0..reach);
                        let mut gone = drain(&mut wheel, now, random.random_range(1..5));
                        gone.sort_unstable();
                        let expected: Vec<u32> =
                            model.iter().filter(|&(_, &at)| at <= now).map(|(&timer, _)| timer).collect();
                        assert_eq!(gone, expected, "seed {seed} at {now}");
                        model.retain(|_, at| now < *at);
                    }
                }
            }
        }
    }

    #[test]
    fn timers_set_while_a_slot_is_half_emptied_are_not_lost() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut wheel = Wheel::new(0);
            let (mut next, mut live, mut to) = (0, BTreeMap::new(), 0);
            for _ in 0..300 {
                for _ in 0..random.random_range(0..6) {
                    let at = to + random.random_range(0..9_000);
                    wheel.insert(next, at);
                    live.insert(next, at);
                    next += 1;
                }
                to += random.random_range(0..500);
                let mut steps = random.random_range(0..12);
                while let Popped::Timer(timer) = wheel.pop(to, &mut steps) {
                    assert!(live.remove(&timer).unwrap() <= to, "seed {seed}: early");
                }
            }
            for timer in drain(&mut wheel, to + 10_000, 7) {
                live.remove(&timer);
            }
            assert!(live.is_empty(), "seed {seed}: lost {live:?}");
        }
    }

    #[test]
    fn the_furthest_tick_has_a_place() {
        let mut wheel = Wheel::new(5);
        wheel.insert(0, u64::MAX);
        wheel.insert(1, 0);
        assert_eq!(drain(&mut wheel, u64::MAX - 1, 1), [1]);
        assert_eq!(drain(&mut wheel, u64::MAX, 1), [0]);
    }
}

//! Whose turn it is among the endpoints that answer. No clock, no socket.

/// Endpoints at most.
pub(in crate::shell) const ENDPOINTS_MAX: usize = 64;

/// One after the other, beginning anywhere.
#[derive(Debug)]
pub(super) struct Turns {
    count: usize,
    next: usize,
}

impl Turns {
    pub(super) fn new(count: usize, seed: u64) -> Self {
        assert!((1..=ENDPOINTS_MAX).contains(&count), "the configuration has endpoints, and not too many");
        let next = usize::try_from(seed % count as u64).expect("below the count");
        Self { count, next }
    }

    /// The next that can take a call.
    pub(super) fn pick(&mut self, can_take: impl Fn(usize) -> bool) -> Option<usize> {
        let order = (self.next..self.count).chain(0..self.next);
        let picked = order.into_iter().find(|index| can_take(*index))?;
        self.next = (picked + 1) % self.count;
        Some(picked)
    }
}

/// Endpoints that a call was given to.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::shell) struct Tried {
    endpoints: u64,
    last: usize,
}

impl Tried {
    /// All but this one.
    pub(super) fn all_but(index: usize) -> Self {
        Self { endpoints: !(1 << index), last: index }
    }

    pub(super) fn add(&mut self, index: usize) {
        self.endpoints |= 1 << index;
        self.last = index;
    }

    /// The one that was added last.
    pub(in crate::shell) fn last(self) -> usize {
        self.last
    }

    pub(super) fn has(self, index: usize) -> bool {
        self.endpoints >> index & 1 == 1
    }

    pub(super) fn has_any(self) -> bool {
        self.endpoints != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_take_turns_and_those_that_do_not_answer_are_passed_over() {
        let mut turns = Turns::new(3, 1);
        let all: Vec<_> = (0..4).map(|_| turns.pick(|_| true)).collect();
        assert_eq!(all, [Some(1), Some(2), Some(0), Some(1)]);
        let without: Vec<_> = (0..3).map(|_| turns.pick(|index| index != 2)).collect();
        assert_eq!(without, [Some(0), Some(1), Some(0)]);
        assert_eq!(turns.pick(|_| false), None);
        assert_eq!(turns.pick(|_| true), Some(1), "nobody's turn is lost");
    }

    #[test]
    fn whoever_was_tried_is_known_up_to_the_last() {
        let mut tried = Tried::default();
        assert!(!tried.has_any());
        tried.add(ENDPOINTS_MAX - 1);
        assert!(tried.has(ENDPOINTS_MAX - 1) && !tried.has(0) && tried.has_any());
    }
}

//! Whose turn it is: the endpoints, which of them answer, and who gets the next connection. No clock, no socket.
//!
//! Of those that answer, the best priority alone gets connections. Within it the chance is the weight's share; without
//! weights they take turns. Where there are weights, those with none get one connection in a hundred, as RFC 2782 has
//! it and etcd does.

use crate::config::Url;

/// One chance in so many for those without a weight, beside others that have one.
const UNWEIGHTED_ODDS: u64 = 100;

/// A member, as far as a gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub url: Url,
    pub priority: u16,
    pub weight: u16,
    /// It answered when it was dialed last, or was never dialed.
    pub is_active: bool,
    /// Whether somebody tries it again at this moment.
    pub is_tried: bool,
}

impl Endpoint {
    pub(super) fn new(url: Url, priority: u16, weight: u16) -> Self {
        Self { url, priority, weight, is_active: true, is_tried: false }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub list: Vec<Endpoint>,
    turn: usize,
}

impl Endpoints {
    pub(super) fn new(list: Vec<Endpoint>) -> Self {
        Self { list, turn: 0 }
    }

    /// Who gets the next connection; None: nobody answers. `random` draws a number below its argument.
    pub(super) fn pick(&mut self, mut random: impl FnMut(u64) -> u64) -> Option<usize> {
        let active = || self.list.iter().enumerate().filter(|(_, endpoint)| endpoint.is_active);
        let best = active().map(|(_, endpoint)| endpoint.priority).min()?;
        let class = || active().filter(|(_, endpoint)| endpoint.priority == best);
        let sum: u64 = class().map(|(_, endpoint)| u64::from(endpoint.weight)).sum();
        let unweighted: Vec<usize> =
            class().filter(|(_, endpoint)| endpoint.weight == 0).map(|(index, _)| index).collect();
        if 0 < sum && (unweighted.is_empty() || 0 < random(UNWEIGHTED_ODDS)) {
            let mut drawn = random(sum);
            for (index, endpoint) in class() {
                match drawn.checked_sub(u64::from(endpoint.weight)) {
                    None => return Some(index),
                    Some(rest) => drawn = rest,
                }
            }
        }
        // The next one behind the last, in the order of the list.
        let next = unweighted.iter().copied().find(|index| self.turn <= *index).unwrap_or(unweighted[0]);
        self.turn = next + 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints of these priorities and weights.
    fn endpoints(list: &[(u16, u16)]) -> Endpoints {
        let url = |number| Url::parse(&format!("http://e{number}:1")).unwrap();
        let list = list.iter().enumerate();
        Endpoints::new(
            list.map(|(number, (priority, weight))| Endpoint::new(url(number), *priority, *weight)).collect(),
        )
    }

    /// How often each was picked, by a generator that is the same each time.
    fn counts(endpoints: &mut Endpoints, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; endpoints.list.len()];
        let mut state = 1_u64;
        for _ in 0..picks {
            let picked = endpoints.pick(|below| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            });
            counts[picked.unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn without_weights_those_that_answer_take_turns() {
        let mut endpoints = endpoints(&[(0, 0), (0, 0), (0, 0)]);
        let picks =
            |endpoints: &mut Endpoints| (0..4).map(|_| endpoints.pick(|_| 0).unwrap()).collect::<Vec<_>>();
        assert_eq!(picks(&mut endpoints), [0, 1, 2, 0]);
        endpoints.list[1].is_active = false;
        assert_eq!(picks(&mut endpoints), [2, 0, 2, 0]);
        endpoints.list[1].is_active = true;
        assert_eq!(picks(&mut endpoints), [1, 2, 0, 1]);
    }

    #[test]
    fn the_best_priority_gets_all_until_none_of_it_answers() {
        let mut endpoints = endpoints(&[(5, 0), (1, 0), (1, 0), (5, 9)]);
        assert_eq!(counts(&mut endpoints, 100), [0, 50, 50, 0]);
        endpoints.list[1].is_active = false;
        assert_eq!(counts(&mut endpoints, 100), [0, 0, 100, 0]);
        endpoints.list[2].is_active = false;
        let told = counts(&mut endpoints, 10_000);
        assert!((50..200).contains(&told[0]) && told[3] == 10_000 - told[0], "{told:?}");
        endpoints.list.iter_mut().for_each(|endpoint| endpoint.is_active = false);
        assert_eq!(endpoints.pick(|_| 0), None);
    }

    #[test]
    fn weights_are_shares() {
        let told = counts(&mut endpoints(&[(0, 1), (0, 2), (0, 7)]), 10_000);
        for (told, wanted) in told.iter().zip([1_000, 2_000, 7_000]) {
            assert!(told.abs_diff(wanted) < 300, "{told} and {wanted}");
        }
    }
}

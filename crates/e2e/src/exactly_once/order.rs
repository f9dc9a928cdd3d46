//! Cycles among transactions: one lies wholly before another in one partition, and wholly behind it in a second one or
//! in time.
//!
//! Kafka does not isolate writers: transactions that are open at the same time may lie either way round in partitions
//! that they share. A history whose clients share at most one partition has no such freedom, and any cycle in it is a
//! record that moved.
//!
//! Every partition, and time, gives each of its transactions a span; A lies before B where A's span ends before B's
//! begins. These edges are quadratic in number, so that a chain of points stands for them: a span leads to the first
//! point behind it, each point to the next, and a point to the span that begins there.

use super::history::TransactionId;
use std::collections::{BTreeMap, VecDeque};

/// First and last position of each transaction on one axis.
pub type Spans = BTreeMap<TransactionId, (u64, u64)>;

/// A shortest cycle, `None` where the axes agree.
pub fn cycle(axes: &[Spans]) -> Option<Vec<TransactionId>> {
    let graph = Graph::of(axes);
    let starts = graph.on_cycles().into_iter().filter(|node| *node < graph.ids.len());
    starts.filter_map(|start| graph.path_back(start)).min_by_key(Vec::len)
}

/// Transactions first, then the points of all axes.
struct Graph {
    ids: Vec<TransactionId>,
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn of(axes: &[Spans]) -> Self {
        let mut numbers: BTreeMap<&TransactionId, usize> =
            axes.iter().flat_map(Spans::keys).map(|id| (id, 0)).collect();
        for (number, slot) in numbers.values_mut().enumerate() {
            *slot = number;
        }
        let ids = numbers.keys().map(|id| (*id).clone()).collect();
        let mut edges = vec![Vec::new(); numbers.len()];
        for spans in axes {
            let mut begins: Vec<(u64, usize)> =
                spans.iter().map(|(id, (first, _))| (*first, numbers[id])).collect();
            begins.sort_unstable();
            let points = edges.len();
            for (at, (_, number)) in begins.iter().enumerate() {
                let next = (at + 1 < begins.len()).then_some(points + at + 1);
                edges.push(next.into_iter().chain([*number]).collect());
            }
            for (id, (_, last)) in spans {
                let behind = begins.partition_point(|(first, _)| first <= last);
                if behind < begins.len() {
                    edges[numbers[id]].push(points + behind);
                }
            }
        }
        Self { ids, edges }
    }

    /// What is left when nodes without predecessors are taken away again and again, from both ends.
    fn on_cycles(&self) -> Vec<usize> {
        let mut reversed = vec![Vec::new(); self.edges.len()];
        for (from, targets) in self.edges.iter().enumerate() {
            for &to in targets {
                reversed[to].push(from);
            }
        }
        let mut stays = vec![true; self.edges.len()];
        for (forward, backward) in [(&self.edges, &reversed), (&reversed, &self.edges)] {
            let mut degrees: Vec<usize> = backward
                .iter()
                .map(|sources| sources.iter().filter(|source| stays[**source]).count())
                .collect();
            let mut free: Vec<usize> =
                (0..degrees.len()).filter(|node| stays[*node] && degrees[*node] == 0).collect();
            while let Some(node) = free.pop() {
                stays[node] = false;
                for &to in forward[node].iter().filter(|to| stays[**to]) {
                    degrees[to] -= 1;
                    if degrees[to] == 0 {
                        free.push(to);
                    }
                }
            }
        }
        (0..stays.len()).filter(|node| stays[*node]).collect()
    }

    /// The transactions on a shortest way from `start` back to it.
    fn path_back(&self, start: usize) -> Option<Vec<TransactionId>> {
        let mut came_from = vec![None; self.edges.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for &to in &self.edges[node] {
                if to == start {
                    let way = std::iter::successors(Some(node), |node| came_from[*node]);
                    let mut ids: Vec<_> = way.filter_map(|node| self.ids.get(node).cloned()).collect();
                    ids.reverse();
                    return Some(ids);
                }
                if came_from[to].is_none() {
                    came_from[to] = Some(node);
                    queue.push_back(to);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(of: &[(&str, u64, u64)]) -> Spans {
        let id = |client: &str| TransactionId { client: client.to_owned(), number: 0 };
        of.iter().map(|(client, first, last)| (id(client), (*first, *last))).collect()
    }

    fn names(cycle: Option<Vec<TransactionId>>) -> Option<Vec<String>> {
        cycle.map(|ids| ids.into_iter().map(|id| id.client).collect())
    }

    #[test]
    fn opposite_orders_are_a_cycle() {
        let one = spans(&[("a", 0, 1), ("b", 2, 3), ("c", 4, 5)]);
        let other = spans(&[("b", 0, 0), ("a", 1, 1), ("c", 2, 2)]);
        assert_eq!(cycle(&[one.clone(), one.clone()]), None);
        assert_eq!(names(cycle(&[one, other])), Some(vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_overlaps_is_in_no_order() {
        let overlap = spans(&[("a", 0, 4), ("b", 2, 3)]);
        let after = spans(&[("b", 0, 0), ("a", 1, 1)]);
        assert_eq!(cycle(&[overlap, after]), None);
    }

    #[test]
    fn long_cycles_are_found() {
        let axes = [
            spans(&[("a", 0, 0), ("b", 1, 1)]),
            spans(&[("b", 0, 0), ("c", 1, 1)]),
            spans(&[("c", 0, 0), ("d", 1, 1)]),
            spans(&[("d", 0, 0), ("a", 1, 1)]),
        ];
        assert_eq!(cycle(&axes[..3]), None);
        assert_eq!(names(cycle(&axes)).unwrap().len(), 4);
    }

    #[test]
    fn the_same_as_comparing_all_pairs() {
        let mut random = crate::random::Random::of(3);
        let names = ["a", "b", "c", "d"];
        let mut found = 0;
        for _ in 0..2_000 {
            let axes: Vec<Spans> = (0..2)
                .map(|_| {
                    let of: Vec<_> = names
                        .iter()
                        .map(|name| {
                            let first = random.between(0..=9);
                            (*name, first, first + random.between(0..=3))
                        })
                        .collect();
                    spans(&of)
                })
                .collect();
            let reference = has_cycle_naively(&axes);
            assert_eq!(cycle(&axes).is_some(), reference, "{axes:?}");
            found += u32::from(reference);
        }
        assert!((100..1_900).contains(&found), "{found}");
    }

    fn has_cycle_naively(axes: &[Spans]) -> bool {
        let ids: Vec<_> = axes[0].keys().collect();
        let mut before = vec![vec![false; ids.len()]; ids.len()];
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                before[a][b] = axes.iter().any(|spans| spans[*from].1 < spans[*to].0);
            }
        }
        for middle in 0..ids.len() {
            for a in 0..ids.len() {
                for b in 0..ids.len() {
                    before[a][b] |= before[a][middle] && before[middle][b];
                }
            }
        }
        (0..ids.len()).any(|node| before[node][node])
    }
}

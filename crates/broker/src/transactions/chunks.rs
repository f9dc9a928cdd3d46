//! Many writes of one request or transaction, a bounded number of them at a time.
//!
//! What it deliberately does not do: try again, or keep an order among writes that are under way.
//!
//! **Invariants:** at most [`UNDER_WAY_MAX`] exist at once, however many are asked for; other tasks run
//! between two chunks; results come in the order of what was asked.

use std::future::Future;

use futures_util::future::join_all;

/// Enough for one flush to cover many, few enough that a request of millions takes no memory.
const UNDER_WAY_MAX: usize = 256;

/// Makes and runs `futures` in chunks, and gives their results in order. A chunk begins in order, and all of
/// it before the first wait.
pub(crate) async fn in_chunks<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures = futures.into_iter();
    let mut results = Vec::with_capacity(futures.size_hint().0);
    loop {
        let before = results.len();
        results.extend(join_all(futures.by_ref().take(UNDER_WAY_MAX)).await);
        if results.len() - before < UNDER_WAY_MAX {
            return results;
        }
        // What is refused at once waits for nothing, and would keep a network worker for itself.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Poll;

    use super::*;
    use crate::host::sim;

    #[test]
    fn a_chunk_at_a_time_is_under_way_and_results_keep_their_order() {
        sim::run(1, |_host| async {
            for count in [0, 1, UNDER_WAY_MAX - 1, UNDER_WAY_MAX, UNDER_WAY_MAX + 1, 10 * UNDER_WAY_MAX] {
                let (under_way, most, polls) = (Cell::new(0), Cell::new(0), Cell::new(0));
                let (under_way, most, polls) = (&under_way, &most, &polls);
                let futures = (0..count).map(|at| {
                    under_way.set(under_way.get() + 1);
                    most.set(most.get().max(under_way.get()));
                    let mut polls_left = at % 7;
                    let waits = std::future::poll_fn(move |cx| {
                        polls.set(polls.get() + 1);
                        if polls_left == 0 {
                            return Poll::Ready(());
                        }
                        polls_left -= 1;
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    });
                    async move {
                        waits.await;
                        under_way.set(under_way.get() - 1);
                        at
                    }
                });
                assert_eq!(in_chunks(futures).await, (0..count).collect::<Vec<_>>());
                assert_eq!(most.get(), count.min(UNDER_WAY_MAX));
                let needed: usize = (0..count).map(|at| at % 7 + 1).sum();
                assert_eq!(polls.get(), needed, "only what was woken is polled");
            }
        });
    }
}

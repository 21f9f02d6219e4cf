//! What is to be looked at, each thing once.
//!
//! A wake-up carries no data. Any number of them for one key make one look; a key is never looked at twice at the same
//! time; a look that failed is repeated after a pause that doubles. All looks run inside [`Queue::serve`], so whoever
//! awaits that owns them all.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Failures before people hear of them: conflicts with other writers are everyday.
const QUIET_FAILURES: u32 = 4;

struct State<T> {
    ready: VecDeque<T>,
    waiting: HashSet<T>,
    running: HashSet<T>,
    /// Asked for while being looked at.
    again: HashSet<T>,
    later: BTreeMap<(Instant, u64), T>,
    /// Where in `later` a key is.
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    count: u64,
}

/// The queue. Clones are the same queue.
pub struct Queue<T> {
    state: Arc<Mutex<State<T>>>,
    wake: Arc<Notify>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), wake: Arc::clone(&self.wake) }
    }
}

impl<T: Clone + Eq + Hash + Display> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash + Display> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            count: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::new(Notify::new()) }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says: look at this.
    pub fn push(&self, key: T) {
        self.state().push(key);
        self.wake.notify_one();
    }

    /// Says: look at this when so much time has passed. Only the earliest such wish for a key is kept.
    pub fn push_after(&self, key: T, pause: Duration) {
        self.state().push_at(key, Instant::now() + pause);
        self.wake.notify_one();
    }

    /// Looks at keys as they come, at most `width` at a time, until told to stop. A look returns when it wants to be
    /// repeated, if at all.
    pub async fn serve<F, W, E>(&self, width: usize, stop: &CancellationToken, mut look: F)
    where
        F: FnMut(T) -> W,
        W: Future<Output = Result<Option<Duration>, E>>,
        E: Display,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let (next, due) = self.state().next(Instant::now(), running.len() < width);
            if let Some(key) = next {
                let look = look(key.clone());
                running.push(async move { (key, look.await) });
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                Some((key, outcome)) = running.next() => self.done(&key, outcome),
                () = until(due) => {}
            }
        }
    }

    fn done<E: Display>(&self, key: &T, outcome: Result<Option<Duration>, E>) {
        let mut state = self.state();
        state.running.remove(key);
        let asked = state.again.remove(key);
        let now = Instant::now();
        match outcome {
            Ok(repeat) => {
                state.failures.remove(key);
                if let Some(pause) = repeat {
                    state.push_at(key.clone(), now + pause);
                }
                if asked {
                    state.push(key.clone());
                }
            }
            Err(error) => {
                let count = state.failures.entry(key.clone()).or_default();
                *count = count.saturating_add(1);
                let pause =
                    FIRST_PAUSE.saturating_mul(1 << (*count - 1).min(16)).min(LONGEST_PAUSE);
                if *count > QUIET_FAILURES {
                    warn!(%key, %error, failures = *count, "cannot reconcile yet");
                } else {
                    debug!(%key, %error, failures = *count, "cannot reconcile yet");
                }
                state.push_at(key.clone(), now + pause);
            }
        }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn push(&mut self, key: T) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn push_at(&mut self, key: T, at: Instant) {
        if let Some(due) = self.due.get(&key) {
            if due.0 <= at {
                return;
            }
            self.later.remove(due);
        }
        self.count += 1;
        self.due.insert(key.clone(), (at, self.count));
        self.later.insert((at, self.count), key);
    }

    fn next(&mut self, now: Instant, room: bool) -> (Option<T>, Option<Instant>) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.due.remove(&key);
            self.push(key);
        }
        let due = self.later.first_key_value().map(|(at, _)| at.0);
        if !room {
            return (None, due);
        }
        let next = self.ready.pop_front();
        if let Some(key) = &next {
            self.waiting.remove(key);
            self.running.insert(key.clone());
        }
        (next, due)
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_wishes_make_one_look() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        let looks = AtomicU32::new(0);
        for _ in 0..10 {
            queue.push("a");
        }
        let serve = queue.serve(4, &stop, |_| {
            looks.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, String>(None) }
        });
        let _timeout = tokio::time::timeout(Duration::from_secs(60), serve).await;
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_during_the_look_makes_another_and_never_two_at_once() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        let (looks, at_once) = (AtomicU32::new(0), AtomicU32::new(0));
        queue.push("a");
        let serve = queue.serve(4, &stop, |key| {
            let (queue, looks, at_once) = (&queue, &looks, &at_once);
            async move {
                assert_eq!(at_once.fetch_add(1, Ordering::Relaxed), 0);
                if looks.fetch_add(1, Ordering::Relaxed) == 0 {
                    queue.push(key);
                    queue.push(key);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                at_once.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, String>(None)
            }
        });
        let _timeout = tokio::time::timeout(Duration::from_secs(60), serve).await;
        assert_eq!(looks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_repeated_with_growing_pauses_and_stop_ends_it() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        let begin = Instant::now();
        let looks = Mutex::new(Vec::new());
        queue.push("a");
        let serve = queue.serve(1, &stop, |_| {
            looks.lock().unwrap().push(begin.elapsed().as_millis());
            let count = looks.lock().unwrap().len();
            if count == 5 {
                stop.cancel();
            }
            async { Err::<Option<Duration>, _>("no") }
        });
        serve.await;
        let looks = looks.into_inner().unwrap();
        let pauses: Vec<_> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses.len(), 4);
        assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_for_later_counts() {
        let queue = Queue::new();
        let stop = CancellationToken::new();
        let begin = Instant::now();
        queue.push_after("a", Duration::from_secs(9));
        queue.push_after("a", Duration::from_secs(3));
        queue.push_after("a", Duration::from_secs(6));
        let looks = Mutex::new(Vec::new());
        let serve = queue.serve(1, &stop, |_| {
            looks.lock().unwrap().push(begin.elapsed().as_secs());
            async { Ok::<_, String>(None) }
        });
        let _timeout = tokio::time::timeout(Duration::from_secs(60), serve).await;
        assert_eq!(looks.into_inner().unwrap(), [3]);
    }
}

//! Seats, and the queues before them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// What limits a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Its part of all seats, in relation to the parts of others.
    pub shares: usize,
    /// How much of its seats others may have while it does not need them, in percent.
    pub lendable: usize,
    /// How much more than its own it may borrow, in percent of its own; nothing for as much as there is.
    pub borrows: Option<usize>,
    /// Queues to wait in; none if nobody waits.
    pub queues: usize,
    /// So many queues are looked at for the shortest.
    pub hand: usize,
    /// So many requests fit into a queue.
    pub length: usize,
}

/// The seats of all limited levels.
pub(super) struct Gate {
    seats: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    levels: HashMap<String, Held>,
}

struct Held {
    limits: Limits,
    /// Whether it is still there, and not only for those who sit in it.
    lives: bool,
    /// Its own seats.
    nominal: usize,
    /// Those of its own that others may have.
    lends: usize,
    /// The most it may have.
    most: usize,
    taken: usize,
    queues: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The queue whose turn it is.
    next: usize,
}

/// A seat, free again when it is dropped.
pub(crate) struct Seat {
    gate: Option<Arc<Gate>>,
    level: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave(&self.level);
        }
    }
}

impl State {
    /// Whether a level may take one more seat: of its own, or of what others do not need.
    fn has_room(&self, level: &Held) -> bool {
        if level.taken < level.nominal {
            return true;
        }
        if level.taken >= level.most {
            return false;
        }
        let idle = |it: &Held| it.nominal.saturating_sub(it.taken).min(it.lends);
        let lent: usize = self.levels.values().map(|it| it.taken.saturating_sub(it.nominal)).sum();
        let free: usize = self.levels.values().map(idle).sum();
        // What is lent already was idle, too, when it was.
        free > lent
    }

    /// Gives free seats to those who wait, the queues of a level taking turns.
    fn dispatch(&mut self, gate: &Arc<Gate>) {
        let names: Vec<String> = self.levels.keys().cloned().collect();
        for name in names {
            while self.levels.get(&name).is_some_and(|level| level.waits() && self.has_room(level))
            {
                let Some(level) = self.levels.get_mut(&name) else { break };
                let Some(waiting) = level.pop() else { break };
                level.taken += 1;
                let seat = Seat { gate: Some(Arc::clone(gate)), level: name.clone() };
                if let Err(mut seat) = waiting.send(seat) {
                    // Gone meanwhile. Its drop would ask for the lock that is held here.
                    seat.gate = None;
                    level.taken -= 1;
                }
            }
        }
    }
}

impl Held {
    fn waits(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Seat>> {
        for _ in 0..self.queues.len() {
            self.next = (self.next + 1) % self.queues.len();
            if let Some(waiting) = self.queues[self.next].pop_front() {
                return Some(waiting);
            }
        }
        None
    }

    /// The shortest of the queues a flow is dealt.
    fn queue(&mut self, flow: u64) -> Option<&mut VecDeque<oneshot::Sender<Seat>>> {
        let count = self.queues.len();
        let mut rest = flow;
        let mut hand: Vec<usize> = Vec::with_capacity(self.limits.hand);
        // Dealt as cards are: no queue twice.
        for dealt in 0..self.limits.hand.clamp(1, count.max(1)).min(count) {
            let left = u64::try_from(count - dealt).unwrap_or(1);
            let mut card = usize::try_from(rest % left).unwrap_or(0);
            rest /= left;
            hand.sort_unstable();
            for taken in &hand {
                card += usize::from(card >= *taken);
            }
            hand.push(card);
        }
        let shortest = hand.into_iter().min_by_key(|card| self.queues[*card].len())?;
        let queue = &mut self.queues[shortest];
        if queue.len() >= self.limits.length {
            // Those who no longer wait take no place.
            queue.retain(|waiting| !waiting.is_closed());
        }
        (queue.len() < self.limits.length).then_some(queue)
    }
}

impl Gate {
    pub fn new(seats: usize) -> Self {
        Self { seats, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the levels to what they are to be.
    pub fn configure<'a>(&self, wanted: impl Iterator<Item = (&'a str, &'a Limits)> + Clone) {
        let mut state = self.lock();
        let mut count = 0;
        let same = wanted.clone().all(|(name, limits)| {
            count += 1;
            state.levels.get(name).is_some_and(|held| held.limits == *limits)
        });
        let living = state.levels.values().filter(|held| held.lives).count();
        if same && count == living {
            return;
        }
        let all: usize = wanted.clone().map(|(_, limits)| limits.shares).sum::<usize>().max(1);
        // Who sits in a level that is gone stays there until the end.
        for held in state.levels.values_mut() {
            (held.lives, held.nominal, held.lends, held.most) = (false, 0, 0, 0);
        }
        for (name, limits) in wanted {
            let nominal = (self.seats * limits.shares).div_ceil(all);
            let held = state.levels.entry(name.to_owned()).or_insert_with(|| Held {
                limits: limits.clone(),
                lives: true,
                nominal,
                lends: 0,
                most: 0,
                taken: 0,
                queues: Vec::new(),
                next: 0,
            });
            held.lives = true;
            held.nominal = nominal;
            held.lends = nominal * limits.lendable / 100;
            held.most =
                limits.borrows.map_or(self.seats, |percent| nominal + nominal * percent / 100);
            let old: Vec<_> = held.queues.drain(..).flatten().collect();
            held.queues.resize_with(limits.queues, VecDeque::new);
            for (index, waiting) in old.into_iter().enumerate().filter(|_| limits.queues > 0) {
                held.queues[index % limits.queues].push_back(waiting);
            }
            held.limits = limits.clone();
        }
        state.levels.retain(|_, held| held.lives || held.taken > 0);
    }

    /// A seat in a level, at once or after a while; nothing if there is none to be had.
    pub async fn seat(
        self: &Arc<Self>,
        level: &str,
        flow: u64,
        patience: Duration,
    ) -> Option<Seat> {
        let waiting = {
            let mut state = self.lock();
            let held = state.levels.get(level)?;
            if !held.waits() && state.has_room(held) {
                state.levels.get_mut(level)?.taken += 1;
                return Some(Seat { gate: Some(Arc::clone(self)), level: level.to_owned() });
            }
            let (sender, receiver) = oneshot::channel();
            state.levels.get_mut(level)?.queue(flow)?.push_back(sender);
            receiver
        };
        tokio::time::timeout(patience, waiting).await.ok()?.ok()
    }

    fn leave(self: &Arc<Self>, level: &str) {
        let mut state = self.lock();
        if let Some(held) = state.levels.get_mut(level) {
            held.taken = held.taken.saturating_sub(1);
        }
        state.dispatch(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(shares: usize, lendable: usize, queues: usize) -> Limits {
        Limits { shares, lendable, borrows: None, queues, hand: 2, length: 3 }
    }

    fn gate(levels: &[(&str, Limits)]) -> Arc<Gate> {
        let gate = Arc::new(Gate::new(10));
        gate.configure(levels.iter().map(|(name, limits)| (*name, limits)));
        gate
    }

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_level_has_its_seats_and_borrows_idle_ones() {
        let gate = gate(&[("a", limits(5, 40, 0)), ("b", limits(5, 0, 0))]);
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(gate.seat("b", 0, SOON).await.expect("five of its own and two of a's"));
        }
        assert!(gate.seat("b", 0, SOON).await.is_none(), "a lends no more");
        let own = gate.seat("a", 0, SOON).await.expect("its own are there");
        drop(own);
        held.pop();
        assert!(gate.seat("b", 0, SOON).await.is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_seat_and_queues_take_turns() {
        let gate = gate(&[("a", limits(1, 0, 8))]);
        let mut seats = Vec::new();
        for _ in 0..10 {
            seats.push(gate.seat("a", 1, SOON).await.expect("ten seats"));
        }
        let greedy: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.seat("a", 1, Duration::from_secs(5)).await })
            })
            .collect();
        while gate.lock().levels["a"].queues.iter().map(VecDeque::len).sum::<usize>() < 3 {
            tokio::task::yield_now().await;
        }
        let other = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.seat("a", 29, Duration::from_secs(5)).await })
        };
        while gate.lock().levels["a"].queues.iter().map(VecDeque::len).sum::<usize>() < 4 {
            tokio::task::yield_now().await;
        }
        // Three seats for two queues: the other flow is not last.
        seats.truncate(7);
        assert!(other.await.unwrap().is_some());
        let mut served = 0;
        drop(seats);
        for waiting in greedy {
            served += usize::from(waiting.await.unwrap().is_some());
        }
        assert_eq!(served, 3);
        assert_eq!(gate.lock().levels["a"].taken, 0);
    }

    #[tokio::test]
    async fn full_queues_refuse_and_patience_ends() {
        let gate = gate(&[("a", Limits { hand: 1, ..limits(1, 0, 1) })]);
        let mut seats = Vec::new();
        for _ in 0..10 {
            seats.push(gate.seat("a", 0, SOON).await.expect("ten seats"));
        }
        let waiting = (0..3).map(|_| gate.seat("a", 0, Duration::from_millis(200)));
        let all = futures::future::join_all(waiting);
        let refused = async {
            tokio::task::yield_now().await;
            let begin = std::time::Instant::now();
            assert!(gate.seat("a", 0, Duration::from_secs(5)).await.is_none(), "the queue is full");
            assert!(begin.elapsed() < Duration::from_millis(150));
        };
        let (all, ()) = tokio::join!(all, refused);
        assert!(all.iter().all(Option::is_none), "nobody left");
        drop(seats);
        assert!(gate.seat("a", 0, SOON).await.is_some(), "those who gave up get no seat");
        assert_eq!(gate.lock().levels["a"].taken, 0);
    }

    #[test]
    fn a_hand_has_no_queue_twice() {
        let gate = gate(&[("a", Limits { hand: 6, ..limits(1, 0, 8) })]);
        let mut state = gate.lock();
        let held = state.levels.get_mut("a").unwrap();
        held.limits.length = 1;
        for _ in 0..6 {
            let (sender, receiver) = oneshot::channel();
            held.queue(123_456_789).expect("six queues").push_back(sender);
            std::mem::forget(receiver);
        }
        assert!(held.queue(123_456_789).is_none(), "the whole hand is full");
        assert!((0..8).filter(|queue| held.queues[*queue].is_empty()).count() == 2);
    }
}

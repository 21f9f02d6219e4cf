//! The beat of tasks that look again and again.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// A beat at once and then after each period, counted from when the last was heard: who is late hears no two in a row.
#[derive(Debug)]
pub struct Rhythm {
    interval: Interval,
    stop: CancellationToken,
}

impl Rhythm {
    /// One of this period, until told to stop.
    pub fn new(period: Duration, stop: CancellationToken) -> Self {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, stop }
    }

    /// Waits for the next beat. False when there is none any more.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.interval.tick() => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_until_it_is_told_to_stop() {
        let stop = CancellationToken::new();
        let mut rhythm = Rhythm::new(Duration::from_secs(10), stop.clone());
        let begun = tokio::time::Instant::now();
        assert!(rhythm.next().await && begun.elapsed().is_zero());
        tokio::time::advance(Duration::from_secs(35)).await;
        assert!(rhythm.next().await);
        assert!(rhythm.next().await);
        assert_eq!(begun.elapsed().as_secs(), 45);
        stop.cancel();
        assert!(!rhythm.next().await);
    }
}

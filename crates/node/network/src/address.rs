//! Addresses of a node's pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// There is no free address left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {0} pod addresses of this node are in use")]
pub struct Exhausted(usize);

/// Hands out addresses of a range. An address that was given back is not handed out again before the range has gone round,
/// so that late packets of one pod do not reach another.
#[derive(Debug, Clone)]
pub struct Addresses {
    first: u32,
    count: u32,
    next: u32,
    used: BTreeSet<u32>,
}

impl Addresses {
    /// The addresses of `network`/`length` but the first (the network), the second (the gateway) and the last.
    ///
    /// # Panics
    /// With a length beyond 29: there must be something to hand out.
    #[must_use]
    pub fn new(network: Ipv4Addr, length: u8) -> Self {
        assert!(length <= 29, "a pod network has at least eight addresses");
        let size = 1_u64 << (32 - u32::from(length));
        let count = u32::try_from(size - 3).unwrap_or(u32::MAX);
        Self { first: network.to_bits() + 2, count, next: 0, used: BTreeSet::new() }
    }

    /// A free address.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn take(&mut self) -> Result<Ipv4Addr, Exhausted> {
        for step in 0..self.count {
            let candidate = self.first + (self.next + step) % self.count;
            if self.used.insert(candidate) {
                self.next = (candidate - self.first + 1) % self.count;
                return Ok(Ipv4Addr::from_bits(candidate));
            }
        }
        Err(Exhausted(self.used.len()))
    }

    /// Marks an address as used, when a running pod is found after a restart. False if it is not ours or taken.
    pub fn adopt(&mut self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        bits.checked_sub(self.first).is_some_and(|at| at < self.count) && self.used.insert(bits)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_range_is_used_up_and_reused_last() {
        let mut addresses = Addresses::new(Ipv4Addr::new(10, 42, 0, 0), 29);
        let all: Vec<String> = (0..5).map(|_| addresses.take().unwrap().to_string()).collect();
        assert_eq!(all, ["10.42.0.2", "10.42.0.3", "10.42.0.4", "10.42.0.5", "10.42.0.6"]);
        assert_eq!(addresses.take(), Err(Exhausted(5)));
        addresses.release(Ipv4Addr::new(10, 42, 0, 4));
        addresses.release(Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(addresses.take().unwrap().to_string(), "10.42.0.2");
        assert!(!addresses.adopt(Ipv4Addr::new(10, 42, 0, 3)), "taken");
        assert!(!addresses.adopt(Ipv4Addr::new(10, 42, 0, 1)), "the gateway");
        assert!(!addresses.adopt(Ipv4Addr::new(10, 42, 0, 7)), "the last");
        assert!(addresses.adopt(Ipv4Addr::new(10, 42, 0, 4)));
    }

    proptest! {
        #[test]
        fn no_address_is_ever_held_twice(steps in prop::collection::vec(any::<Option<u8>>(), 0..200)) {
            let mut addresses = Addresses::new(Ipv4Addr::new(10, 0, 0, 0), 27);
            let mut held: Vec<Ipv4Addr> = Vec::new();
            for step in steps {
                match step {
                    None => {
                        if let Ok(address) = addresses.take() {
                            prop_assert!(!held.contains(&address));
                            held.push(address);
                        } else {
                            prop_assert_eq!(held.len(), 29);
                        }
                    }
                    Some(at) if !held.is_empty() => {
                        let address = held.remove(usize::from(at) % held.len());
                        addresses.release(address);
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

//! Which events are worth an object of their own.
//!
//! A pod that fails in a loop would otherwise fill the store: what is said again counts up the first one, what is said in many
//! variants becomes one, and a pod has a budget. The bounds are those of upstream's recorder.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sameness {
    pod: String,
    kind: String,
    reason: String,
    message: String,
}

/// What is to be done about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It gets an object, with this message.
    New {
        /// The name of the object.
        name: String,
        /// What it says.
        message: String,
    },
    /// It is there already and has now been seen this often.
    Again {
        /// The name of the object.
        name: String,
        /// How often.
        count: i32,
    },
    /// The pod has said enough.
    Drop,
}

/// How many variants of an event have objects of their own, within [`WINDOW`].
const VARIANTS: u32 = 10;
const WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// How many events a pod may have at once, and after which time one more.
const BURST: u32 = 25;
const REFILL: i64 = 300;
/// Beyond this many pods or messages the old ones are forgotten.
const MOST: usize = 4096;

struct Known {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Variants {
    count: u32,
    since: Timestamp,
}

struct Budget {
    left: u32,
    refilled: Timestamp,
}

/// Remembers what was said.
#[derive(Default)]
pub struct Correlator {
    known: HashMap<Sameness, Known>,
    variants: HashMap<Sameness, Variants>,
    budgets: HashMap<String, Budget>,
}

impl Correlator {
    /// Decides about an event of the pod with this UID and name.
    pub fn decide(
        &mut self,
        (uid, pod): (&str, &str),
        (kind, reason): (&str, &str),
        message: String,
        now: Timestamp,
    ) -> Verdict {
        self.forget_old(now);
        if !self.may_speak(uid, now) {
            return Verdict::Drop;
        }
        let group = Sameness {
            pod: uid.to_owned(),
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
        };
        let mut same = Sameness { message, ..group.clone() };
        let fresh = !self.known.contains_key(&same);
        let variants = self.variants.entry(group).or_insert(Variants { count: 0, since: now });
        if now.duration_since(variants.since) > WINDOW {
            *variants = Variants { count: 0, since: now };
        }
        variants.count += u32::from(fresh);
        let message = if variants.count > VARIANTS && fresh {
            // The last variant is told; they share an object.
            let message = format!("(combined from similar events): {}", same.message);
            same.message = "(combined)".to_owned();
            message
        } else {
            same.message.clone()
        };
        match self.known.get_mut(&same) {
            Some(known) => {
                known.count = known.count.saturating_add(1);
                known.last = now;
                Verdict::Again { name: known.name.clone(), count: known.count }
            }
            None => {
                let name = name_of(pod, now);
                self.known.insert(same, Known { name: name.clone(), count: 1, last: now });
                Verdict::New { name, message }
            }
        }
    }

    /// Forgets that an object is there, after it turned out not to be.
    pub fn forget(&mut self, name: &str) {
        self.known.retain(|_, known| known.name != name);
    }

    fn may_speak(&mut self, uid: &str, now: Timestamp) -> bool {
        let budget =
            self.budgets.entry(uid.to_owned()).or_insert(Budget { left: BURST, refilled: now });
        let earned = now.duration_since(budget.refilled).as_secs() / REFILL;
        if earned > 0 {
            budget.left =
                budget.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            budget.refilled = now;
        }
        let may = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        may
    }

    fn forget_old(&mut self, now: Timestamp) {
        if self.known.len() >= MOST {
            self.known.retain(|_, known| now.duration_since(known.last) < WINDOW);
        }
        if self.variants.len() >= MOST {
            self.variants.retain(|_, known| now.duration_since(known.since) < WINDOW);
        }
        if self.budgets.len() >= MOST {
            let whole = SignedDuration::from_secs(REFILL * i64::from(BURST));
            self.budgets.retain(|_, budget| now.duration_since(budget.refilled) < whole);
        }
        // So much at once is not worth remembering in detail, and not worth looking through each time.
        if self.known.len() >= MOST {
            self.known.clear();
        }
        if self.variants.len() >= MOST {
            self.variants.clear();
        }
        if self.budgets.len() >= MOST {
            self.budgets.clear();
        }
    }
}

/// As upstream names them: unique by the time.
fn name_of(pod: &str, now: Timestamp) -> String {
    let short = &pod[..pod.floor_char_boundary(220)];
    format!("{}.{:x}", short.trim_end_matches(['-', '.']), now.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn say(correlator: &mut Correlator, message: &str, now: Timestamp) -> Verdict {
        correlator.decide(("uid", "pod"), ("Warning", "Failed"), message.to_owned(), now)
    }

    #[test]
    fn what_is_said_again_is_counted() {
        let mut correlator = Correlator::default();
        let Verdict::New { name, message } = say(&mut correlator, "no", at(0)) else {
            panic!("the first is new");
        };
        assert_eq!(message, "no");
        assert!(name.starts_with("pod."));
        let again = Verdict::Again { name: name.clone(), count: 2 };
        assert_eq!(say(&mut correlator, "no", at(1)), again);
        correlator.forget(&name);
        assert!(matches!(say(&mut correlator, "no", at(2)), Verdict::New { .. }));
    }

    #[test]
    fn many_variants_become_one() {
        let mut correlator = Correlator::default();
        for number in 0..10 {
            let said = say(&mut correlator, &format!("no {number}"), at(0));
            assert!(matches!(said, Verdict::New { .. }));
        }
        let Verdict::New { name, message } = say(&mut correlator, "no 10", at(1)) else {
            panic!("the one that stands for the others");
        };
        assert_eq!(message, "(combined from similar events): no 10");
        assert_eq!(say(&mut correlator, "no 11", at(2)), Verdict::Again { name, count: 2 });
        // Later they are told apart again.
        assert!(
            matches!(say(&mut correlator, "no 12", at(700)), Verdict::New { message, .. } if message == "no 12")
        );
    }

    #[test]
    fn a_pod_has_a_budget_and_others_have_their_own() {
        let mut correlator = Correlator::default();
        let dropped = (0..100).filter(|_| say(&mut correlator, "no", at(0)) == Verdict::Drop);
        assert_eq!(dropped.count(), 75);
        let other = correlator.decide(("2", "other"), ("Normal", "Started"), "x".to_owned(), at(0));
        assert!(matches!(other, Verdict::New { .. }));
        assert!(matches!(say(&mut correlator, "no", at(300)), Verdict::Again { .. }));
        assert_eq!(say(&mut correlator, "no", at(301)), Verdict::Drop);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for number in 0..30_000 {
            let uid = number.to_string();
            correlator.decide((&uid, "pod"), ("Normal", "Started"), uid.clone(), at(0));
        }
        let sizes = [correlator.known.len(), correlator.variants.len(), correlator.budgets.len()];
        assert!(sizes.iter().all(|size| *size <= MOST), "{sizes:?}");
    }
}

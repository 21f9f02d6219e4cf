//! How much an evaluation may still do.

use kube_cel::cel::objects::{Key, OptionalValue, Value};

/// Work left to an evaluation, in steps: visiting a part of an expression, an element of a list, or sixteen bytes of text
/// is one. A million steps take a fraction of a second.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u64,
}

/// There is no work left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exhausted;

impl Budget {
    /// What one expression may do.
    #[must_use]
    pub const fn for_call() -> Self {
        Self::of(1_000_000)
    }

    /// What expressions that belong together may do in one request: those of a kind, of a policy's binding, of a webhook.
    #[must_use]
    pub const fn for_request() -> Self {
        Self::of(10_000_000)
    }

    /// A budget of so many steps.
    #[must_use]
    pub const fn of(steps: u64) -> Self {
        Self { left: steps }
    }

    /// The steps left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Splits off what one expression may do; [`Budget::settle`] gives back what it did not use.
    #[must_use]
    pub fn split(&mut self) -> Self {
        let part = self.left.min(Self::for_call().left);
        self.left -= part;
        Self { left: part }
    }

    /// Takes back what is left of a part.
    pub fn settle(&mut self, part: &Self) {
        self.left += part.left;
    }

    /// Pays for looking at all of a JSON value, and says whether that was possible.
    pub fn pay_for(&mut self, value: &serde_json::Value) -> bool {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let steps = match value {
                serde_json::Value::String(text) => 1 + text.len() as u64 / 16,
                serde_json::Value::Array(items) => {
                    open.extend(items);
                    1
                }
                serde_json::Value::Object(fields) => {
                    open.extend(fields.values());
                    1 + fields.len() as u64
                }
                _ => 1,
            };
            if self.charge(steps).is_err() {
                return false;
            }
        }
        true
    }

    pub(crate) fn charge(&mut self, steps: u64) -> Result<(), Exhausted> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Exhausted)
            }
        }
    }
}

/// The steps it takes to visit a value. Counting ends at `most`, so that it costs no more than the work it stands for.
pub(crate) fn weight(value: &Value, most: u64) -> u64 {
    let text = |length: usize| 1 + length as u64 / 16;
    let mut sum = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        sum += match value {
            Value::String(string) => text(string.len()),
            Value::Bytes(bytes) => text(bytes.len()),
            Value::List(items) => {
                if sum + items.len() as u64 > most {
                    return most + 1;
                }
                open.extend(items.iter());
                1
            }
            Value::Map(map) => {
                if sum + map.map.len() as u64 > most {
                    return most + 1;
                }
                open.extend(map.map.values());
                let keys = map.map.keys().map(|key| match key {
                    Key::String(key) => text(key.len()),
                    Key::Int(_) | Key::Uint(_) | Key::Bool(_) => 1,
                });
                1 + keys.sum::<u64>()
            }
            Value::Opaque(opaque) => {
                open.extend(opaque.downcast_ref::<OptionalValue>().and_then(OptionalValue::value));
                1
            }
            _ => 1,
        };
        if sum > most {
            return sum;
        }
    }
    sum
}

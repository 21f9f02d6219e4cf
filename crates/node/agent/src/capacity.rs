//! What the machine has, what pods may have of it, and how both are written.

use berth_client::demand::Amounts;
use serde_json::{Map, Value};

use crate::config::total_memory;
use crate::huge_pages;
use crate::limits::{Limits, LimitsError};
use crate::settings::Settings;

/// A machine's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// All there is.
    pub whole: Amounts,
    /// What pods may have.
    pub allocatable: Amounts,
}

impl Capacity {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When more is reserved than there is.
    pub fn read(settings: &Settings) -> Result<Self, LimitsError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let disk = rustix::fs::statvfs(&settings.data)
            .map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        let amount = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let mut whole = Amounts::from([
            ("cpu".to_owned(), i64::try_from(cores).unwrap_or(1) * 1000),
            ("memory".to_owned(), total_memory()),
            ("ephemeral-storage".to_owned(), amount(disk)),
            ("pods".to_owned(), i64::from(settings.limits.pods)),
        ]);
        for (size, count) in huge_pages::present() {
            let bytes = amount(size.saturating_mul(count));
            whole.insert(huge_pages::resource(size), bytes);
        }
        let allocatable = settings.limits.allocatable(&whole)?;
        Ok(Self { whole, allocatable })
    }

    /// What the cgroup of all pods is held to.
    pub fn of_pods(&self, limits: &Limits, name: &str) -> Option<i64> {
        let kept = limits.reserved().get(name).copied().unwrap_or(0);
        self.whole.get(name).map(|whole| whole - kept)
    }
}

/// Bytes with the largest suffix that leaves nothing over: `2Mi`, `1536Ki`, `17`.
pub fn binary(bytes: u64) -> String {
    const SUFFIXES: [(&str, u32); 5] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10), ("", 0)];
    let fits = |bits: u32| bytes >= 1 << bits && bytes.trailing_zeros() >= bits;
    let (suffix, bits) = SUFFIXES.into_iter().find(|(_, bits)| fits(*bits)).unwrap_or(("", 0));
    format!("{}{suffix}", bytes >> bits)
}

/// Amounts as the API writes them.
pub fn quantities(amounts: &Amounts) -> Value {
    let text = |name: &str, amount: i64| match name {
        "cpu" if amount % 1000 == 0 => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        // In Ki, as people know it of nodes.
        "memory" | "ephemeral-storage" => format!("{}Ki", amount / 1024),
        name if name.starts_with("hugepages-") => binary(amount.try_into().unwrap_or(0)),
        _ => amount.to_string(),
    };
    let all = amounts.iter().map(|(name, amount)| (name.clone(), text(name, *amount).into()));
    Value::Object(all.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_written_as_people_know_them() {
        assert_eq!(binary(0), "0");
        assert_eq!(binary(2 << 20), "2Mi");
        assert_eq!(binary((1 << 20) + 4096), "1028Ki");
        assert_eq!(binary(1000), "1000");
        let amounts: Amounts =
            [("cpu", 1500), ("memory", 4097), ("hugepages-2Mi", 4 << 20), ("pods", 7)]
                .map(|(name, amount)| (name.to_owned(), amount))
                .into();
        let wanted = json!({"cpu": "1500m", "memory": "4Ki", "hugepages-2Mi": "4Mi", "pods": "7"});
        assert_eq!(quantities(&amounts), wanted);
    }
}

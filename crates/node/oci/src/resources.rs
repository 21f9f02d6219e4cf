//! Rules on devices that every container has besides its own.

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

/// Devices every container is given, and those its terminals are. Any node may be made, which alone opens nothing.
fn always() -> Vec<Value> {
    let node = |kind: &str| json!({"allow": true, "type": kind, "access": "m"});
    let device = |major: i64, minor: Option<i64>| {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = minor.into();
        }
        rule
    };
    let standard = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    let standard = standard.map(|(major, minor)| device(major, Some(minor)));
    [node("c"), node("b"), device(136, None)].into_iter().chain(standard).collect()
}

/// The same limits; if they speak of devices, with those that are always allowed after them.
pub(crate) fn with_devices(resources: &LinuxResources) -> LinuxResources {
    if resources.devices().as_ref().is_none_or(Vec::is_empty) {
        return resources.clone();
    }
    let mut all = resources.clone();
    let mut rules = resources.devices().clone().unwrap_or_default();
    let more = serde_json::from_value::<Vec<_>>(always().into());
    rules.extend(more.expect("the rules above are rules"));
    all.set_devices(Some(rules));
    all
}

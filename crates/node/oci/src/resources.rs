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

/// The limits of a container that is made: what its configuration does not allow of devices is forbidden, whatever its parent may use.
pub(crate) fn of_container(resources: Option<&LinuxResources>) -> LinuxResources {
    let mut all = resources.cloned().unwrap_or_default();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(all.devices().iter().flatten().map(|rule| json!(rule)));
    rules.extend(always());
    let rules = serde_json::from_value(rules.into()).expect("the rules above are rules");
    all.set_devices(Some(rules));
    all
}

/// Limits that are changed; if they speak of devices, with those that are always allowed after them.
pub(crate) fn changed(resources: &LinuxResources) -> LinuxResources {
    match resources.devices().as_ref().is_none_or(Vec::is_empty) {
        true => resources.clone(),
        false => of_container(Some(resources)),
    }
}

//! Resizing a Deployment in the middle of a roll-out: each set grows or shrinks by its share.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;

use super::observe::{DESIRED, MAXIMUM, Observed, size};
use super::plan::Step;

/// The steps to the new size. With one active set that is simply the size.
pub fn scale(observed: &Observed) -> Vec<Step> {
    let replicas = observed.replicas();
    let (surge, _) = observed.leeway();
    let active: Vec<_> = observed.sets().filter(|set| size(set) > 0).collect();
    let wanted = replicas.to_string();
    // A set of the right size is still told what it was measured against, or it would look out of date for ever.
    let step = |set: &ReplicaSet, to: i32| {
        let stale = set.annotations().get(DESIRED).is_some_and(|desired| *desired != wanted);
        let from = size(set);
        (from != to || stale).then(|| Step::Scale { set: set.name_any(), from, to })
    };
    let only = match active.as_slice() {
        [] => observed.sets().last(),
        [only] => Some(*only),
        _ => None,
    };
    if let Some(only) = only {
        return step(only, replicas).into_iter().collect();
    }
    let mut sets = active;
    let total: i32 = sets.iter().map(|set| size(set)).sum();
    let limit = if replicas > 0 { replicas + surge } else { 0 };
    let mut left = limit - total;
    // The largest first, so that what rounding leaves over weighs least; growing prefers newer, shrinking older sets.
    let newest_first = left > 0;
    if newest_first {
        sets.reverse();
    }
    sets.sort_by_key(|set| std::cmp::Reverse(size(set)));
    let mut sizes = Vec::new();
    for set in &sets {
        let has = size(set);
        let maximum = set.annotations().get(MAXIMUM).and_then(|text| text.parse::<i32>().ok());
        let before = i64::from(maximum.filter(|maximum| *maximum > 0).unwrap_or(total)).max(1);
        let wanted = (i64::from(has) * i64::from(limit) * 2 + before) / (before * 2);
        let share = i32::try_from(wanted).unwrap_or(i32::MAX) - has;
        let share = if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        let share = share.max(-has);
        left -= share;
        sizes.push(has + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    let changes = sets.iter().zip(sizes);
    changes.filter_map(|(set, to)| step(set, to)).collect()
}

//! Health checks as probes: startup until the service works for the first time, readiness from then on.
//!
//! Never liveness: Docker does not kill an unhealthy container, and a database that is slow for a minute must not be.

use serde_json::{Value, json};

use super::Subject;
use super::workload::whole_seconds;
use crate::model::{Health, HealthCheck};

/// A rollout that does not progress for this long has failed.
const DEADLINE: u64 = 120;
/// Time on top of the health check for pulling the image.
const PULLING: u64 = 60;

/// Startup and readiness.
pub(super) fn probes(subject: &Subject<'_>) -> Option<(Value, Value)> {
    // What runs to its end is never ready.
    if subject.project.runs_once(subject.key) {
        return None;
    }
    let (check, command) = effective(subject)?;
    let timeout = whole_seconds(check.timeout).max(1);
    let (period, failures) = startup(&check);
    let probe = |period: u64, failures: u64| {
        json!({
            "exec": { "command": command },
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        })
    };
    let readiness = probe(whole_seconds(check.interval).max(1), u64::from(check.retries));
    Some((probe(period, failures), readiness))
}

/// Whether the service has a health check of its own or its image's.
pub(super) fn is_checked(subject: &Subject<'_>) -> bool {
    effective(subject).is_some()
}

/// How long the rollout may take, in seconds.
pub(super) fn deadline(subject: &Subject<'_>) -> u64 {
    let startup = effective(subject).map_or(0, |(check, _)| {
        let (period, failures) = startup(&check);
        period * failures + whole_seconds(check.timeout)
    });
    DEADLINE.max(startup + PULLING)
}

/// Period and number of tries: quick ones, for as long as Docker would wait before it calls the service unhealthy.
fn startup(check: &HealthCheck) -> (u64, u64) {
    let period = check.start_interval.map_or(1, |interval| whole_seconds(interval).max(1));
    let patience = whole_seconds(check.start_period)
        + whole_seconds(check.interval).saturating_mul(u64::from(check.retries));
    (period, patience.div_ceil(period).max(1))
}

/// The service's check over the image's; the service may also change only the times.
fn effective(subject: &Subject<'_>) -> Option<(HealthCheck, Vec<String>)> {
    let image = subject.image.healthcheck.as_ref();
    let (check, command) = match &subject.service.health {
        Some(Health::Disabled) => return None,
        None => (image?, image?.command.as_ref()?),
        Some(Health::Check(check)) => {
            (check, check.command.as_ref().or_else(|| image?.command.as_ref())?)
        }
    };
    Some((check.clone(), command.clone()))
}

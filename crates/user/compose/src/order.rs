//! In which order services start.

use std::collections::HashSet;

use crate::model::Project;

/// Waves of services, by their keys: each wave needs only services of earlier ones, in the condition that
/// [`Service::depends_on`](crate::Service::depends_on) names. Everything inside a wave may start at once.
#[must_use]
pub fn order(project: &Project) -> Vec<Vec<String>> {
    let mut waves = Vec::new();
    let mut started: HashSet<&str> = HashSet::new();
    loop {
        let wave: Vec<&str> = project
            .services
            .iter()
            .filter(|(key, service)| {
                !started.contains(key.as_str())
                    && service.depends_on.keys().all(|other| {
                        started.contains(other.as_str()) || !project.services.contains_key(other)
                    })
            })
            .map(|(key, _)| key.as_str())
            .collect();
        // Loading refuses cycles, so nothing is left behind here.
        if wave.is_empty() {
            return waves;
        }
        started.extend(wave.iter().copied());
        waves.push(wave.into_iter().map(str::to_owned).collect());
    }
}

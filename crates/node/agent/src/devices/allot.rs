//! Handing devices out to the containers of a pod, and giving a container what it needs for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::warn;

use super::ledger::{Allotment, Allotments, Asked, Ids, Place};
use super::messages::ContainerAllocateResponse;
use super::{Devices, Given};

/// How long a pod waits for the devices of one that ends.
const ENDING: Duration = Duration::from_secs(30);

impl Devices {
    /// Hands out to a pod what its containers ask for; what it has already it keeps. A pod gets everything or nothing.
    ///
    /// # Errors
    /// Why it cannot have that, in the words of a kubelet.
    pub async fn allot(
        &self,
        pod: &Pod,
        is_here: impl Fn(&str) -> bool + Send,
    ) -> Result<(), String> {
        let until = Instant::now() + ENDING;
        loop {
            let mut freed = self.freed.subscribe();
            let outcome = self.try_allot(pod).await;
            // What has left the API may still have what it had for a moment.
            let going = self.holders(pod).iter().any(|uid| !is_here(uid));
            if outcome.is_ok() || !going || Instant::now() >= until {
                return outcome;
            }
            let _changed_or_late = tokio::time::timeout_at(until, freed.changed()).await;
        }
    }

    /// The pods that have what this one asks for.
    fn holders(&self, pod: &Pod) -> Vec<String> {
        let state = self.state();
        let asked = state.ledger.asked(pod);
        let resources: BTreeSet<&String> = asked.iter().map(|it| &it.resource).collect();
        let has = |uid: &String| {
            let all = state.ledger.of(uid);
            all.values().any(|it| it.keys().any(|name| resources.contains(name)))
        };
        state.ledger.pods().into_iter().filter(has).collect()
    }

    async fn try_allot(&self, pod: &Pod) -> Result<(), String> {
        let asked = self.state().ledger.asked(pod);
        if asked.is_empty() {
            return Ok(());
        }
        let _alone = self.allotting.lock().await;
        let uid = pod.uid().unwrap_or_default();
        let mut mine = self.state().ledger.of(&uid);
        let before = mine.clone();
        // What containers had that end before the others begin.
        let mut left: BTreeMap<String, Ids> = BTreeMap::new();
        for one in &asked {
            let left = left.entry(one.resource.clone()).or_default();
            let known = mine.get(&one.container).and_then(|all| all.get(&one.resource));
            let devices = match known {
                Some(known) => known.devices.clone(),
                None => {
                    let made = self.allot_one(one, &mine, left).await.map_err(|why| {
                        format!("Allocate failed due to {why}, which is unexpected")
                    })?;
                    let devices = made.devices.clone();
                    let all = mine.entry(one.container.clone()).or_default();
                    all.insert(one.resource.clone(), made);
                    devices
                }
            };
            match one.place {
                Place::Before => left.extend(devices),
                Place::Beside => left.retain(|id| !devices.contains(id)),
            }
        }
        if mine == before {
            return Ok(());
        }
        self.state().ledger.note(pod, mine);
        self.save().map_err(|error| {
            self.release(&uid);
            format!("Allocate failed due to {error}, which is unexpected")
        })
    }

    async fn allot_one(
        &self,
        asked: &Asked,
        mine: &Allotments,
        left: &Ids,
    ) -> Result<Allotment, String> {
        let (resource, count) = (&asked.resource, asked.count);
        let (plugin, must, free) = {
            let state = self.state();
            let fit = left.iter().filter(|id| state.ledger.is_fit(resource, id));
            let must: Ids = fit.take(count).cloned().collect();
            (state.plugins.get(resource).cloned(), must, state.ledger.free(resource, mine))
        };
        let short = |there: usize| {
            format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {there}"
            )
        };
        let Some(plugin) = plugin else { return Err(short(0)) };
        if must.len() + free.len() < count {
            return Err(short(must.len() + free.len()));
        }
        let mut available = free;
        available.extend(must.iter().cloned());
        let preferred = if plugin.options.preferred_allocation && must.len() < count {
            match plugin.prefer(&available, &must, count).await {
                Ok(preferred) => Some(preferred).filter(|all| all.is_subset(&available)),
                Err(why) => {
                    warn!(resource, why, "a device plugin does not say what it prefers");
                    None
                }
            }
        } else {
            None
        };
        let devices: Ids = choose(&available, &must, preferred.unwrap_or_default(), count);
        let answer = plugin.allocate(&devices).await?;
        let given = given(answer)?;
        Ok(Allotment { devices, pre_start: plugin.options.pre_start_required, given })
    }

    /// What a container needs for its devices, once their plugins know that it is about to start.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn furnish(&self, pod: &Pod, container: &str) -> Result<Given, String> {
        // A pod whose allotment an older agent did not write down gets it now.
        self.try_allot(pod).await?;
        let all = self.state().ledger.of(&pod.uid().unwrap_or_default());
        let mut given = Given::default();
        for (resource, allotment) in all.get(container).into_iter().flatten() {
            if allotment.pre_start {
                let plugin = self.state().plugins.get(resource).cloned();
                let plugin = plugin.ok_or_else(|| {
                    format!("the device plugin of {resource} is not there, and wants to be told of each start")
                })?;
                plugin.pre_start(&allotment.devices).await.map_err(|why| {
                    format!("the device plugin of {resource} does not let it start: {why}")
                })?;
            }
            given.add(allotment.given.clone());
        }
        Ok(given)
    }
}

/// So many devices: those that must be, then those preferred, then any.
fn choose(available: &Ids, must: &Ids, preferred: Ids, count: usize) -> Ids {
    let mut chosen = Ids::new();
    for id in must.iter().chain(&preferred).chain(available) {
        if chosen.len() == count {
            break;
        }
        chosen.insert(id.clone());
    }
    chosen
}

fn given(answer: ContainerAllocateResponse) -> Result<Given, String> {
    if let Some(device) = answer.cdi_devices.first() {
        return Err(format!("the CDI device `{}`, which this node does not support", device.name));
    }
    let path = |text: String, what: &str| {
        let path = PathBuf::from(&text);
        let good = path.is_absolute() && !text.contains("..");
        good.then_some(path).ok_or_else(|| format!("the {what} `{text}` that is no whole path"))
    };
    let mounts = answer.mounts.into_iter().map(|it| {
        let container = path(it.container_path, "mount")?;
        Ok((container, path(it.host_path, "mount")?, it.read_only))
    });
    let devices = answer.devices.into_iter().map(|it| {
        let container = path(it.container_path, "device")?;
        Ok((container, path(it.host_path, "device")?, it.permissions))
    });
    Ok(Given {
        variables: answer.envs,
        mounts: mounts.collect::<Result<_, String>>()?,
        devices: devices.collect::<Result<_, String>>()?,
        annotations: answer.annotations,
    })
}

#[cfg(test)]
mod tests {
    use super::super::messages::{CdiDevice, DeviceSpec, Mount};
    use super::*;

    fn ids(ids: &[&str]) -> Ids {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn devices_are_chosen_as_they_must_then_as_the_plugin_prefers() {
        let available = ids(&["a", "b", "c", "d"]);
        let choose =
            |must, preferred, count| super::choose(&available, &ids(must), ids(preferred), count);
        assert_eq!(choose(&[], &[], 2), ids(&["a", "b"]));
        assert_eq!(choose(&[], &["c", "d"], 2), ids(&["c", "d"]));
        assert_eq!(choose(&["b"], &["c", "d"], 2), ids(&["b", "c"]));
        assert_eq!(choose(&["d"], &["c"], 3), ids(&["a", "c", "d"]));
    }

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let mount = |container: &str, host: &str| Mount {
            container_path: container.to_owned(),
            host_path: host.to_owned(),
            read_only: true,
        };
        let device = DeviceSpec {
            container_path: "/dev/x".to_owned(),
            host_path: "/dev/full".to_owned(),
            permissions: "r".to_owned(),
        };
        let good = ContainerAllocateResponse {
            envs: [("A".to_owned(), "1".to_owned())].into(),
            mounts: vec![mount("/in", "/out")],
            devices: vec![device],
            ..ContainerAllocateResponse::default()
        };
        let taken = given(good.clone()).unwrap();
        assert_eq!(taken.mounts, [("/in".into(), "/out".into(), true)]);
        assert_eq!(taken.devices, [("/dev/x".into(), "/dev/full".into(), "r".to_owned())]);
        for (container, host) in [("in", "/out"), ("/in", "out"), ("/in", "/a/../b")] {
            let bad =
                ContainerAllocateResponse { mounts: vec![mount(container, host)], ..good.clone() };
            assert!(given(bad).is_err(), "{container} {host}");
        }
        let cdi = vec![CdiDevice { name: "example.com/widget=all".to_owned() }];
        let error = given(ContainerAllocateResponse { cdi_devices: cdi, ..good }).unwrap_err();
        assert!(error.contains("CDI device `example.com/widget=all`"), "{error}");
    }
}

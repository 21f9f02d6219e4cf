//! Handing devices out to the containers of a pod, and giving a container what it needs for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::warn;

use super::ledger::{Allotment, Asked, Ids, Place};
use super::messages::ContainerAllocateResponse;
use super::plugin::Plugin;
use super::{Devices, Given};

/// How long a pod waits for the devices of one that ends.
const ENDING: Duration = Duration::from_secs(30);

/// Devices that a container is to get.
struct Share {
    container: String,
    resource: String,
    devices: Ids,
    plugin: Plugin,
}

/// Why a pod does not get its devices.
enum Refusal {
    /// There are not enough; more may come.
    Short(String),
    /// They cannot be handed out.
    Failed(String),
}

/// What is kept for a pod while plugins are asked, until this is dropped.
struct Reserved<'a> {
    devices: &'a Devices,
    uid: &'a str,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.devices.state().ledger.give_back(self.uid);
        self.devices.freed.send_modify(|count| *count += 1);
    }
}

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
            // What has left the API may still have what it had for a moment, and what others are about to get they may not get.
            let waits = matches!(outcome, Err(Refusal::Short(_)))
                && (self.is_awaited(pod) || self.holders(pod).iter().any(|uid| !is_here(uid)));
            if !waits || Instant::now() >= until {
                return outcome.map_err(Refusal::told);
            }
            let _changed_or_late = tokio::time::timeout_at(until, freed.changed()).await;
        }
    }

    /// Whether plugins are asked for other pods about what this one asks for.
    fn is_awaited(&self, pod: &Pod) -> bool {
        let state = self.state();
        state.ledger.asked(pod).iter().any(|it| state.ledger.is_reserved(&it.resource))
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

    /// No lock is held while plugins are asked: one that does not answer holds up nobody who asks for nothing of it.
    async fn try_allot(&self, pod: &Pod) -> Result<(), Refusal> {
        let uid = pod.uid().unwrap_or_default();
        let (shares, _reserved) = loop {
            let shares = self.shares(pod).await?;
            if shares.is_empty() {
                return Ok(());
            }
            let mut wanted: BTreeMap<String, Ids> = BTreeMap::new();
            for share in &shares {
                wanted.entry(share.resource.clone()).or_default().extend(share.devices.clone());
            }
            // Else somebody took one of them since, or it is not healthy any more.
            if self.state().ledger.reserve(&uid, wanted) {
                break (shares, Reserved { devices: self, uid: &uid });
            }
        };
        let before = self.state().ledger.of(&uid);
        let mut mine = before.clone();
        for share in shares {
            let allocated = share.plugin.allocate(&share.devices).await.and_then(given);
            let allotment = Allotment {
                pre_start: share.plugin.options.pre_start_required,
                given: allocated.map_err(Refusal::Failed)?,
                devices: share.devices,
                boot: self.boot.clone(),
            };
            mine.entry(share.container).or_default().insert(share.resource, allotment);
        }
        self.state().ledger.note(pod, mine);
        self.save().map_err(|error| {
            // What containers of it have that run already they keep.
            self.state().ledger.note(pod, before);
            Refusal::Failed(error.to_string())
        })
    }

    /// What of the devices there are a pod is to get beside what it has of this boot. Nothing is reserved by that.
    async fn shares(&self, pod: &Pod) -> Result<Vec<Share>, Refusal> {
        let (asked, mine) = {
            let state = self.state();
            (state.ledger.asked(pod), state.ledger.of(&pod.uid().unwrap_or_default()))
        };
        let mut shares: Vec<Share> = Vec::new();
        // What containers had that end before the others begin.
        let mut left: BTreeMap<&str, Ids> = BTreeMap::new();
        for one in &asked {
            let left = left.entry(&one.resource).or_default();
            let known = mine.get(&one.container).and_then(|all| all.get(&one.resource));
            let devices = match known {
                Some(known) if known.is_of(&self.boot) => known.devices.clone(),
                _ => {
                    let before = known.map(|known| known.devices.clone()).unwrap_or_default();
                    let share = self.share(one, &shares, left, &before).await?;
                    let devices = share.devices.clone();
                    shares.push(share);
                    devices
                }
            };
            match one.place {
                Place::Before => left.extend(devices),
                Place::Beside => left.retain(|id| !devices.contains(id)),
            }
        }
        Ok(shares)
    }

    /// `left` are devices of containers that have ended by then, `before` those that it had in another boot.
    async fn share(
        &self,
        asked: &Asked,
        shares: &[Share],
        left: &Ids,
        before: &Ids,
    ) -> Result<Share, Refusal> {
        let (resource, count) = (&asked.resource, asked.count);
        let others = shares.iter().filter(|share| share.resource == *resource);
        let is_others = |id: &String| others.clone().any(|share| share.devices.contains(id));
        let (plugin, must, mut available) = {
            let state = self.state();
            let own = left.iter().chain(before.iter().filter(|id| !is_others(id)));
            let mut must = Ids::new();
            for id in own.filter(|id| state.ledger.is_fit(resource, id)) {
                if must.len() < count {
                    must.insert(id.clone());
                }
            }
            (state.plugins.get(resource).cloned(), must, state.ledger.free(resource))
        };
        available.retain(|id| !is_others(id));
        available.extend(must.iter().cloned());
        let there = if plugin.is_some() { available.len() } else { 0 };
        let Some(plugin) = plugin.filter(|_| there >= count) else {
            return Err(Refusal::Short(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {there}"
            )));
        };
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
        Ok(Share {
            container: asked.container.clone(),
            resource: resource.clone(),
            devices,
            plugin,
        })
    }

    /// What a container needs for its devices, once their plugins know that it is about to start.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn furnish(&self, pod: &Pod, container: &str) -> Result<Given, String> {
        // A pod whose allotment an older agent did not write down gets it now.
        self.try_allot(pod).await.map_err(Refusal::told)?;
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

impl Refusal {
    /// In the words of a kubelet.
    fn told(self) -> String {
        let (Self::Short(why) | Self::Failed(why)) = self;
        format!("Allocate failed due to {why}, which is unexpected")
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
    use serde_json::json;

    use super::super::fake::{Fake, devices};
    use super::super::messages::{CdiDevice, DeviceSpec, Mount};
    use super::*;

    const SLOW: &str = "example.com/slow";
    const QUICK: &str = "example.com/quick";

    fn pod(uid: &str, resources: &[&str]) -> Pod {
        let container = |resource: &&str| {
            let name = resource.rsplit('/').next().unwrap();
            json!({"name": name, "resources": {"limits": {*resource: "1"}}})
        };
        let containers: Vec<_> = resources.iter().map(container).collect();
        serde_json::from_value(
            json!({"metadata": {"uid": uid}, "spec": {"containers": containers}}),
        )
        .unwrap()
    }

    fn has(devices: &Devices, uid: &str) -> Vec<(String, Ids)> {
        let all = devices.state().ledger.of(uid);
        let resources = all.into_values().flatten();
        resources.map(|(resource, allotment)| (resource, allotment.devices)).collect()
    }

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

    #[tokio::test]
    async fn a_plugin_that_does_not_answer_holds_up_only_who_asks_it() {
        let folder = tempfile::tempdir().unwrap();
        let devices = devices(folder.path(), "now");
        let slow = Fake::start(&devices, folder.path(), SLOW, &["a", "b"]).await;
        let _quick = Fake::start(&devices, folder.path(), QUICK, &["x", "y"]).await;
        let (held, known) = (pod("held", &[SLOW, QUICK]), pod("known", &[SLOW, QUICK]));
        devices.allot(&known, |_| true).await.unwrap();
        slow.hold();
        let waiting = {
            let devices = devices.clone();
            tokio::spawn(async move { devices.allot(&held, |_| true).await })
        };
        slow.asked(2).await;

        // One that has its devices is started again, also with those of this plugin.
        let given = devices.furnish(&known, "slow").await.unwrap();
        assert_eq!(given.variables["IDS"], "a");
        // One that asks others gets them, but not what the waiting one is about to get.
        let told = devices.furnish(&pod("late", &[QUICK]), "quick").await.unwrap_err();
        assert!(told.contains("Requested: 1, Available: 0"), "{told}");
        devices.release("known");
        devices.furnish(&pod("late", &[QUICK]), "quick").await.unwrap();
        assert_eq!(has(&devices, "late"), [(QUICK.to_owned(), ids(&["x"]))]);
        assert!(has(&devices, "held").is_empty());

        slow.go_on();
        waiting.await.unwrap().unwrap();
        let wanted = [(QUICK.to_owned(), ids(&["y"])), (SLOW.to_owned(), ids(&["b"]))];
        assert_eq!(has(&devices, "held"), wanted);
    }

    #[tokio::test]
    async fn what_a_plugin_refuses_to_one_pod_goes_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let devices = devices(folder.path(), "now");
        let slow = Fake::start(&devices, folder.path(), SLOW, &["a"]).await;
        slow.hold();
        let allot = |uid: &str| {
            let (devices, pod) = (devices.clone(), pod(uid, &[SLOW]));
            tokio::spawn(async move { devices.allot(&pod, |_| true).await })
        };
        let first = allot("first");
        slow.asked(1).await;
        // There is none left for it, and it is not refused yet.
        let second = allot("second");
        tokio::task::yield_now().await;
        let short = devices.furnish(&pod("third", &[SLOW]), "slow").await.unwrap_err();
        assert!(short.contains("Available: 0"), "{short}");
        slow.refuse_next();
        let refused = first.await.unwrap().unwrap_err();
        assert!(refused.contains("not this one"), "{refused}");
        second.await.unwrap().unwrap();
        assert_eq!(has(&devices, "second"), [(SLOW.to_owned(), ids(&["a"]))]);
        assert!(has(&devices, "first").is_empty());
        assert!(!devices.state().ledger.is_reserved(SLOW));
    }

    #[tokio::test]
    async fn after_a_reboot_plugins_are_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (pod("one", &[QUICK]), pod("two", &[QUICK]));
        let before = devices(folder.path(), "before");
        let _plugin = Fake::start(&before, folder.path(), QUICK, &["x", "y"]).await;
        before.allot(&one, |_| true).await.unwrap();
        before.allot(&two, |_| true).await.unwrap();
        // Another agent in the same boot needs no plugin.
        let same = devices(folder.path(), "before");
        assert_eq!(same.furnish(&one, "quick").await.unwrap().variables["IDS"], "x");

        let after = devices(folder.path(), "after");
        let told = after.furnish(&one, "quick").await.unwrap_err();
        assert!(told.contains("Available: 0"), "{told}");
        // It lists another device in place of the first one now.
        let plugin = Fake::start(&after, folder.path(), QUICK, &["y", "z"]).await;
        assert_eq!(after.furnish(&one, "quick").await.unwrap().variables["IDS"], "z");
        assert_eq!(after.furnish(&two, "quick").await.unwrap().variables["IDS"], "y");
        plugin.asked(2).await;
        // What was asked for again is good for this boot, for another agent, too.
        let again = devices(folder.path(), "after");
        assert_eq!(again.furnish(&one, "quick").await.unwrap().variables["IDS"], "z");
        assert_eq!(plugin.count(), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_handed_out_and_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let devices = devices(folder.path(), "now");
        let _quick = Fake::start(&devices, folder.path(), QUICK, &["x"]).await;
        let _slow = Fake::start(&devices, folder.path(), SLOW, &["a"]).await;
        devices.allot(&pod("one", &[QUICK]), |_| true).await.unwrap();
        let draft = folder.path().join("devices.json.new");
        std::fs::create_dir(&draft).unwrap();
        for more in [pod("one", &[QUICK, SLOW]), pod("two", &[SLOW])] {
            let told = devices.furnish(&more, "slow").await.unwrap_err();
            assert!(told.contains("directory"), "{told}");
        }
        assert_eq!(has(&devices, "one"), [(QUICK.to_owned(), ids(&["x"]))]);
        assert_eq!(devices.state().ledger.pods(), ["one"]);
        std::fs::remove_dir(&draft).unwrap();
        devices.furnish(&pod("two", &[SLOW]), "slow").await.unwrap();
        assert_eq!(has(&devices, "two"), [(SLOW.to_owned(), ids(&["a"]))]);
    }
}

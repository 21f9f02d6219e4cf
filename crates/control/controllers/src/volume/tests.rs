use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::super::observe::Observed;
use super::*;

fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
    let mut volume = json!({
        "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
        },
    });
    volume["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(volume).unwrap())
}

fn observed() -> Observed {
    let claim = json!({
        "metadata": { "name": "data", "namespace": "shop", "uid": "u1" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": { "requests": { "storage": "2Gi" } },
        },
        "status": { "phase": "Pending" },
    });
    let class = json!({ "metadata": { "name": "local" }, "provisioner": PROVISIONER });
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
    Observed {
        claim: Arc::new(serde_json::from_value(claim).unwrap()),
        used: false,
        class: Some(Arc::new(serde_json::from_value(class).unwrap())),
        class_name: "local".into(),
        volumes: Vec::new(),
        node: Some(Arc::new(node)),
        root: "/var/lib/berth/volumes".into(),
    }
}

fn text(observed: &Observed) -> String {
    plan(observed).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn carry_out(observed: &mut Observed, step: Step) {
    let mut claim = observed.claim.as_ref().clone();
    let reference = json!({ "namespace": "shop", "name": "data", "uid": "u1" });
    match step {
        Step::Protect => claim.finalizers_mut().push(PROTECTION.into()),
        Step::Unprotect => claim.finalizers_mut().retain(|name| name != PROTECTION),
        Step::Provision { volume: name, .. } => {
            if !observed.volumes.iter().any(|known| known.name_any() == name) {
                observed.volumes.push(volume(&name, "2Gi", json!({ "claimRef": reference })));
            }
        }
        Step::Reserve { volume: name } => {
            let reference: k8s_openapi::api::core::v1::ObjectReference =
                serde_json::from_value(reference).unwrap();
            for volume in observed.volumes.iter_mut().filter(|volume| volume.name_any() == name) {
                Arc::make_mut(volume).spec.as_mut().unwrap().claim_ref = Some(reference.clone());
            }
        }
        Step::Bind { volume } => claim.spec.as_mut().unwrap().volume_name = Some(volume),
        Step::Phase(phase) => claim.status.as_mut().unwrap().phase = Some(phase.into()),
    }
    observed.claim = Arc::new(claim);
}

#[test]
fn a_claim_is_given_a_directory_of_its_own() {
    assert_eq!(
        text(&observed()),
        "protect\nprovision pvc-u1 on a at /var/lib/berth/volumes/shop_data_u1\nbind to pvc-u1\nsay Bound"
    );
}

#[test]
fn a_volume_that_will_do_is_preferred_and_the_smallest_of_them() {
    let mut observed = observed();
    observed.volumes = vec![
        volume("big", "9Gi", json!({})),
        volume("small", "1Gi", json!({})),
        volume("right", "3Gi", json!({})),
        volume("read", "2Gi", json!({ "accessModes": ["ReadOnlyMany"] })),
        volume("other", "2Gi", json!({ "storageClassName": "slow" })),
        volume(
            "taken",
            "2Gi",
            json!({ "claimRef": { "namespace": "x", "name": "y", "uid": "z" } }),
        ),
    ];
    assert_eq!(text(&observed), "protect\nreserve right\nbind to right\nsay Bound");
    let kept = json!({ "claimRef": { "namespace": "shop", "name": "data" } });
    observed.volumes.push(volume("kept", "8Gi", kept));
    assert_eq!(text(&observed), "protect\nreserve kept\nbind to kept\nsay Bound");
}

#[test]
fn a_device_is_bound_to_who_wants_one_and_never_provisioned() {
    let mut observed = observed();
    let device = json!({ "volumeMode": "Block" });
    observed.volumes = vec![volume("device", "2Gi", device.clone())];
    assert!(text(&observed).contains("provision"), "it wants a file system");
    let mut claim = observed.claim.as_ref().clone();
    claim.spec.as_mut().unwrap().volume_mode = Some("Block".to_owned());
    observed.claim = Arc::new(claim.clone());
    assert_eq!(text(&observed), "protect\nreserve device\nbind to device\nsay Bound");
    observed.volumes = vec![volume("files", "2Gi", json!({ "volumeMode": "Filesystem" }))];
    assert_eq!(text(&observed), "protect");
    // Also not if it is asked for by name.
    for (name, wanted) in [("files", "protect"), ("device", "protect\nreserve device\nsay Bound")] {
        observed.volumes =
            vec![volume("files", "2Gi", json!({})), volume("device", "2Gi", device.clone())];
        claim.spec.as_mut().unwrap().volume_name = Some(name.to_owned());
        observed.claim = Arc::new(claim.clone());
        assert_eq!(text(&observed), wanted);
    }
}

#[test]
fn waits_without_a_node_or_with_a_foreign_class() {
    let mut observed = observed();
    observed.node = None;
    assert_eq!(text(&observed), "protect");
    observed.class = None;
    assert_eq!(text(&observed), "protect");
}

#[test]
fn a_claim_goes_when_no_pod_uses_it() {
    let mut observed = observed();
    let mut claim = observed.claim.as_ref().clone();
    claim.finalizers_mut().push(PROTECTION.into());
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    claim.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    observed.claim = Arc::new(claim);
    observed.used = true;
    assert_eq!(text(&observed), "");
    observed.used = false;
    assert_eq!(text(&observed), "unprotect");
    carry_out(&mut observed, Step::Unprotect);
    assert_eq!(text(&observed), "");
}

#[test]
fn a_claim_whose_volume_is_gone_is_lost() {
    let mut observed = observed();
    for step in plan(&observed) {
        carry_out(&mut observed, step);
    }
    observed.volumes.clear();
    assert_eq!(text(&observed), "say Lost");
}

#[test]
fn stopping_after_any_step_reaches_the_same_end() {
    for volumes in [vec![], vec![volume("right", "3Gi", json!({}))]] {
        for stop in 0..=4 {
            let mut observed = observed();
            observed.volumes = volumes.clone();
            for step in plan(&observed).into_iter().take(stop) {
                carry_out(&mut observed, step);
            }
            for step in plan(&observed) {
                carry_out(&mut observed, step);
            }
            assert_eq!(text(&observed), "", "stopped after {stop}");
            assert_eq!(observed.volumes.len(), 1);
            let phase = observed.claim.status.as_ref().unwrap().phase.clone();
            assert_eq!(phase.as_deref(), Some("Bound"));
        }
    }
}

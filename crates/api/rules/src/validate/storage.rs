//! Validation of volumes, claims, and the kinds of storage drivers.

use berth_objects::{FieldError, Object, Quantity};
use serde_json::Value;

use super::{Errors, Place, immutable, names, quantity};

const MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

pub(crate) fn create(kind: &str, object: &Value, errors: &mut Errors) {
    let root = Place::root(object);
    let spec = root.field("spec");
    match kind {
        "StorageClass" => {
            root.field("provisioner").required(errors);
            root.field("reclaimPolicy").one_of(&["Delete", "Retain"], errors);
            root.field("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"], errors);
        }
        "VolumeAttachment" => {
            spec.field("attacher").required(errors);
            spec.field("nodeName").required(errors);
            let source = spec.field("source");
            let (inline, name) =
                (source.field("inlineVolumeSpec"), source.field("persistentVolumeName"));
            match (inline.value.is_null(), name.is_empty()) {
                (true, true) => {
                    let why =
                        "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                    errors.push(FieldError::required(&source.path, why));
                }
                (false, false) => {
                    let why =
                        "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                    errors.push(FieldError::forbidden(&source.path, why));
                }
                _ => {}
            }
        }
        "CSIDriver" => {
            driver_name(&root.field("metadata").field("name"), errors);
            let policies = ["File", "None", "ReadWriteOnceWithFSType"];
            spec.field("fsGroupPolicy").one_of(&policies, errors);
            for mode in spec.field("volumeLifecycleModes").items() {
                mode.one_of(&["Ephemeral", "Persistent"], errors);
            }
            let tokens = spec.field("tokenRequests");
            tokens.unique("audience", errors);
        }
        "CSINode" => {
            for driver in spec.field("drivers").items() {
                driver_name(&driver.field("name"), errors);
                driver.field("nodeID").required(errors);
                driver.field("allocatable").field("count").not_negative(errors);
            }
            spec.field("drivers").unique("name", errors);
        }
        "CSIStorageCapacity" => {
            root.field("storageClassName").required(errors);
            for field in ["capacity", "maximumVolumeSize"] {
                let amount = root.field(field);
                if !amount.is_empty() {
                    quantity(&amount, errors);
                }
            }
        }
        "VolumeAttributesClass" => driver_name(&root.field("driverName"), errors),
        _ => {}
    }
}

fn driver_name(name: &Place<'_>, errors: &mut Errors) {
    const LONGEST: usize = 63;
    if !name.required(errors) {
        return;
    }
    if name.text().len() > LONGEST {
        errors.push(FieldError::too_long(&name.path, LONGEST));
    }
    if !names::is_subdomain(&name.text().to_lowercase()) {
        names::subdomain(name, errors);
    }
}

pub(crate) fn update(kind: &str, object: &Value, old: &Value, errors: &mut Errors) {
    let paths: &[&[&str]] = match kind {
        "StorageClass" => {
            &[&["parameters"], &["provisioner"], &["reclaimPolicy"], &["volumeBindingMode"]]
        }
        "VolumeAttachment" => &[&["spec"]],
        "CSIDriver" => &[&["spec", "attachRequired"], &["spec", "volumeLifecycleModes"]],
        "CSIStorageCapacity" => &[&["nodeTopology"], &["storageClassName"]],
        "VolumeAttributesClass" => &[&["driverName"], &["parameters"]],
        _ => &[],
    };
    for path in paths {
        immutable(object, old, path, errors);
    }
    if kind == "CSINode" {
        // A driver may come and go; what it says of itself stands as long as it is there.
        let before = old.list(&["spec", "drivers"]);
        for driver in Place::root(object).field("spec").field("drivers").items() {
            let name = driver.value.text(&["name"]);
            let same = before.iter().find(|known| known.text(&["name"]) == name);
            if same.is_some_and(|same| same.text(&["nodeID"]) != driver.value.text(&["nodeID"])) {
                driver.invalid("field is immutable", errors);
            }
        }
    }
}

pub(crate) fn claim(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    claim_spec(&spec, errors);
}

pub(crate) fn claim_spec(spec: &Place<'_>, errors: &mut Errors) {
    if spec.field("accessModes").required(errors) {
        spec.field("accessModes").items().for_each(|mode| mode.one_of(MODES, errors));
    }
    let storage = spec.field("resources").field("requests").field("storage");
    if storage.required(errors) && quantity(&storage, errors) == Some(Quantity::ZERO) {
        storage.invalid("must be greater than zero", errors);
    }
    spec.field("volumeMode").one_of(&["Block", "Filesystem"], errors);
}

pub(crate) fn claim_update(object: &Value, old: &Value, errors: &mut Errors) {
    const REQUEST: [&str; 4] = ["spec", "resources", "requests", "storage"];
    let amount = |claim: &Value, path: &[&str]| claim.text(path).parse::<Quantity>().ok();
    let (new, before) = (amount(object, &REQUEST), amount(old, &REQUEST));
    // A request in other words is the same request.
    let kept = new.is_some() && new == before;
    let bound = old.text(&["status", "phase"]) == "Bound";
    let mask = |claim: &Value| {
        let mut spec = claim.get("spec").cloned().unwrap_or_default();
        if bound {
            spec.unset(&["volumeAttributesClassName"]);
        }
        if bound || kept {
            spec.unset(&REQUEST[1..]);
        }
        if old.text(&["spec", "volumeName"]).is_empty() {
            spec.unset(&["volumeName"]);
        }
        if old.at(&["spec", "storageClassName"]).is_none() {
            spec.unset(&["storageClassName"]);
        }
        spec
    };
    if mask(object) != mask(old) {
        let why = "spec is immutable after creation except resources.requests and \
                   volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", why));
    }
    // Who asked for more than can be had may ask for less again; nothing takes back what was given.
    let given = amount(old, &["status", "capacity", "storage"]).unwrap_or(Quantity::ZERO);
    if let (Some(new), Some(before)) = (new, before)
        && new < before
        && new <= given
    {
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&REQUEST.join("."), why));
    }
}

pub(crate) fn volume(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    if spec.field("accessModes").required(errors) {
        spec.field("accessModes").items().for_each(|mode| mode.one_of(MODES, errors));
    }
    if spec.field("capacity").required(errors) {
        let storage = spec.field("capacity").field("storage");
        if storage.required(errors) {
            quantity(&storage, errors);
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    policy.one_of(&["Delete", "Recycle", "Retain"], errors);
}

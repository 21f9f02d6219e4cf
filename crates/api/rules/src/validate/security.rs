//! Validation of what a pod and its containers may do on their node.

use berth_objects::FieldError;
use serde_json::Value;

use super::{Errors, Place};

fn id(place: &Place<'_>, errors: &mut Errors) {
    let largest = i64::from(i32::MAX);
    if place.value.as_i64().is_some_and(|number| !(0..=largest).contains(&number)) {
        place.invalid("must be between 0 and 2147483647, inclusive", errors);
    }
}

pub(crate) fn pod(context: &Place<'_>, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context.field(field), errors);
    }
    context.field("supplementalGroups").items().for_each(|group| id(&group, errors));
    context.field("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"], errors);
    context.field("supplementalGroupsPolicy").one_of(&["Merge", "Strict"], errors);
    let sysctls = context.field("sysctls");
    sysctls.unique("name", errors);
    for sysctl in sysctls.items() {
        let name = sysctl.field("name");
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if name.required(errors) && !name.text().bytes().all(inner) {
            name.invalid("must be the name of a kernel parameter", errors);
        }
    }
    profiles(context, errors);
}

pub(crate) fn container(context: &Place<'_>, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&context.field(field), errors);
    }
    context.field("procMount").one_of(&["Default", "Unmasked"], errors);
    let is = |field: &str, wanted: bool| context.field(field).value == &Value::Bool(wanted);
    if is("allowPrivilegeEscalation", false) {
        if is("privileged", true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            context.invalid(why, errors);
        }
        let added = context.field("capabilities").field("add");
        if added.items().any(|one| matches!(one.text(), "SYS_ADMIN" | "CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                       CAP_SYS_ADMIN";
            context.invalid(why, errors);
        }
    }
    profiles(context, errors);
}

fn profiles(context: &Place<'_>, errors: &mut Errors) {
    for (field, word) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = context.field(field);
        if profile.value.is_null() {
            continue;
        }
        let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
        if kind.required(errors) {
            kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"], errors);
        }
        match (kind.text() == "Localhost", local.is_empty()) {
            (true, true) => {
                let why = format!("must be set when {word} type is Localhost");
                errors.push(FieldError::required(&local.path, &why));
            }
            (false, false) => {
                local.invalid(format!("can only be set when {word} type is Localhost"), errors);
            }
            _ => {}
        }
    }
}

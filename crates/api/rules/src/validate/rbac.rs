//! Roles, bindings, and requests for certificates.

use berth_objects::{FieldError, Object, Resource};
use serde_json::{Value, json};

use super::{Errors, Place};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Names of roles and bindings may be anything that can stand in a path: `system:controller:x`.
pub(super) fn name(place: &Place<'_>, errors: &mut Errors) {
    let text = place.text();
    if matches!(text, "." | "..") {
        place.invalid(format!("may not be '{text}'"), errors);
    }
    for letter in ["/", "%"] {
        if text.contains(letter) {
            place.invalid(format!("may not contain '{letter}'"), errors);
        }
    }
}

pub(super) fn create(resource: &Resource, object: &Value, errors: &mut Errors) {
    let root = Place::root(object);
    match resource.kind {
        "Role" | "ClusterRole" => {
            for rule in root.field("rules").items() {
                self::rule(resource.namespaced(), &rule, errors);
            }
            let selectors = root.field("aggregationRule").field("clusterRoleSelectors");
            if !root.field("aggregationRule").value.is_null() && selectors.is_empty() {
                let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(&selectors.path, why));
            }
            for selector in selectors.items() {
                if let Err(error) = berth_objects::LabelSelector::from_object(Some(selector.value))
                {
                    selector.invalid(error.to_string(), errors);
                }
            }
        }
        _ => binding(resource, &root, errors),
    }
}

fn rule(namespaced: bool, rule: &Place<'_>, errors: &mut Errors) {
    let verbs = rule.field("verbs");
    if verbs.is_empty() {
        errors.push(FieldError::required(&verbs.path, "verbs must contain at least one value"));
    }
    let urls = rule.field("nonResourceURLs");
    let (groups, resources) = (rule.field("apiGroups"), rule.field("resources"));
    if !urls.is_empty() {
        if namespaced {
            urls.invalid("namespaced rules cannot apply to non-resource URLs", errors);
        }
        let others = [&groups, &resources, &rule.field("resourceNames")];
        if others.into_iter().any(|other| !other.is_empty()) {
            urls.invalid(
                "rules cannot apply to both regular resources and non-resource URLs",
                errors,
            );
        }
        return;
    }
    if groups.is_empty() {
        let why = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&groups.path, why));
    }
    if resources.is_empty() {
        let why = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&resources.path, why));
    }
}

fn binding(resource: &Resource, root: &Place<'_>, errors: &mut Errors) {
    let role = root.field("roleRef");
    role.field("apiGroup").one_of(&[GROUP], errors);
    let kinds: &[&str] =
        if resource.namespaced() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if role.field("kind").required(errors) {
        role.field("kind").one_of(kinds, errors);
    }
    if role.field("name").required(errors) {
        name(&role.field("name"), errors);
    }
    for subject in root.field("subjects").items() {
        subject.field("name").required(errors);
        let group = subject.field("apiGroup");
        match subject.field("kind").text() {
            "ServiceAccount" => {
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(&group.path, group.value, &[""]));
                }
                if !resource.namespaced() {
                    subject.field("namespace").required(errors);
                }
            }
            "User" | "Group" => group.one_of(&[GROUP], errors),
            _ => {
                let kind = subject.field("kind");
                let words = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(&kind.path, kind.value, &words));
            }
        }
    }
}

pub(super) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    if object.get("roleRef") != old.get("roleRef") {
        let value = object.get("roleRef").unwrap_or(&Value::Null);
        errors.push(FieldError::invalid("roleRef", value, "cannot change roleRef"));
    }
}

/// Fills in the groups of what bindings speak of.
pub(crate) fn defaults(object: &mut Value) {
    if object.get("roleRef").is_some_and(Value::is_object)
        && object.text(&["roleRef", "apiGroup"]).is_empty()
    {
        object.set(&["roleRef", "apiGroup"], GROUP);
    }
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        let person = matches!(subject.text(&["kind"]), "User" | "Group");
        if person && subject.text(&["apiGroup"]).is_empty() {
            subject.set(&["apiGroup"], GROUP);
        }
    }
}

const USAGES: &[&str] = &[
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

/// A request for a certificate.
pub(super) fn signing_request(object: &Value, errors: &mut Errors) {
    let spec = Place::root(object).field("spec");
    let usages = spec.field("usages");
    if usages.required(errors) {
        usages.items().for_each(|usage| usage.one_of(USAGES, errors));
    }
    let signer = spec.field("signerName");
    if signer.required(errors) {
        let fits = signer.text().split_once('/').is_some_and(|(domain, path)| {
            domain.contains('.') && !path.is_empty() && signer.text().len() <= 571
        });
        if !fits {
            signer.invalid(
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
                errors,
            );
        }
    }
    let lifetime = spec.field("expirationSeconds");
    if lifetime.value.as_i64().is_some_and(|seconds| seconds < 600) {
        lifetime.invalid("may not specify a duration less than 600 seconds (10 minutes)", errors);
    }
    spec.field("request").required(errors);
}

/// What may not change of a request: what was asked, and a decision once it was made.
pub(super) fn signing_request_update(object: &Value, old: &Value, errors: &mut Errors) {
    if object.get("spec") != old.get("spec") {
        errors.push(FieldError::invalid("spec", &json!({}), "field is immutable"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn judge(plural: &str, object: Value) -> Vec<String> {
        let resource = crate::find(super::GROUP, "v1", plural).unwrap();
        let errors = crate::validate(resource, &object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn roles_and_bindings_may_have_names_with_colons_but_not_paths() {
        let role = |name: &str| {
            json!({"metadata": {"name": name}, "rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
        };
        assert!(judge("clusterroles", role("system:a:b")).is_empty());
        assert_eq!(judge("clusterroles", role("a/b")).len(), 1);
    }

    #[test]
    fn a_rule_is_about_resources_or_about_paths() {
        let role =
            |rule: Value| json!({"metadata": {"name": "r", "namespace": "n"}, "rules": [rule]});
        let errors = judge("roles", role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})));
        assert!(errors[0].contains("namespaced rules cannot apply"), "{errors:?}");
        let errors = judge("clusterroles", role(json!({"verbs": [], "resources": ["pods"]})));
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn a_binding_names_a_role_and_known_kinds_of_subjects() {
        let binding = |kind: &str, subject: Value| {
            json!({"metadata": {"name": "b", "namespace": "n"}, "subjects": [subject],
                "roleRef": {"apiGroup": super::GROUP, "kind": kind, "name": "r"}})
        };
        let user = json!({"kind": "User", "name": "ann", "apiGroup": super::GROUP});
        assert!(judge("rolebindings", binding("Role", user.clone())).is_empty());
        assert_eq!(judge("clusterrolebindings", binding("Role", user)).len(), 1);
        let other = json!({"kind": "Robot", "name": "x"});
        assert_eq!(judge("rolebindings", binding("Role", other)).len(), 1);
        let account = json!({"kind": "ServiceAccount", "name": "x"});
        assert_eq!(judge("clusterrolebindings", binding("ClusterRole", account)).len(), 1);
    }
}

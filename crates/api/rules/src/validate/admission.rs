//! Validation of the configuration of admission.

use berth_objects::{FieldError, LabelSelector};
use serde_json::Value;

use super::{Errors, Place, names};

pub(crate) fn create(kind: &str, object: &Value, errors: &mut Errors) {
    let root = Place::root(object);
    match kind {
        "ValidatingAdmissionPolicy" => {
            validations(&root.field("spec"), errors);
            policy(&root.field("spec"), errors);
        }
        "MutatingAdmissionPolicy" => {
            mutations(&root.field("spec"), errors);
            policy(&root.field("spec"), errors);
        }
        "ValidatingAdmissionPolicyBinding" => {
            actions(&root.field("spec"), errors);
            binding(&root.field("spec"), errors);
        }
        "MutatingAdmissionPolicyBinding" => binding(&root.field("spec"), errors),
        _ => {
            root.field("webhooks").unique("name", errors);
            for webhook in root.field("webhooks").items() {
                self::webhook(&webhook, errors);
                webhook.field("reinvocationPolicy").one_of(&["IfNeeded", "Never"], errors);
            }
        }
    }
}

fn webhook(webhook: &Place<'_>, errors: &mut Errors) {
    let name = webhook.field("name");
    if name.required(errors) {
        if !names::is_subdomain(name.text()) {
            names::subdomain(&name, errors);
        } else if name.text().split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            name.invalid(why, errors);
        }
    }
    let versions = webhook.field("admissionReviewVersions");
    if versions.required(errors)
        && !versions.items().any(|version| ["v1", "v1beta1"].contains(&version.text()))
    {
        let why = "must include at least one of v1, v1beta1";
        versions.invalid(why, errors);
    }
    let effects = webhook.field("sideEffects");
    if effects.required(errors) {
        effects.one_of(&["None", "NoneOnDryRun"], errors);
    }
    webhook.field("failurePolicy").one_of(&["Fail", "Ignore"], errors);
    webhook.field("matchPolicy").one_of(&["Equivalent", "Exact"], errors);
    let timeout = webhook.field("timeoutSeconds");
    if timeout.value.as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        timeout.invalid("the timeout value must be between 1 and 30 seconds", errors);
    }
    selectors(webhook, errors);
    client(&webhook.field("clientConfig"), errors);
    webhook.field("rules").items().for_each(|rule| self::rule(&rule, errors));
    conditions(webhook, errors);
}

fn selectors(place: &Place<'_>, errors: &mut Errors) {
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = place.field(field);
        if let Err(error) = LabelSelector::from_object(Some(selector.value)) {
            selector.invalid(error.to_string(), errors);
        }
    }
}

fn conditions(place: &Place<'_>, errors: &mut Errors) {
    let conditions = place.field("matchConditions");
    conditions.unique("name", errors);
    for condition in conditions.items() {
        condition.field("name").required(errors);
        condition.field("expression").required(errors);
    }
}

fn client(client: &Place<'_>, errors: &mut Errors) {
    let (url, service) = (client.field("url"), client.field("service"));
    if url.is_empty() == service.value.is_null() {
        let why = "exactly one of url or service is required";
        errors.push(FieldError::required(&client.path, why));
        return;
    }
    if url.is_empty() {
        service.field("name").required(errors);
        service.field("namespace").required(errors);
        service.field("port").port(errors);
    } else if !url.text().starts_with("https://") {
        url.invalid(
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
            errors,
        );
    }
}

fn rule(rule: &Place<'_>, errors: &mut Errors) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let operations = rule.field("operations");
    operations.required(errors);
    for operation in operations.items() {
        operation.one_of(&OPERATIONS, errors);
    }
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let list = rule.field(field);
        if field != "operations" {
            list.required(errors);
        }
        // One star says it all; for resources, `*/*` and `*/part` have a meaning of their own.
        if list.items().count() > 1 && list.items().any(|item| item.text() == "*") {
            let why = "if '*' is present, must not specify other values";
            if field != "resources" {
                list.invalid(why, errors);
            }
        }
    }
    rule.field("scope").one_of(&["*", "Cluster", "Namespaced"], errors);
}

fn resources(place: &Place<'_>, needs_rules: bool, errors: &mut Errors) {
    let rules = place.field("resourceRules");
    if needs_rules {
        rules.required(errors);
    }
    for list in [rules, place.field("excludeResourceRules")] {
        list.items().for_each(|rule| self::rule(&rule, errors));
    }
    place.field("matchPolicy").one_of(&["Equivalent", "Exact"], errors);
    selectors(place, errors);
}

fn validations(spec: &Place<'_>, errors: &mut Errors) {
    let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&validations.path, why));
    }
    for validation in validations.items() {
        validation.field("expression").required(errors);
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
        validation.field("reason").one_of(&reasons, errors);
    }
    for annotation in annotations.items() {
        annotation.field("key").required(errors);
        annotation.field("valueExpression").required(errors);
    }
}

fn mutations(spec: &Place<'_>, errors: &mut Errors) {
    let mutations = spec.field("mutations");
    mutations.required(errors);
    for mutation in mutations.items() {
        let kind = mutation.field("patchType");
        if kind.required(errors) {
            kind.one_of(&["ApplyConfiguration", "JSONPatch"], errors);
        }
        for (name, part) in
            [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")]
        {
            let part = mutation.field(part);
            if kind.text() == name {
                part.field("expression").required(errors);
            } else if !part.value.is_null() {
                let why = format!("must not be set when patchType is {}", kind.text());
                errors.push(FieldError::forbidden(&part.path, why));
            }
        }
    }
    let again = spec.field("reinvocationPolicy");
    if again.required(errors) {
        again.one_of(&["IfNeeded", "Never"], errors);
    }
}

fn policy(spec: &Place<'_>, errors: &mut Errors) {
    spec.field("variables").unique("name", errors);
    for variable in spec.field("variables").items() {
        variable.field("name").required(errors);
        variable.field("expression").required(errors);
    }
    spec.field("failurePolicy").one_of(&["Fail", "Ignore"], errors);
    let kind = spec.field("paramKind");
    if !kind.value.is_null() {
        kind.field("apiVersion").required(errors);
        kind.field("kind").required(errors);
    }
    let constraints = spec.field("matchConstraints");
    if constraints.required(errors) {
        resources(&constraints, true, errors);
    }
    conditions(spec, errors);
}

fn actions(spec: &Place<'_>, errors: &mut Errors) {
    let actions = spec.field("validationActions");
    actions.required(errors);
    for action in actions.items() {
        action.one_of(&["Audit", "Deny", "Warn"], errors);
    }
    let has = |wanted: &str| actions.items().any(|action| action.text() == wanted);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure \
                   information in the API response and headers serves no purpose)";
        actions.invalid(why, errors);
    }
}

fn binding(spec: &Place<'_>, errors: &mut Errors) {
    spec.field("policyName").required(errors);
    let reference = spec.field("paramRef");
    if !reference.value.is_null() {
        let (name, selector) = (reference.field("name"), reference.field("selector"));
        if name.is_empty() == selector.value.is_null() {
            let why = "exactly one of name or selector is required";
            errors.push(FieldError::required(&reference.field("name").path, why));
        }
        let action = reference.field("parameterNotFoundAction");
        if action.required(errors) {
            action.one_of(&["Allow", "Deny"], errors);
        }
    }
    let matched = spec.field("matchResources");
    if !matched.value.is_null() {
        resources(&matched, false, errors);
    }
}

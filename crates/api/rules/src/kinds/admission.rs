//! Configuration of admission.

use berth_objects::Subresource::Status;
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 6] = [
    Resource {
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        columns: cells::WEBHOOKS,
        cells: cells::webhooks,
        ..v1(
            GROUP,
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
        )
    },
    Resource {
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        columns: cells::WEBHOOKS,
        cells: cells::webhooks,
        ..v1(
            GROUP,
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
        )
    },
    Resource {
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::ADMISSION_POLICY,
        cells: cells::admission_policy,
        ..v1(
            GROUP,
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
        )
    },
    Resource {
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        columns: cells::ADMISSION_BINDING,
        cells: cells::admission_binding,
        ..v1(
            GROUP,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
        )
    },
    Resource {
        version: "v1beta1",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        columns: cells::MUTATION_POLICY,
        cells: cells::mutation_policy,
        ..v1(
            GROUP,
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
        )
    },
    Resource {
        version: "v1beta1",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        columns: cells::ADMISSION_BINDING,
        cells: cells::admission_binding,
        ..v1(
            GROUP,
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
        )
    },
];

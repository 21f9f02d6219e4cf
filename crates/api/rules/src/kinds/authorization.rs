//! Questions about what somebody may do.

use berth_objects::{Resource, Scope};

use super::v1;

const GROUP: &str = "authorization.k8s.io";

const fn review(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    scope: Scope,
) -> Resource<'static> {
    Resource { scope, verbs: &["create"], ..v1(GROUP, kind, plural, singular) }
}

pub(super) static RESOURCES: [Resource<'static>; 4] = [
    review("SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", Scope::Cluster),
    review(
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        Scope::Cluster,
    ),
    review(
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        Scope::Namespaced,
    ),
    review(
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        Scope::Cluster,
    ),
];

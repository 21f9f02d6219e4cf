//! Questions about who somebody is.

use berth_objects::{Resource, Scope};

use super::v1;

const GROUP: &str = "authentication.k8s.io";

pub(super) static RESOURCES: [Resource<'static>; 2] = [
    Resource {
        scope: Scope::Cluster,
        verbs: &["create"],
        ..v1(GROUP, "TokenReview", "tokenreviews", "tokenreview")
    },
    Resource {
        scope: Scope::Cluster,
        verbs: &["create"],
        ..v1(GROUP, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview")
    },
];

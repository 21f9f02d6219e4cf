//! Roles for people and their programs.

use super::Role;

/// Which role is a part of which sum.
pub(super) const PARTS: &[(&str, &str)] = &[
    ("system:aggregate-to-admin", "admin"),
    ("system:aggregate-to-edit", "edit"),
    ("system:aggregate-to-view", "view"),
    ("system:aggregated-metrics-reader", "admin"),
    ("system:aggregated-metrics-reader", "edit"),
    ("system:aggregated-metrics-reader", "view"),
];

/// Which sum is itself a part of which.
pub(super) const INNER: &[(&str, &str)] = &[("edit", "admin"), ("view", "edit")];

pub(super) const ROLES: &[Role] = &[
    ("cluster-admin", &["* * *", "* / *"]),
    (
        "system:aggregate-to-admin",
        &[
            "create authorization.k8s.io localsubjectaccessreviews",
            "create,delete,deletecollection,get,list,patch,update,watch rbac.authorization.k8s.io roles,rolebindings",
        ],
    ),
    (
        "system:aggregate-to-edit",
        &[
            "get,list,watch - pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate - serviceaccounts",
            "create,delete,deletecollection,patch,update - pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create - pods/eviction,serviceaccounts/token",
            "update,patch - pods/ephemeralcontainers,pods/resize",
            "create,delete,deletecollection,patch,update - configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy,podtemplates",
            "create,delete,deletecollection,patch,update apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "create,delete,deletecollection,patch,update autoscaling horizontalpodautoscalers",
            "create,delete,deletecollection,patch,update batch cronjobs,jobs",
            "create,delete,deletecollection,patch,update policy poddisruptionbudgets",
            "create,delete,deletecollection,patch,update networking.k8s.io ingresses,networkpolicies",
            "create,delete,deletecollection,get,list,patch,update,watch coordination.k8s.io leases",
            "create,delete,deletecollection,patch,update resource.k8s.io resourceclaims,resourceclaimtemplates",
        ],
    ),
    (
        "system:aggregate-to-view",
        &[
            "get,list,watch - bindings,configmaps,endpoints,events,limitranges,namespaces/status,persistentvolumeclaims,persistentvolumeclaims/status,pods,pods/log,pods/status,podtemplates,replicationcontrollers,replicationcontrollers/scale,replicationcontrollers/status,resourcequotas,resourcequotas/status,serviceaccounts,services,services/status",
            // Reading the namespaces one has rights in.
            "get,list,watch - namespaces",
            "get,list,watch discovery.k8s.io endpointslices",
            "get,list,watch events.k8s.io events",
            "get,list,watch apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "get,list,watch autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
            "get,list,watch batch cronjobs,cronjobs/status,jobs,jobs/status",
            "get,list,watch policy poddisruptionbudgets,poddisruptionbudgets/status",
            "get,list,watch networking.k8s.io ingresses,ingresses/status,networkpolicies",
            "get,list,watch resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates",
            "get,list metrics.k8s.io pods",
        ],
    ),
    ("system:aggregated-metrics-reader", &["get,list,watch metrics.k8s.io nodes,pods"]),
];

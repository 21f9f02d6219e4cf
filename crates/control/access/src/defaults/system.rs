//! Roles of the system's own components, and what everybody may do.

use super::Role;

pub(super) const ROLES: &[Role] = &[
    (
        "system:basic-user",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    (
        "system:discovery",
        &[
            "get / /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/",
        ],
    ),
    ("system:public-info-viewer", &["get / /healthz,/livez,/readyz,/version,/version/"]),
    (
        "system:monitoring",
        &["get / /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*"],
    ),
    (
        "system:service-account-issuer-discovery",
        &[
            "get / /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/",
        ],
    ),
    (
        "system:auth-delegator",
        &[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
        ],
    ),
    ("system:heapster", &["get,list,watch - events,namespaces,nodes,pods"]),
    (
        "system:kube-aggregator",
        &["get,list,watch - endpoints,services", "get,list,watch discovery.k8s.io endpointslices"],
    ),
    // Nodes get their rights from the node authorizer; the role is there for those who bind it by hand.
    (
        "system:node",
        &[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
            "get,list,watch - services,nodes,pods,persistentvolumes",
            "create,patch,update - nodes,nodes/status,events",
            "create,delete - pods",
            "patch,update - pods/status",
            "create - pods/eviction",
            "get,list,watch - configmaps,secrets",
            "get - persistentvolumeclaims",
            "create - serviceaccounts/token",
            "create,get,list,watch certificates.k8s.io certificatesigningrequests",
            "create,delete,get,patch,update coordination.k8s.io leases",
            "get,list,watch node.k8s.io runtimeclasses",
        ],
    ),
    (
        "system:node-proxier",
        &[
            "list,watch - endpoints,services",
            "get,list,watch - nodes",
            "create,patch,update -,events.k8s.io events",
            "list,watch discovery.k8s.io endpointslices",
        ],
    ),
    (
        "system:node-bootstrapper",
        &["create,get,list,watch certificates.k8s.io certificatesigningrequests"],
    ),
    (
        "system:node-problem-detector",
        &["get - nodes", "patch - nodes/status", "create,patch,update -,events.k8s.io events"],
    ),
    (
        "system:kubelet-api-admin",
        &["get,list,watch,proxy - nodes", "* - nodes/log,nodes/metrics,nodes/proxy,nodes/stats"],
    ),
    ("system:kube-dns", &["list,watch - endpoints,services"]),
    // The names a pod resolves: Services, their endpoints, and pods themselves.
    (
        "system:berth:dns",
        &["get,list,watch - pods,services", "get,list,watch discovery.k8s.io endpointslices"],
    ),
    (
        "system:kube-controller-manager",
        &[
            "create,patch,update -,events.k8s.io events",
            "create,get,update coordination.k8s.io leases",
            "create - secrets,serviceaccounts,serviceaccounts/token",
            "delete - secrets",
            "get - configmaps,namespaces,secrets,serviceaccounts",
            "update - secrets,serviceaccounts",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
            // What the controllers' shared copies of all objects need.
            "list,watch * *",
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            "create,patch,update -,events.k8s.io events",
            "create,get,list,update,watch coordination.k8s.io leases",
            "get,list,watch - nodes,namespaces",
            "delete,get,list,patch,watch - pods",
            "create - bindings,pods/binding",
            "patch,update - pods/status",
            "get,list,watch - replicationcontrollers,services,persistentvolumes",
            "get,list,patch,update,watch - persistentvolumeclaims",
            "get,list,watch apps replicasets,statefulsets",
            "get,list,watch policy poddisruptionbudgets",
            "get,list,watch storage.k8s.io csidrivers,csinodes,csistoragecapacities,storageclasses,volumeattachments",
            "get,list,watch scheduling.k8s.io priorityclasses",
            "get,list,watch resource.k8s.io deviceclasses,resourceslices",
            "get,list,patch,update,watch resource.k8s.io resourceclaims,resourceclaims/status",
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews",
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            "get,list,patch,update,watch - persistentvolumeclaims,persistentvolumes",
            "get,list,watch storage.k8s.io storageclasses",
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            "create,delete,get,list,watch - persistentvolumes",
            "get,list,update,watch - persistentvolumeclaims",
            "get,list,watch storage.k8s.io storageclasses",
            "create,get,list,patch,update,watch - events",
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["approve certificates.k8s.io signers=kubernetes.io/kube-apiserver-client"],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve certificates.k8s.io signers=kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve certificates.k8s.io signers=kubernetes.io/kubelet-serving"],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &["approve certificates.k8s.io signers=kubernetes.io/legacy-unknown"],
    ),
];

/// Role, kind of subject, subject. A binding has its role's name.
pub(super) const BINDINGS: &[(&str, &str, &str)] = &[
    ("cluster-admin", "Group", "system:masters"),
    ("system:basic-user", "Group", "system:authenticated"),
    ("system:discovery", "Group", "system:authenticated"),
    ("system:public-info-viewer", "Group", "system:authenticated"),
    ("system:monitoring", "Group", "system:monitoring"),
    ("system:service-account-issuer-discovery", "Group", "system:serviceaccounts"),
    ("system:node-proxier", "User", "system:kube-proxy"),
    ("system:node-bootstrapper", "Group", "system:bootstrappers:berth:nodes"),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "Group",
        "system:bootstrappers:berth:nodes",
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "Group",
        "system:nodes",
    ),
    ("system:kube-controller-manager", "User", "system:kube-controller-manager"),
    ("system:kube-scheduler", "User", "system:kube-scheduler"),
    ("system:volume-scheduler", "User", "system:kube-scheduler"),
    ("system:kube-dns", "ServiceAccount", "kube-system/kube-dns"),
    ("system:berth:dns", "User", "system:berth-dns"),
];

/// Namespace, name of the role and its binding, rules, users (or `namespace/account`).
pub(super) type Local =
    (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

pub(super) const LOCAL: &[Local] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["get,list,watch - configmaps=extension-apiserver-authentication"],
        &["system:kube-controller-manager", "system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        &["get,list,watch - secrets"],
        &["kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &["delete,get,list,watch - secrets", "create,patch,update -,events.k8s.io events"],
        &["kube-system/token-cleaner"],
    ),
];

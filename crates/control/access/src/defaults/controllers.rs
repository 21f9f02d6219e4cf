//! Roles of the controllers. Each controller is the service account of that name in `kube-system`.
//!
//! Who may update may patch here, which gives no more power: our controllers patch where upstream's replace.

use super::Role;

pub(super) const ROLES: &[Role] = &[
    (
        "deployment-controller",
        &[
            "get,list,patch,update,watch apps deployments",
            "patch,update apps deployments/status",
            "patch,update apps deployments/finalizers",
            "create,delete,get,list,patch,update,watch apps replicasets",
            "get,list,patch,update,watch - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "replicaset-controller",
        &[
            "get,list,patch,update,watch apps replicasets",
            "patch,update apps replicasets/status",
            "patch,update apps replicasets/finalizers",
            "create,delete,list,patch,watch - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "replication-controller",
        &[
            "get,list,patch,update,watch - replicationcontrollers",
            "patch,update - replicationcontrollers/status",
            "patch,update - replicationcontrollers/finalizers",
            "create,delete,list,patch,watch - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "statefulset-controller",
        &[
            "list,watch - pods",
            "get,list,watch apps statefulsets",
            "patch,update apps statefulsets/status",
            "patch,update apps statefulsets/finalizers",
            "create,delete,get,patch,update - pods",
            "create,delete,get,list,patch,update,watch apps controllerrevisions",
            "create,delete,get,list,patch,update,watch - persistentvolumeclaims",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "daemon-set-controller",
        &[
            "get,list,watch apps daemonsets",
            "patch,update apps daemonsets/status",
            "patch,update apps daemonsets/finalizers",
            "list,watch - nodes",
            "create,delete,list,patch,watch - pods",
            "create - pods/binding",
            "create,delete,get,list,patch,update,watch apps controllerrevisions",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "job-controller",
        &[
            "get,list,patch,update,watch batch jobs",
            "patch,update batch jobs/status",
            "patch,update batch jobs/finalizers",
            "create,delete,list,patch,watch - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "cronjob-controller",
        &[
            "get,list,patch,update,watch batch cronjobs",
            "create,delete,get,list,patch,update,watch batch jobs",
            "patch,update batch cronjobs/status",
            "patch,update batch cronjobs/finalizers",
            "delete,list - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "ttl-after-finished-controller",
        &["delete,get,list,watch batch jobs", "create,patch,update -,events.k8s.io events"],
    ),
    (
        "disruption-controller",
        &[
            "get,list,watch apps daemonsets,deployments,replicasets,statefulsets",
            "get,list,watch - pods,replicationcontrollers",
            "patch,update - pods/status",
            "get,list,watch policy poddisruptionbudgets",
            "patch,update policy poddisruptionbudgets/status",
            "get * */scale",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "horizontal-pod-autoscaler",
        &[
            "get,list,watch autoscaling horizontalpodautoscalers",
            "patch,update autoscaling horizontalpodautoscalers/status",
            "get,patch,update * */scale",
            "list - pods",
            "list metrics.k8s.io pods",
            "get,list custom.metrics.k8s.io,external.metrics.k8s.io *",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "endpoint-controller",
        &[
            "get,list,watch - pods,services",
            "create,delete,get,list,patch,update,watch - endpoints",
            "create - endpoints/restricted",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "endpointslice-controller",
        &[
            "get,list,watch - nodes,pods,services",
            "patch,update - services/finalizers",
            "create,delete,get,list,patch,update,watch discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            "get,list,watch - endpoints,services",
            "patch,update - services/finalizers,endpoints/finalizers",
            "create,delete,get,list,patch,update,watch discovery.k8s.io endpointslices",
            "create discovery.k8s.io endpointslices/restricted",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "service-controller",
        &[
            "get,list,watch - services",
            "patch,update - services/status",
            "list,watch - nodes,pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "namespace-controller",
        &[
            "delete,get,list,watch - namespaces",
            "patch,update - namespaces/finalize,namespaces/status",
            "delete,deletecollection,get,list * *",
            "get / /api,/api/*,/apis,/apis/*",
        ],
    ),
    (
        "service-account-controller",
        &["create - serviceaccounts", "create,patch,update -,events.k8s.io events"],
    ),
    (
        "root-ca-cert-publisher",
        &["create,patch,update - configmaps", "create,patch,update -,events.k8s.io events"],
    ),
    (
        "generic-garbage-collector",
        &["delete,get,list,patch,update,watch * *", "get / /api,/api/*,/apis,/apis/*"],
    ),
    (
        "pod-garbage-collector",
        &["delete,list,watch - pods", "get,list - nodes", "patch - pods/status"],
    ),
    (
        "node-controller",
        &[
            "delete,get,list,patch,update - nodes",
            "patch,update - nodes/status",
            "patch,update - pods/status",
            "delete,get,list - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            "create,delete,get,list,patch,update,watch - persistentvolumes",
            "patch,update - persistentvolumes/status",
            "get,list,patch,update,watch - persistentvolumeclaims",
            "patch,update - persistentvolumeclaims/status",
            "create,delete,get,list,watch - pods",
            "create,get,list,patch,watch storage.k8s.io storageclasses",
            "get,list - nodes",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "resourcequota-controller",
        &[
            "list,watch * *",
            "patch,update - resourcequotas/status",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    // It may write any rule, since it sums up what others were allowed to write.
    (
        "clusterrole-aggregation-controller",
        &["escalate,get,list,patch,update,watch rbac.authorization.k8s.io clusterroles"],
    ),
    (
        "certificate-controller",
        &[
            "delete,get,list,watch certificates.k8s.io certificatesigningrequests",
            "patch,update certificates.k8s.io certificatesigningrequests/approval,certificatesigningrequests/status",
            "approve,sign certificates.k8s.io signers=kubernetes.io/kube-apiserver-client-kubelet",
            "sign certificates.k8s.io signers=kubernetes.io/kube-apiserver-client,signers=kubernetes.io/kubelet-serving,signers=kubernetes.io/legacy-unknown",
            "create authorization.k8s.io subjectaccessreviews",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    ("bootstrap-signer", &["get,list,patch,update,watch - configmaps=cluster-info"]),
    ("token-cleaner", &["get / /api,/apis"]),
    (
        "ephemeral-volume-controller",
        &[
            "get,list,watch - pods",
            "patch,update - pods/finalizers",
            "create,get,list,watch - persistentvolumeclaims",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "pvc-protection-controller",
        &[
            "get,list,patch,update,watch - persistentvolumeclaims",
            "get,list,watch - pods",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "pv-protection-controller",
        &[
            "get,list,patch,update,watch - persistentvolumes",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
    (
        "attachdetach-controller",
        &[
            "list,watch - persistentvolumeclaims,persistentvolumes",
            "get,list,watch - nodes,pods",
            "patch,update - nodes/status",
            "create,delete,get,list,watch storage.k8s.io volumeattachments",
            "get,list,watch storage.k8s.io csidrivers,csinodes",
            "create,patch,update -,events.k8s.io events",
        ],
    ),
];

//! The core group.

use berth_objects::Subresource::{
    Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy,
    Resize, Scale, Status, Token,
};
use berth_objects::{Resource, Scope};

use super::v1;
use crate::cells;

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

pub(super) static RESOURCES: [Resource<'static>; 16] = [
    Resource {
        short: &["ns"],
        scope: Scope::Cluster,
        subresources: &[Status, Finalize],
        selectable: &["status.phase"],
        columns: cells::NAMESPACE,
        cells: cells::namespace,
        ..v1("", "Namespace", "namespaces", "namespace")
    },
    Resource {
        short: &["no"],
        scope: Scope::Cluster,
        subresources: &[Status, Proxy("NodeProxyOptions")],
        selectable: &["spec.unschedulable"],
        columns: cells::NODE,
        cells: cells::node,
        ..v1("", "Node", "nodes", "node")
    },
    Resource {
        short: &["po"],
        categories: &["all"],
        subresources: &[
            Status,
            Binding,
            Eviction,
            EphemeralContainers,
            Resize,
            Log,
            Exec,
            Attach,
            PortForward,
            Proxy("PodProxyOptions"),
        ],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        columns: cells::POD,
        cells: cells::pod,
        ..v1("", "Pod", "pods", "pod")
    },
    // The older way to bind a pod: the object names it, and is answered instead of kept.
    Resource { verbs: &["create"], ..v1("", "Binding", "bindings", "binding") },
    Resource {
        short: &["svc"],
        categories: &["all"],
        subresources: &[Status, Proxy("ServiceProxyOptions")],
        selectable: &["spec.clusterIP", "spec.type"],
        columns: cells::SERVICE,
        cells: cells::service,
        ..v1("", "Service", "services", "service")
    },
    Resource {
        short: &["cm"],
        columns: cells::DATA,
        cells: cells::config_map,
        ..v1("", "ConfigMap", "configmaps", "configmap")
    },
    Resource {
        selectable: &["type"],
        columns: cells::SECRET,
        cells: cells::secret,
        ..v1("", "Secret", "secrets", "secret")
    },
    Resource {
        short: &["sa"],
        subresources: &[Token],
        columns: cells::SERVICE_ACCOUNT,
        cells: cells::service_account,
        ..v1("", "ServiceAccount", "serviceaccounts", "serviceaccount")
    },
    Resource {
        short: &["ev"],
        selectable: EVENT_FIELDS,
        columns: cells::EVENT,
        cells: cells::event,
        ..v1("", "Event", "events", "event")
    },
    Resource {
        short: &["pv"],
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::VOLUME,
        cells: cells::volume,
        ..v1("", "PersistentVolume", "persistentvolumes", "persistentvolume")
    },
    Resource {
        short: &["pvc"],
        subresources: &[Status],
        columns: cells::CLAIM,
        cells: cells::claim,
        ..v1("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
    },
    Resource {
        short: &["ep"],
        columns: cells::ENDPOINTS,
        cells: cells::endpoints,
        ..v1("", "Endpoints", "endpoints", "endpoints")
    },
    Resource {
        short: &["rc"],
        categories: &["all"],
        subresources: &[Status, Scale],
        selectable: &["status.replicas"],
        columns: cells::REPLICA_SET,
        cells: cells::replication_controller,
        ..v1("", "ReplicationController", "replicationcontrollers", "replicationcontroller")
    },
    Resource {
        columns: cells::POD_TEMPLATE,
        cells: cells::pod_template,
        ..v1("", "PodTemplate", "podtemplates", "podtemplate")
    },
    Resource {
        short: &["limits"],
        columns: cells::LIMIT_RANGE,
        cells: cells::limit_range,
        ..v1("", "LimitRange", "limitranges", "limitrange")
    },
    Resource {
        short: &["quota"],
        subresources: &[Status],
        columns: cells::RESOURCE_QUOTA,
        cells: cells::resource_quota,
        ..v1("", "ResourceQuota", "resourcequotas", "resourcequota")
    },
];

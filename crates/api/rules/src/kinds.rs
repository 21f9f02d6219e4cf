//! The table of built-in resources. A new kind is a row here, a schema, and whatever rules it needs.

use berth_objects::Subresource::{
    Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Resize,
    Scale, Status,
};
use berth_objects::{Resource, Scope};

use crate::cells;

const fn core(kind: &'static str, plural: &'static str, singular: &'static str) -> Resource {
    Resource {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short: &[],
        categories: &[],
        scope: Scope::Namespaced,
        subresources: &[],
        selectable: &[],
        columns: cells::ONLY_AGE,
        cells: cells::age_only,
    }
}

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

static RESOURCES: [Resource; 17] = [
    Resource {
        short: &["ns"],
        scope: Scope::Cluster,
        subresources: &[Status, Finalize],
        selectable: &["status.phase"],
        columns: cells::NAMESPACE,
        cells: cells::namespace,
        ..core("Namespace", "namespaces", "namespace")
    },
    Resource {
        short: &["no"],
        scope: Scope::Cluster,
        subresources: &[Status],
        selectable: &["spec.unschedulable"],
        columns: cells::NODE,
        cells: cells::node,
        ..core("Node", "nodes", "node")
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
        ..core("Pod", "pods", "pod")
    },
    Resource {
        short: &["svc"],
        categories: &["all"],
        subresources: &[Status],
        selectable: &["spec.clusterIP", "spec.type"],
        columns: cells::SERVICE,
        cells: cells::service,
        ..core("Service", "services", "service")
    },
    Resource {
        short: &["cm"],
        columns: cells::DATA,
        cells: cells::config_map,
        ..core("ConfigMap", "configmaps", "configmap")
    },
    Resource {
        selectable: &["type"],
        columns: cells::SECRET,
        cells: cells::secret,
        ..core("Secret", "secrets", "secret")
    },
    Resource {
        short: &["sa"],
        columns: cells::SERVICE_ACCOUNT,
        cells: cells::service_account,
        ..core("ServiceAccount", "serviceaccounts", "serviceaccount")
    },
    Resource {
        short: &["ev"],
        selectable: EVENT_FIELDS,
        columns: cells::EVENT,
        cells: cells::event,
        ..core("Event", "events", "event")
    },
    Resource {
        short: &["pv"],
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: cells::VOLUME,
        cells: cells::volume,
        ..core("PersistentVolume", "persistentvolumes", "persistentvolume")
    },
    Resource {
        short: &["pvc"],
        subresources: &[Status],
        columns: cells::CLAIM,
        cells: cells::claim,
        ..core("PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
    },
    Resource {
        group: "apps",
        short: &["deploy"],
        categories: &["all"],
        subresources: &[Status, Scale],
        columns: cells::DEPLOYMENT,
        cells: cells::deployment,
        ..core("Deployment", "deployments", "deployment")
    },
    Resource {
        group: "apps",
        short: &["rs"],
        categories: &["all"],
        subresources: &[Status, Scale],
        selectable: &["status.replicas"],
        columns: cells::REPLICA_SET,
        cells: cells::replica_set,
        ..core("ReplicaSet", "replicasets", "replicaset")
    },
    Resource {
        group: "coordination.k8s.io",
        columns: cells::LEASE,
        cells: cells::lease,
        ..core("Lease", "leases", "lease")
    },
    Resource {
        group: "discovery.k8s.io",
        columns: cells::ENDPOINT_SLICE,
        cells: cells::endpoint_slice,
        ..core("EndpointSlice", "endpointslices", "endpointslice")
    },
    Resource {
        group: "events.k8s.io",
        short: &["ev"],
        selectable: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        columns: cells::EVENT,
        cells: cells::event,
        ..core("Event", "events", "event")
    },
    Resource {
        group: "networking.k8s.io",
        short: &["netpol"],
        columns: cells::NETWORK_POLICY,
        cells: cells::network_policy,
        ..core("NetworkPolicy", "networkpolicies", "networkpolicy")
    },
    Resource {
        group: "storage.k8s.io",
        short: &["sc"],
        scope: Scope::Cluster,
        columns: cells::STORAGE_CLASS,
        cells: cells::storage_class,
        ..core("StorageClass", "storageclasses", "storageclass")
    },
];

/// All built-in resources.
#[must_use]
pub fn resources() -> &'static [Resource] {
    &RESOURCES
}

/// The resource of a path.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| {
        (resource.group, resource.version, resource.plural) == (group, version, plural)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_schema_and_cells_for_its_columns() {
        let empty = serde_json::json!({});
        for resource in resources() {
            assert_eq!(resource.schema().1.kinds()[0].2, resource.kind);
            let cells = (resource.cells)(&empty, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), resource.columns.len(), "{}", resource.kind);
        }
    }
}

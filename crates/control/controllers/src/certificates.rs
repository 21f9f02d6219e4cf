//! Requests for certificates: approves those of nodes that are entitled, signs what was approved, forgets what is old.

use std::sync::Arc;
use std::time::Duration;

use berth_authority::{Asked, Authority};
use berth_client::{Key, Mirror, Queue};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::info;

use crate::context::{Context, or_absent};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long requests are kept: decided ones, and undecided ones.
const DECIDED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// One change of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Ask whether the requester may have it without a person's word, by this subresource, and approve it then.
    Consider(&'static str),
    /// Issue.
    Sign,
    /// Say why it cannot be issued.
    Fail(&'static str),
    /// Forget it.
    Forget,
    /// Look again when so much time has passed.
    Wait(Duration),
}

/// Looks after requests until told to stop.
pub(crate) async fn run(context: Context, authority: Arc<Authority>) {
    let requests: Mirror<CertificateSigningRequest> = Mirror::new();
    let queue = Queue::new();
    let to = queue.clone();
    requests.listen(move |change| to.push(change.object().name_any()));
    let follow = requests.run(Api::all(context.client.clone()), &context.stop);
    let work = async {
        requests.synced().await;
        let look = |name| reconcile(&context, &authority, &requests, name);
        queue.serve(4, &context.stop, look).await;
    };
    futures::join!(follow, work);
}

fn asked(request: &CertificateSigningRequest) -> Option<(String, Asked)> {
    let pem = String::from_utf8(request.spec.request.0.clone()).ok()?;
    let asked = Asked::parse(&pem).ok()?;
    Some((pem, asked))
}

/// Why a signer would not issue what is asked; nothing where it would.
fn refusal(request: &CertificateSigningRequest, asked: &Asked) -> Option<&'static str> {
    let spec = &request.spec;
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let (needed, own) = match spec.signer_name.as_str() {
        NODE_SERVING => ("server auth", &["digital signature", "key encipherment", "server auth"]),
        _ => ("client auth", &["digital signature", "key encipherment", "client auth"]),
    };
    if !usages.contains(&needed) || usages.iter().any(|usage| !own.contains(usage)) {
        return Some("the usages are not those of the signer");
    }
    let node = asked.user.starts_with("system:node:") && asked.groups == ["system:nodes"];
    match spec.signer_name.as_str() {
        CLIENT if asked.groups.iter().any(|group| group == berth_access::MASTERS) => {
            Some("the group system:masters is not given away")
        }
        CLIENT if asked.groups.len() > 1 => Some("only one organization can be signed for"),
        NODE_CLIENT | NODE_SERVING if !node => Some(
            "the subject is not that of a node: organization system:nodes, common name system:node:<name>",
        ),
        NODE_CLIENT if asked.hosts + asked.others > 0 => {
            Some("subject alternative names are not allowed")
        }
        NODE_SERVING if asked.hosts == 0 || asked.others > 0 => {
            Some("subject alternative names have to be DNS names or addresses, and at least one")
        }
        NODE_SERVING if spec.username.as_deref() != Some(&asked.user) => {
            Some("a node can only ask for itself")
        }
        _ => None,
    }
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind)
}

fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Step {
    let age = request.creation_timestamp().map_or(Duration::ZERO, |made| {
        Duration::try_from(now.duration_since(made.0)).unwrap_or_default()
    });
    let issued = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let decided = has(request, "Approved") || has(request, "Denied") || has(request, "Failed");
    let limit = if decided { DECIDED } else { PENDING };
    if age >= limit {
        return Step::Forget;
    }
    let wait = Step::Wait(limit - age);
    let signer = request.spec.signer_name.as_str();
    if ![CLIENT, NODE_CLIENT, NODE_SERVING].contains(&signer) {
        return wait;
    }
    if issued || has(request, "Denied") || has(request, "Failed") {
        return wait;
    }
    let Some((_, asked)) = asked(request) else { return Step::Fail("the request is damaged") };
    let refusal = refusal(request, &asked);
    match (has(request, "Approved"), refusal) {
        (true, Some(why)) => Step::Fail(why),
        (true, None) => Step::Sign,
        (false, None) if signer == NODE_CLIENT => {
            let own = request.spec.username.as_deref() == Some(&asked.user);
            Step::Consider(if own { "selfnodeclient" } else { "nodeclient" })
        }
        (false, _) => wait,
    }
}

async fn reconcile(
    context: &Context,
    authority: &Authority,
    requests: &Mirror<CertificateSigningRequest>,
    name: String,
) -> Result<Option<Duration>, kube::Error> {
    let Some(request) = requests.get(&Key::new("", &name)) else { return Ok(None) };
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let now = Timestamp::now();
    let mut changed = request.as_ref().clone();
    // A decision is looked up once more at the server: a mirror that lags must not undo one.
    changed.metadata.managed_fields = None;
    let status = changed.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let condition = |kind: &str, reason: &str, message: &str| {
        serde_json::from_value(json!({"type": kind, "status": "True", "reason": reason,
            "message": message, "lastUpdateTime": now, "lastTransitionTime": now}))
        .map_err(kube::Error::SerdeError)
    };
    let written = match plan(&request, now) {
        Step::Wait(pause) => return Ok(Some(pause)),
        Step::Forget => {
            info!(request = %name, "forgetting an old request for a certificate");
            or_absent(api.delete(&name, &DeleteParams::default()).await)?;
            return Ok(None);
        }
        Step::Consider(part) => {
            if !entitled(context, &request, part).await? {
                return Ok(Some(PENDING));
            }
            info!(request = %name, "approving a node's certificate");
            conditions.push(condition(
                "Approved",
                "AutoApproved",
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            )?);
            api.replace_subresource("approval", &name, &PostParams::default(), &changed).await
        }
        Step::Fail(why) => {
            conditions.push(condition("Failed", "SignerValidationFailure", why)?);
            let patch = json!({ "metadata": { "resourceVersion": request.resource_version() }, "status": { "conditions": conditions } });
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
        }
        Step::Sign => {
            let seconds = request.spec.expiration_seconds.and_then(|it| u64::try_from(it).ok());
            let lifetime = seconds.map_or(YEAR, Duration::from_secs).min(YEAR);
            let usages = request.spec.usages.clone().unwrap_or_default();
            let (pem, _) = asked(&request).unwrap_or_default();
            let patch = match authority.sign(&pem, &usages, lifetime) {
                Ok(certificate) => {
                    info!(request = %name, user = ?request.spec.username, "issuing a certificate");
                    let bytes = k8s_openapi::ByteString(certificate.into_bytes());
                    json!({ "status": { "certificate": bytes } })
                }
                Err(error) => {
                    conditions.push(condition("Failed", "SignerError", &error.to_string())?);
                    json!({ "status": { "conditions": conditions } })
                }
            };
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await
        }
    };
    if let Some(request) = or_absent(written)? {
        requests.note(request);
    }
    Ok(None)
}

/// Whether the requester may have the certificate without a person's word.
async fn entitled(
    context: &Context,
    request: &CertificateSigningRequest,
    part: &str,
) -> Result<bool, kube::Error> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(part.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(context.client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        signer: &str,
        user: &str,
        group: &str,
        hosts: &[String],
    ) -> CertificateSigningRequest {
        let (pem, _) = berth_authority::ask(user, group, hosts).unwrap();
        let usage = if signer == NODE_SERVING { "server auth" } else { "client auth" };
        serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"signerName": signer, "username": user, "usages": ["digital signature", usage],
                "request": k8s_openapi::ByteString(pem.into_bytes())},
        }))
        .unwrap()
    }

    fn with(mut request: CertificateSigningRequest, kind: &str) -> CertificateSigningRequest {
        let condition = json!({"conditions": [{"type": kind, "status": "True"}]});
        request.status = Some(serde_json::from_value(condition).unwrap());
        request
    }

    fn at(request: &CertificateSigningRequest, time: &str) -> Step {
        plan(request, time.parse().unwrap())
    }

    const SOON: &str = "2030-01-01T00:01:00Z";

    #[test]
    fn a_person_s_request_waits_for_approval() {
        let ann = request(CLIENT, "ann", "devs", &[]);
        assert_eq!(at(&ann, SOON), Step::Wait(PENDING - Duration::from_secs(60)));
        assert_eq!(at(&with(ann.clone(), "Approved"), SOON), Step::Sign);
        assert_eq!(
            at(&with(ann.clone(), "Denied"), SOON),
            Step::Wait(DECIDED - Duration::from_secs(60))
        );
        assert_eq!(at(&ann, "2030-01-02T00:00:00Z"), Step::Forget);
        assert_eq!(at(&with(ann, "Approved"), "2030-01-01T01:00:00Z"), Step::Forget);
        let master = request(CLIENT, "ann", "system:masters", &[]);
        assert!(matches!(at(&with(master, "Approved"), SOON), Step::Fail(_)));
    }

    #[test]
    fn a_node_s_request_is_considered_when_it_asks_for_no_more_than_its_name() {
        let node = request(NODE_CLIENT, "system:node:n1", "system:nodes", &[]);
        assert_eq!(at(&node, SOON), Step::Consider("selfnodeclient"));
        let mut new = node;
        new.spec.username = Some("system:bootstrap:abcdef".into());
        assert_eq!(at(&new, SOON), Step::Consider("nodeclient"));
        for (user, group, hosts) in [
            ("ann", "system:nodes", vec![]),
            ("system:node:n1", "system:masters", vec![]),
            ("system:node:n1", "system:nodes", vec!["a.example".to_owned()]),
        ] {
            let wrong = request(NODE_CLIENT, user, group, &hosts);
            assert!(matches!(at(&wrong, SOON), Step::Wait(_)), "{user} {group} {hosts:?}");
            assert!(matches!(at(&with(wrong, "Approved"), SOON), Step::Fail(_)));
        }
    }

    #[test]
    fn a_serving_certificate_is_for_the_node_that_asks() {
        let hosts = ["10.0.0.1".to_owned()];
        let own = with(request(NODE_SERVING, "system:node:n1", "system:nodes", &hosts), "Approved");
        assert_eq!(at(&own, SOON), Step::Sign);
        let mut other = own;
        other.spec.username = Some("system:node:n2".into());
        assert!(matches!(at(&other, SOON), Step::Fail(_)));
        let foreign = with(request("example.com/x", "ann", "devs", &[]), "Approved");
        assert!(matches!(at(&foreign, SOON), Step::Wait(_)));
    }
}

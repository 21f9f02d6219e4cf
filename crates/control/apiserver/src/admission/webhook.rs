//! Webhooks: servers that are asked about objects, and may change or refuse them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use berth_cel::Budget;
use berth_objects::{Handle, Object, Status, Subject};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde_json::Value;

use super::expression::{Expression, Held, Scene, Seen, Stage, named};
use super::kept::Kept;
use super::matching::{Rules, seen_as};
use super::review::{self, Verdict};
use super::{Asked, EXEMPT};
use crate::callout::Server;
use crate::server::Shared;

/// One webhook of a configuration.
pub(super) struct Hook {
    configuration: String,
    name: String,
    /// Where it is; a configuration that says it wrongly is told to whoever is asked about it.
    server: Result<Server, String>,
    rules: Rules,
    /// Whether a webhook that does not answer is passed over.
    ignored: bool,
    timeout: Duration,
    /// Whether asking changes nothing elsewhere.
    dry: bool,
    pub again: bool,
    conditions: Vec<(String, Expression)>,
}

/// All webhooks of the cluster.
pub(crate) struct Webhooks {
    mutating: Kept<Vec<Arc<Hook>>>,
    validating: Kept<Vec<Arc<Hook>>>,
}

impl Webhooks {
    pub fn new() -> Self {
        let kept = |plural| Kept::new((EXEMPT, "v1", plural), hooks);
        Self {
            mutating: kept("mutatingwebhookconfigurations"),
            validating: kept("validatingwebhookconfigurations"),
        }
    }
}

impl Webhooks {
    /// Those that may change objects, in the order they are asked in.
    pub(super) async fn mutating(&self, shared: &Shared) -> Result<Vec<Arc<Hook>>, Status> {
        let configurations = self.mutating.all(shared).await?;
        Ok(configurations.iter().flat_map(|it| it.iter().cloned()).collect())
    }
}

fn hooks(configuration: &Value) -> Vec<Arc<Hook>> {
    let all = configuration.list(&["webhooks"]).iter();
    all.map(|hook| Arc::new(Hook::parse(configuration.name(), hook))).collect()
}

impl Hook {
    fn parse(configuration: &str, hook: &Value) -> Self {
        let seconds = hook.integer(&["timeoutSeconds"]).and_then(|it| u64::try_from(it).ok());
        Self {
            configuration: configuration.to_owned(),
            name: hook.text(&["name"]).to_owned(),
            server: Server::of_config(&hook["clientConfig"]).map_err(|error| error.to_string()),
            rules: Rules::parse(hook),
            ignored: hook.text(&["failurePolicy"]) == "Ignore",
            timeout: Duration::from_secs(seconds.unwrap_or(10)),
            dry: matches!(hook.text(&["sideEffects"]), "None" | "NoneOnDryRun"),
            again: hook.text(&["reinvocationPolicy"]) == "IfNeeded",
            conditions: named(hook, "matchConditions", "name", "expression"),
        }
    }

    /// The resource the webhook wants to see the request as, if it wants to see it.
    async fn wants(&self, asked: &Asked<'_>) -> Result<Option<Handle>, Status> {
        let Some(resource) = self.rules.resource(asked) else { return Ok(None) };
        if !self.rules.selects(asked).await? {
            return Ok(None);
        }
        if !self.conditions.is_empty() {
            let seen = Seen::of(asked, resource.clone()).await?;
            if !self.holds(asked, &seen)? {
                return Ok(None);
            }
        }
        if asked.call.dry_run && !self.dry {
            let message = format!("admission webhook \"{}\" does not support dry run", self.name);
            return Err(Status::bad_request(message));
        }
        Ok(Some(resource))
    }

    /// Whether the webhook's conditions hold. What cannot be evaluated is as bad as a webhook that does not answer.
    fn holds(&self, asked: &Asked<'_>, seen: &Seen) -> Result<bool, Status> {
        let (stage, mut budget) = (Stage::new(asked.call), Budget::for_request());
        match Scene::new(&stage, asked, seen, &[], &mut budget).holds(&self.conditions) {
            Held::Yes => Ok(true),
            Held::No => Ok(false),
            Held::Broken(_) if self.ignored => Ok(false),
            Held::Broken(why) => {
                let subject = Subject { name: asked.name().to_owned(), ..asked.call.subject() };
                Err(Status::forbidden(subject, &why))
            }
        }
    }

    /// Asks. Nothing when it could not be asked and that is to be ignored.
    async fn ask(
        &self,
        asked: &Asked<'_>,
        resource: &Handle,
        mutating: bool,
    ) -> Result<Option<Verdict>, Status> {
        let id = uuid::Uuid::new_v4().to_string();
        let outcome = match &self.server {
            Ok(server) => {
                let seen = Seen::of(asked, resource.clone()).await?;
                let shown = (&seen.object, &seen.old);
                let question = review::question(asked, resource.get(), shown, &id);
                let callouts = &asked.call.shared.callouts;
                let answer = callouts.post(server, self.timeout, &question).await;
                answer
                    .map_err(|error| format!("failed to call webhook: {error}"))
                    .and_then(|answer| review::answer(&self.name, &answer, &id, mutating))
            }
            Err(error) => Err(error.clone()),
        };
        match outcome {
            Ok(verdict) => Ok(Some(verdict)),
            Err(error) if self.ignored => {
                let (configuration, webhook) = (&self.configuration, &self.name);
                tracing::warn!(configuration, webhook, error, "passed over a webhook that failed");
                Ok(None)
            }
            Err(error) => {
                Err(Status::internal(format!("failed calling webhook \"{}\": {error}", self.name)))
            }
        }
    }
}

/// Tells whoever asked what the webhook had to say, and stops at a refusal.
fn heed(asked: &Asked<'_>, verdict: &mut Verdict) -> Result<(), Status> {
    asked.call.warn(std::mem::take(&mut verdict.warnings));
    asked.call.note(std::mem::take(&mut verdict.notes));
    verdict.refusal.take().map_or(Ok(()), Err)
}

/// Boxed, because the compiler cannot follow the client's type into the callers' futures.
pub(super) fn invoke<'a>(
    asked: &'a mut Asked<'_>,
    hook: &'a Hook,
) -> BoxFuture<'a, Result<bool, Status>> {
    async move {
        let Some(resource) = hook.wants(asked).await? else { return Ok(false) };
        let Some(mut verdict) = hook.ask(asked, &resource, true).await? else {
            return Ok(false);
        };
        heed(asked, &mut verdict)?;
        let Some(patch) = verdict.patch.filter(|_| asked.object.is_object()) else {
            return Ok(false);
        };
        let own = asked.call.resource();
        let mut object = seen_as(&asked.call.shared, own, resource.get(), &asked.object).await?;
        json_patch::patch(&mut object, &patch).map_err(|error| {
            Status::internal(format!(
                "the patch of webhook \"{}\" does not apply: {error}",
                hook.name
            ))
        })?;
        let object = seen_as(&asked.call.shared, resource.get(), own, &object).await?;
        let changed = object != *asked.object;
        asked.object = Cow::Owned(object);
        Ok(changed)
    }
    .boxed()
}

/// Asks the webhooks that may only refuse, all at once.
pub(super) async fn validate(asked: &Asked<'_>) -> Result<(), Status> {
    let configurations = asked.call.shared.webhooks.validating.all(&asked.call.shared).await?;
    let mut wanted = Vec::new();
    for hook in configurations.iter().flat_map(|it| it.iter()) {
        if let Some(resource) = hook.wants(asked).await? {
            wanted.push((hook, resource));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let asking = wanted.iter().map(|(hook, resource)| hook.ask(asked, resource, false));
    // What the others had to say is told even if one of them refuses.
    let mut all = Ok(());
    for outcome in join_all(asking).boxed().await {
        let verdict = outcome.transpose().map(|verdict| heed(asked, &mut verdict?));
        all = all.and(verdict.unwrap_or(Ok(())));
    }
    all
}

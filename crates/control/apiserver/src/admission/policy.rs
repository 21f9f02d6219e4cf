//! Admission policies: expressions that judge or change objects, bound to what they are about and to parameters.

use std::borrow::Cow;
use std::sync::Arc;

use berth_cel::Budget;
use berth_objects::{Cause, LabelSelector, Object, Status, Subject};
use serde_json::{Value, json};

use super::expression::{Expression, Held, Scene, Seen, Stage, named};
use super::kept::Kept;
use super::matching::{Rules, seen_as};
use super::{Asked, EXEMPT};
use crate::server::Shared;
use crate::write;

/// Longer messages of expressions are not shown.
const LONGEST_MESSAGE: usize = 5 << 10;
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// One thing a policy checks.
struct Validation {
    expression: Expression,
    message: String,
    words: Option<Expression>,
    reason: String,
}

/// One thing a policy changes.
enum Mutation {
    /// A part of the object, merged into it as an applied configuration is.
    Apply(Expression),
    /// Operations of a JSON patch.
    Patch(Expression),
}

/// A policy of either kind.
pub(super) struct Policy {
    kind: String,
    name: String,
    rules: Rules,
    parameters: Option<(String, String)>,
    conditions: Vec<(String, Expression)>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
    mutations: Vec<Mutation>,
    ignored: bool,
    pub again: bool,
}

impl Policy {
    fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        let validation = |it: &Value| Validation {
            expression: Expression::new(it.text(&["expression"])),
            message: it.text(&["message"]).trim().to_owned(),
            words: Expression::at(it, "messageExpression"),
            reason: it.text(&["reason"]).to_owned(),
        };
        let mutation = |it: &Value| match it.text(&["patchType"]) {
            "JSONPatch" => Mutation::Patch(Expression::new(it.text(&["jsonPatch", "expression"]))),
            _ => Mutation::Apply(Expression::new(it.text(&["applyConfiguration", "expression"]))),
        };
        let kind = &spec["paramKind"];
        Self {
            kind: object.text(&["kind"]).to_owned(),
            name: object.name().to_owned(),
            rules: Rules::parse(&spec["matchConstraints"]),
            parameters: kind
                .is_object()
                .then(|| (kind.text(&["apiVersion"]).to_owned(), kind.text(&["kind"]).to_owned())),
            conditions: named(spec, "matchConditions", "name", "expression"),
            variables: named(spec, "variables", "name", "expression"),
            validations: spec.list(&["validations"]).iter().map(validation).collect(),
            annotations: named(spec, "auditAnnotations", "key", "valueExpression"),
            mutations: spec.list(&["mutations"]).iter().map(mutation).collect(),
            ignored: spec.text(&["failurePolicy"]) == "Ignore",
            again: spec.text(&["reinvocationPolicy"]) == "IfNeeded",
        }
    }
}

/// What a policy is used for, and with which parameters.
pub(super) struct Binding {
    name: String,
    policy: String,
    /// Nothing where the policy's own rules are enough.
    rules: Option<Rules>,
    reference: Value,
    actions: Vec<String>,
}

impl Binding {
    fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        let actions = spec.list(&["validationActions"]).iter().filter_map(Value::as_str);
        Self {
            name: object.name().to_owned(),
            policy: spec.text(&["policyName"]).to_owned(),
            rules: spec["matchResources"]
                .is_object()
                .then(|| Rules::narrowing(&spec["matchResources"])),
            reference: spec["paramRef"].clone(),
            actions: actions.map(str::to_owned).collect(),
        }
    }

    fn does(&self, action: &str) -> bool {
        self.actions.iter().any(|own| own == action)
    }
}

/// Policies of one kind with their bindings.
pub(super) struct Pair {
    policies: Kept<Policy>,
    bindings: Kept<Binding>,
}

/// All policies of the cluster.
pub(crate) struct Policies {
    pub(super) validating: Pair,
    pub(super) mutating: Pair,
}

impl Policies {
    pub fn new() -> Self {
        let pair = |version, policies, bindings| Pair {
            policies: Kept::new((EXEMPT, version, policies), Policy::parse),
            bindings: Kept::new((EXEMPT, version, bindings), Binding::parse),
        };
        Self {
            validating: pair(
                "v1",
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
            ),
            mutating: pair(
                "v1beta1",
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicybindings",
            ),
        }
    }
}

/// A policy as one of its bindings uses it.
#[derive(Clone)]
pub(super) struct Use {
    pub policy: Arc<Policy>,
    binding: Arc<Binding>,
}

impl Pair {
    /// Every use of every policy, in the order of names.
    pub async fn uses(&self, shared: &Shared) -> Result<Vec<Use>, Status> {
        let policies = self.policies.all(shared).await?;
        if policies.is_empty() {
            return Ok(Vec::new());
        }
        let bindings = self.bindings.all(shared).await?;
        let uses = policies.iter().flat_map(|policy| {
            let own = bindings.iter().filter(|binding| binding.policy == policy.name);
            own.map(|binding| Use { policy: Arc::clone(policy), binding: Arc::clone(binding) })
        });
        Ok(uses.collect())
    }
}

/// What a use needs to be evaluated about a request.
struct Case {
    /// The request in the version the policy asks for.
    seen: Seen,
    /// The parameters, one after the other; or why there are none.
    parameters: Result<Vec<Value>, String>,
    namespace: Value,
}

/// A check that did not pass.
struct Failure {
    message: String,
    reason: String,
    index: Option<usize>,
}

impl Use {
    fn title(&self) -> String {
        format!("{} '{}' with binding '{}'", self.policy.kind, self.policy.name, self.binding.name)
    }

    /// Whether the policy is about the request, and what it needs if so.
    async fn case(&self, asked: &Asked<'_>) -> Result<Option<Case>, Status> {
        let Some(handle) = self.policy.rules.resource(asked) else { return Ok(None) };
        let narrowed = self.binding.rules.as_ref();
        if narrowed.is_some_and(|rules| rules.resource(asked).is_none()) {
            return Ok(None);
        }
        for rules in [Some(&self.policy.rules), narrowed].into_iter().flatten() {
            if !rules.selects(asked).await? {
                return Ok(None);
            }
        }
        let seen = Seen::of(asked, handle).await?;
        let namespace = match asked.call.namespace.as_str() {
            "" => Value::Null,
            _ => write::fetch_namespace(asked.call).await?.unwrap_or(Value::Null),
        };
        let parameters = self.parameters(asked).await?;
        Ok(Some(Case { seen, parameters, namespace }))
    }

    async fn parameters(&self, asked: &Asked<'_>) -> Result<Result<Vec<Value>, String>, Status> {
        let reference = &self.binding.reference;
        let Some((version, kind)) =
            self.policy.parameters.as_ref().filter(|_| reference.is_object())
        else {
            return Ok(Ok(vec![Value::Null]));
        };
        let served = asked.call.shared.kinds.served();
        let mut resources = served.handles();
        let found = resources.find(|it| {
            let resource = it.get();
            resource.api_version() == *version && resource.kind == kind.as_str()
        });
        let Some(handle) = found else {
            let why = format!(
                "failed to find resource referenced by paramKind: '{version}, Kind={kind}'"
            );
            return Ok(Err(why));
        };
        let resource = handle.get();
        let call = asked.call;
        let namespace = match (resource.namespaced(), reference.text(&["namespace"])) {
            (false, _) => "",
            (true, "") => call.namespace.as_str(),
            (true, namespace) => namespace,
        };
        if resource.namespaced() && namespace.is_empty() {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Ok(Err(why.to_owned()));
        }
        let name = reference.text(&["name"]);
        let all = if name.is_empty() {
            let selector = LabelSelector::from_object(reference.get("selector")).ok().flatten();
            let mut all = call.shared.list(resource, namespace).await?;
            all.retain(|it| selector.as_ref().is_none_or(|selector| selector.matches(it.labels())));
            all
        } else {
            let one = call.shared.fetch(resource, namespace, name).await?;
            one.into_iter().map(|(object, _)| object).collect()
        };
        if all.is_empty() && reference.text(&["parameterNotFoundAction"]) != "Allow" {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Ok(Err(why.to_owned()));
        }
        Ok(Ok(all))
    }

    /// Checks the object. What cannot be evaluated fails, unless that is to be ignored.
    fn validate(&self, asked: &Asked<'_>, case: &Case, budget: &mut Budget) -> Vec<Failure> {
        let policy = &*self.policy;
        let mut failures = Vec::new();
        let broken = |message: String, index: Option<usize>| {
            (!policy.ignored).then(|| Failure { message, reason: String::new(), index })
        };
        let parameters = match &case.parameters {
            Ok(parameters) => parameters,
            Err(why) => return broken(why.clone(), None).into_iter().collect(),
        };
        let stage = Stage::new(asked.call);
        for parameter in parameters {
            let mut scene = Scene::new(&stage, asked, &case.seen, &policy.variables, budget)
                .with(parameter, &case.namespace);
            match scene.holds(&policy.conditions) {
                Held::Yes => {}
                Held::No => continue,
                Held::Broken(why) => {
                    failures.extend(broken(why, None));
                    continue;
                }
            }
            for (index, validation) in policy.validations.iter().enumerate() {
                match scene.truth(&validation.expression) {
                    Ok(true) => {}
                    Ok(false) => failures.push(Failure {
                        message: message(&mut scene, validation),
                        reason: validation.reason.clone(),
                        index: Some(index),
                    }),
                    Err(why) => failures.extend(broken(why, Some(index))),
                }
            }
            for (key, annotation) in &policy.annotations {
                match scene.json(annotation) {
                    Ok(Value::String(text)) if !text.is_empty() => {
                        asked.call.note(vec![(format!("{}/{key}", policy.name), text)]);
                    }
                    Ok(Value::Null | Value::String(_)) => {}
                    Ok(_) => {
                        let why = format!("expression '{}' gives no text", annotation.text());
                        failures.extend(broken(why, None));
                    }
                    Err(why) => failures.extend(broken(why, None)),
                }
            }
        }
        failures
    }

    /// Does with failures what the binding says.
    fn act(&self, asked: &Asked<'_>, failures: &[Failure]) -> Option<Status> {
        let title = self.title();
        if self.binding.does("Warn") {
            let warning = |it: &Failure| format!("Validation failed for {title}: {}", it.message);
            asked.call.warn(failures.iter().map(warning).collect());
        }
        if self.binding.does("Audit") && !failures.is_empty() {
            let told = failures.iter().map(|failure| {
                json!({"message": failure.message, "policy": self.policy.name,
                    "binding": self.binding.name, "expressionIndex": failure.index.unwrap_or(0),
                    "validationActions": self.binding.actions})
            });
            let told = Value::Array(told.collect()).to_string();
            asked.call.note(vec![(FAILURES.to_owned(), told)]);
        }
        let first = failures.first().filter(|_| self.binding.does("Deny"))?;
        Some(denial(asked, &format!("{title} denied request: {}", first.message), &first.reason))
    }

    /// Has the policy change the object. Says whether it did.
    pub async fn mutate(&self, asked: &mut Asked<'_>) -> Result<bool, Status> {
        let Some(mut case) = self.case(asked).await? else { return Ok(false) };
        let mut budget = Budget::for_request();
        match self.change(asked, &mut case, &mut budget) {
            Ok(false) => Ok(false),
            Ok(true) => {
                let (shared, own) = (&asked.call.shared, asked.call.resource());
                let object =
                    seen_as(shared, case.seen.handle.get(), own, &case.seen.object).await?;
                let changed = object != *asked.object;
                asked.object = Cow::Owned(object);
                Ok(changed)
            }
            Err(why) if self.policy.ignored => {
                tracing::warn!(policy = self.policy.name, why, "passed over a policy that failed");
                Ok(false)
            }
            Err(why) => {
                let message = format!("{} denied request: {why}", self.title());
                Err(denial(asked, &message, ""))
            }
        }
    }

    /// Changes the object as the policy sees it. Says whether there was anything to do.
    fn change(
        &self,
        asked: &Asked<'_>,
        case: &mut Case,
        budget: &mut Budget,
    ) -> Result<bool, String> {
        let parameters = case.parameters.as_ref().map_err(Clone::clone)?;
        let handle = case.seen.handle.clone();
        let schema = handle.get().schema();
        let stage = Stage::new(asked.call);
        let mut did = false;
        for parameter in parameters {
            let mut object = case.seen.object.clone();
            let mut scene = Scene::new(&stage, asked, &case.seen, &self.policy.variables, budget)
                .with(parameter, &case.namespace);
            match scene.holds(&self.policy.conditions) {
                Held::Yes => {}
                Held::No => continue,
                Held::Broken(why) => return Err(why),
            }
            for mutation in &self.policy.mutations {
                match mutation {
                    Mutation::Apply(expression) => {
                        let part = scene.json(expression)?;
                        if !part.is_object() {
                            let text = expression.text();
                            return Err(format!("expression '{text}' gives no object"));
                        }
                        berth_objects::merge_applied(schema, &mut object, &part);
                    }
                    Mutation::Patch(expression) => {
                        let patch = scene.json(expression)?;
                        let patch: json_patch::Patch = serde_json::from_value(patch)
                            .map_err(|error| format!("the patch is none: {error}"))?;
                        json_patch::patch(&mut object, &patch)
                            .map_err(|error| format!("the patch does not apply: {error}"))?;
                    }
                }
                scene.see(&object);
            }
            drop(scene);
            case.seen.object = object;
            did = true;
        }
        Ok(did)
    }
}

/// What a failed validation says.
fn message(scene: &mut Scene<'_>, validation: &Validation) -> String {
    let words = validation.words.as_ref().and_then(|words| scene.text(words).ok());
    let words = words.map(|words| words.trim().to_owned());
    let fit = |it: &String| !it.is_empty() && !it.contains('\n') && it.len() <= LONGEST_MESSAGE;
    if let Some(words) = words.filter(fit) {
        return words;
    }
    match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.expression.text()),
        message => message.to_owned(),
    }
}

fn denial(asked: &Asked<'_>, message: &str, reason: &str) -> Status {
    let subject = Subject { name: asked.name().to_owned(), ..asked.call.subject() };
    let (code, reason) = match reason {
        "Unauthorized" => (401, "Unauthorized"),
        "Forbidden" => (403, "Forbidden"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    let mut status = Status::forbidden(subject, message);
    status.code = code;
    status.reason = Cow::Borrowed(reason);
    let cause = Cause { reason: String::new(), message: message.to_owned(), field: String::new() };
    status.causes.push(cause);
    status
}

/// Asks all policies that may only refuse.
pub(super) async fn validate(asked: &Asked<'_>) -> Result<(), Status> {
    let shared = &asked.call.shared;
    let mut refusal = None;
    for use_ in shared.policies.validating.uses(shared).await? {
        let Some(case) = use_.case(asked).await? else { continue };
        // Each has its own: what one policy costs must not decide whether another can be evaluated.
        let mut budget = Budget::for_request();
        let failures = use_.validate(asked, &case, &mut budget);
        refusal = refusal.or(use_.act(asked, &failures));
    }
    refusal.map_or(Ok(()), Err)
}

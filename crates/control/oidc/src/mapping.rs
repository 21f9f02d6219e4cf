//! From what a token says to a user: claims, prefixes, expressions and rules.

use std::collections::BTreeMap;

use berth_access::Identity;
use berth_cel::{Budget, Program, Variables};
use berth_objects::Object;
use serde_json::{Value, json};

use crate::config::{ConfigError, only, wrong};

/// The cluster's own users and groups begin with this.
const RESERVED: &str = "system:";

/// Where a value comes from.
enum Source {
    Claim { name: String, prefix: String },
    Expression(Program),
}

/// What has to hold.
struct Rule {
    program: Program,
    message: String,
}

/// How claims become a user.
pub(crate) struct Mapping {
    user: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Program)>,
    required: Vec<(String, String)>,
    claims: Vec<Rule>,
    users: Vec<Rule>,
}

fn program(path: &str, text: &str, variable: &str) -> Result<Program, ConfigError> {
    Program::compile(text, &[variable]).map_err(|error| wrong(path, error.to_string()))
}

/// A mapping of a claim or by an expression. `prefixed` ones have to say their prefix, even if it is empty.
fn source(path: &str, value: &Value, prefixed: bool) -> Result<Option<Source>, ConfigError> {
    if value.is_null() {
        return Ok(None);
    }
    let known: &[&str] =
        if prefixed { &["claim", "prefix", "expression"] } else { &["claim", "expression"] };
    only(path, value, known)?;
    let (claim, expression) = (value.text(&["claim"]), value.text(&["expression"]));
    match (claim, expression) {
        ("", "") => Err(wrong(path, "needs a claim or an expression")),
        (name, "") => {
            if prefixed && value.get("prefix").is_none_or(|prefix| !prefix.is_string()) {
                let why = "must be set with a claim; the empty text is for no prefix";
                return Err(wrong(format!("{path}.prefix"), why));
            }
            let prefix = value.text(&["prefix"]).to_owned();
            Ok(Some(Source::Claim { name: name.to_owned(), prefix }))
        }
        ("", text) if value.get("prefix").is_none_or(Value::is_null) => {
            let program = program(&format!("{path}.expression"), text, "claims")?;
            Ok(Some(Source::Expression(program)))
        }
        ("", _) => Err(wrong(format!("{path}.prefix"), "is only for claims")),
        _ => Err(wrong(path, "has both a claim and an expression")),
    }
}

impl Mapping {
    /// From one entry of the configuration.
    pub fn parse(path: &str, item: &Value) -> Result<Self, ConfigError> {
        let (place, mappings) = (format!("{path}.claimMappings"), &item["claimMappings"]);
        only(&place, mappings, &["username", "groups", "uid", "extra"])?;
        let user = source(&format!("{place}.username"), &mappings["username"], true)?;
        let user = user.ok_or_else(|| wrong(format!("{place}.username"), "is required"))?;
        let mut extra = Vec::new();
        for (index, entry) in mappings.list(&["extra"]).iter().enumerate() {
            let place = format!("{place}.extra[{index}]");
            only(&place, entry, &["key", "valueExpression"])?;
            let key = entry.text(&["key"]);
            if !key.contains('/') || key != key.to_lowercase() {
                return Err(wrong(
                    format!("{place}.key"),
                    "must be a lowercase path with a domain",
                ));
            }
            let text = entry.text(&["valueExpression"]);
            let expression = program(&format!("{place}.valueExpression"), text, "claims")?;
            extra.push((key.to_owned(), expression));
        }
        let (mut required, mut claims, mut users) = (Vec::new(), Vec::new(), Vec::new());
        for (index, rule) in item.list(&["claimValidationRules"]).iter().enumerate() {
            let place = format!("{path}.claimValidationRules[{index}]");
            only(&place, rule, &["claim", "requiredValue", "expression", "message"])?;
            match (rule.text(&["claim"]), rule.text(&["expression"])) {
                (claim, "") if !claim.is_empty() => {
                    required.push((claim.to_owned(), rule.text(&["requiredValue"]).to_owned()));
                }
                ("", text) if !text.is_empty() => claims.push(self::rule(&place, rule, "claims")?),
                _ => return Err(wrong(place, "needs either a claim or an expression")),
            }
        }
        for (index, rule) in item.list(&["userValidationRules"]).iter().enumerate() {
            let place = format!("{path}.userValidationRules[{index}]");
            only(&place, rule, &["expression", "message"])?;
            users.push(self::rule(&place, rule, "user")?);
        }
        Ok(Self {
            user,
            groups: source(&format!("{place}.groups"), &mappings["groups"], true)?,
            uid: source(&format!("{place}.uid"), &mappings["uid"], false)?,
            extra,
            required,
            claims,
            users,
        })
    }

    /// The user these claims stand for; or why they stand for nobody.
    pub fn identity(&self, claims: &Value) -> Result<Identity, String> {
        for (claim, wanted) in &self.required {
            if claims.text(&[claim]) != wanted {
                return Err(format!("the claim `{claim}` is not `{wanted}`"));
            }
        }
        let mut budget = Budget::for_request();
        let variables = Variables::new().with("claims", claims);
        hold(&self.claims, &variables, &mut budget)?;
        let user = self.text(&self.user, claims, &mut budget)?;
        if user.is_empty() {
            return Err("the token names no user".to_owned());
        }
        let groups = match &self.groups {
            Some(source) => texts(source, claims, &mut budget)?,
            None => Vec::new(),
        };
        if let Some(name) = [&user].into_iter().chain(&groups).find(|it| it.starts_with(RESERVED)) {
            return Err(format!("`{name}` is a name of the cluster's own"));
        }
        let uid = match &self.uid {
            Some(source) => self.text(source, claims, &mut budget)?,
            None => String::new(),
        };
        let mut extra = BTreeMap::new();
        for (key, program) in &self.extra {
            let value = program.json(&variables, &mut budget).map_err(|error| error.to_string())?;
            let values = list(&value);
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        let identity = Identity { user, uid, groups, extra };
        let told = json!({"username": identity.user, "uid": identity.uid,
            "groups": identity.groups, "extra": identity.extra});
        hold(&self.users, &Variables::new().with("user", &told), &mut budget)?;
        Ok(identity)
    }

    fn text(&self, source: &Source, claims: &Value, budget: &mut Budget) -> Result<String, String> {
        match source {
            Source::Claim { name, prefix } => {
                // An address that nobody has proved to be theirs is anybody's.
                if name == "email" && claims.get("email_verified").is_some_and(|it| it != true) {
                    return Err("the e-mail address is not verified".to_owned());
                }
                match claims.get(name) {
                    Some(Value::String(text)) if !text.is_empty() => Ok(format!("{prefix}{text}")),
                    _ => Err(format!("the claim `{name}` is missing or no text")),
                }
            }
            Source::Expression(program) => {
                let variables = Variables::new().with("claims", claims);
                program.text(&variables, budget).map_err(|error| error.to_string())
            }
        }
    }
}

fn rule(path: &str, rule: &Value, variable: &str) -> Result<Rule, ConfigError> {
    let text = rule.text(&["expression"]);
    let program = program(&format!("{path}.expression"), text, variable)?;
    let message = match rule.text(&["message"]) {
        "" => format!("`{text}` does not hold"),
        message => message.to_owned(),
    };
    Ok(Rule { program, message })
}

fn hold(rules: &[Rule], variables: &Variables<'_>, budget: &mut Budget) -> Result<(), String> {
    for rule in rules {
        match rule.program.truth(variables, budget) {
            Ok(true) => {}
            Ok(false) => return Err(rule.message.clone()),
            Err(error) => return Err(format!("{}: {error}", rule.program.source())),
        }
    }
    Ok(())
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) if one.is_empty() => Vec::new(),
        Value::String(one) => vec![one.clone()],
        other => {
            let all = other.as_array().into_iter().flatten().filter_map(Value::as_str);
            all.map(str::to_owned).collect()
        }
    }
}

/// A claim of one text or several.
fn texts(source: &Source, claims: &Value, budget: &mut Budget) -> Result<Vec<String>, String> {
    match source {
        Source::Claim { name, prefix } => {
            let all = claims.get(name).map(list).unwrap_or_default();
            Ok(all.into_iter().map(|text| format!("{prefix}{text}")).collect())
        }
        Source::Expression(program) => {
            let variables = Variables::new().with("claims", claims);
            let value = program.json(&variables, budget).map_err(|error| error.to_string())?;
            Ok(list(&value))
        }
    }
}

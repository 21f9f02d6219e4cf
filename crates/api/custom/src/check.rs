//! Whether a schema is structural: every field that a value can have is described once, outside of alternatives.

use std::collections::HashSet;

use berth_cel::Program;
use berth_objects::{FieldError, Object};
use serde_json::Value;

use crate::fill::join;
use crate::rules::VARIABLES;
use crate::schema::{Schema, Type};
use crate::validate::Walk;

/// A schema with more parts than this is refused.
const LARGEST: usize = 20_000;
/// Parts may be nested so deeply.
const DEEPEST: usize = 64;
/// All expressions together may have so many bytes.
const EXPRESSIONS: usize = 256 << 10;
/// So many different regular expressions may stand in a schema.
const PATTERNS: usize = 128;
/// Errors are told up to this number.
const TOLD: usize = 100;

/// What is wrong with the schema of a whole object.
pub(crate) fn root(value: &Value, path: &str) -> Vec<FieldError> {
    let mut check =
        Check { errors: Vec::new(), parts: 0, expressions: 0, patterns: HashSet::new() };
    if value.text(&["type"]) != "object" {
        let path = format!("{path}.type");
        match value.text(&["type"]) {
            "" => check.errors.push(FieldError::required(&path, "must not be empty at the root")),
            other => {
                check.errors.push(FieldError::invalid(
                    &path,
                    &other.into(),
                    "must be object at the root",
                ));
            }
        }
    }
    check.structural(value, path, "specified object fields", 0, true);
    check.errors
}

struct Check {
    errors: Vec<FieldError>,
    parts: usize,
    expressions: usize,
    patterns: HashSet<String>,
}

/// What must not stand within alternatives.
const OUTSIDE: [&str; 6] =
    ["description", "type", "default", "additionalProperties", "nullable", "title"];
const EXTENSIONS: [&str; 7] = [
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

/// Alternatives with which it is customary to say that a value is an integer or a text.
fn is_int_or_string(parts: &Value) -> bool {
    let types: Vec<&str> =
        parts.as_array().into_iter().flatten().map(|part| part.text(&["type"])).collect();
    types == ["integer", "string"]
}

impl Check {
    fn forbidden(&mut self, path: String, why: &str) {
        self.errors.push(FieldError::forbidden(&path, why));
    }

    fn invalid(&mut self, path: String, value: &Value, why: impl Into<String>) {
        self.errors.push(FieldError::invalid(&path, value, why));
    }

    fn is_too_much(&mut self, path: &str, depth: usize) -> bool {
        self.parts += 1;
        if self.parts > LARGEST || depth > DEEPEST {
            if self.parts <= LARGEST + 1 {
                self.parts = LARGEST + 1;
                let why = format!(
                    "the schema has more than {LARGEST} parts, or more than {DEEPEST} levels"
                );
                self.forbidden(path.to_owned(), &why);
            }
            return true;
        }
        self.errors.len() >= TOLD
    }

    fn structural(&mut self, value: &Value, path: &str, what: &str, depth: usize, is_root: bool) {
        if self.is_too_much(path, depth) {
            return;
        }
        self.types(value, path, what, is_root);
        self.values(value, path);
        self.lists(value, path);
        self.alternatives(value, path, value, depth);
        self.rules(value, path);
        self.defaults(value, path, is_root);
        let properties = value.map(&["properties"]);
        if properties.is_some()
            && value.get("additionalProperties").is_some_and(|it| *it != Value::Bool(false))
        {
            self.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        for (name, property) in properties.into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            if is_root && name == "metadata" {
                self.metadata(property, &path);
            } else if is_root && matches!(name.as_str(), "apiVersion" | "kind") {
                if !matches!(property.text(&["type"]), "string" | "") {
                    self.invalid(format!("{path}.type"), &property["type"], "must be string");
                }
            } else {
                self.structural(property, &path, "specified object fields", depth + 1, false);
            }
        }
        match value.get("additionalProperties") {
            Some(Value::Bool(false)) => {
                self.forbidden(
                    format!("{path}.additionalProperties"),
                    "additionalProperties cannot be set to false",
                );
            }
            Some(schema @ Value::Object(_)) => {
                self.structural(
                    schema,
                    &format!("{path}.additionalProperties"),
                    "specified object fields",
                    depth + 1,
                    false,
                );
            }
            _ => {}
        }
        match value.get("items") {
            Some(schema @ Value::Object(_)) => {
                self.structural(
                    schema,
                    &format!("{path}.items"),
                    "specified array items",
                    depth + 1,
                    false,
                );
            }
            Some(Value::Array(_)) => {
                self.forbidden(
                    format!("{path}.items"),
                    "items must be a schema object and not an array",
                );
            }
            None if value.text(&["type"]) == "array" => {
                self.errors
                    .push(FieldError::required(&format!("{path}.items"), "must be specified"));
            }
            _ => {}
        }
    }

    fn metadata(&mut self, value: &Value, path: &str) {
        if !matches!(value.text(&["type"]), "object" | "") {
            self.invalid(format!("{path}.type"), &value["type"], "must be object");
        }
        for (name, _) in value.map(&["properties"]).into_iter().flatten() {
            if !matches!(name.as_str(), "name" | "generateName") {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.forbidden(path.to_owned(), why);
                return;
            }
        }
    }

    fn types(&mut self, value: &Value, path: &str, what: &str, is_root: bool) {
        let kind = value.text(&["type"]);
        let int_or_string = value.flag(&["x-kubernetes-int-or-string"]);
        let preserve = value.flag(&["x-kubernetes-preserve-unknown-fields"]);
        let place = format!("{path}.type");
        match (kind, Type::parse(kind)) {
            ("", _) if int_or_string || preserve || is_root => {}
            ("", _) => {
                self.errors
                    .push(FieldError::required(&place, &format!("must not be empty for {what}")));
            }
            (_, None) => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(&place, &kind.into(), &known));
            }
            (_, Some(_)) if int_or_string => {
                self.forbidden(
                    place.clone(),
                    "must be empty if x-kubernetes-int-or-string is true",
                );
            }
            _ => {}
        }
        if preserve && !matches!(kind, "object" | "array" | "") {
            self.invalid(
                place.clone(),
                &kind.into(),
                "must be object or array if x-kubernetes-preserve-unknown-fields is true",
            );
        }
        if value.flag(&["x-kubernetes-embedded-resource"]) {
            if kind != "object" {
                self.invalid(
                    place,
                    &kind.into(),
                    "must be object if x-kubernetes-embedded-resource is true",
                );
            }
            if !preserve && value.map(&["properties"]).is_none_or(serde_json::Map::is_empty) {
                let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
                self.errors.push(FieldError::required(&format!("{path}.properties"), why));
            }
        }
        for field in [
            "$ref",
            "definitions",
            "dependencies",
            "patternProperties",
            "id",
            "$schema",
            "additionalItems",
        ] {
            if value.get(field).is_some() {
                self.forbidden(format!("{path}.{field}"), &format!("{field} is not supported"));
            }
        }
        if value.flag(&["uniqueItems"]) {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(format!("{path}.uniqueItems"), why);
        }
    }

    /// What must make sense by itself, wherever it stands.
    fn values(&mut self, value: &Value, path: &str) {
        if let Some(Value::String(text)) = value.get("pattern")
            && self.patterns.insert(text.clone())
        {
            if self.patterns.len() > PATTERNS {
                let why = format!("the schema has more than {PATTERNS} regular expressions");
                self.forbidden(format!("{path}.pattern"), &why);
            } else if let Err(error) = berth_cel::pattern(text) {
                let why = format!("must be a valid regular expression, but isn't: {error}");
                self.invalid(format!("{path}.pattern"), &text.as_str().into(), why);
            }
        }
        for field in
            ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
        {
            if let Some(number) = value.get(field).filter(|number| number.as_u64().is_none()) {
                self.invalid(format!("{path}.{field}"), number, "must be a non-negative integer");
            }
        }
        if let Some(unit) =
            value.get("multipleOf").filter(|unit| unit.as_f64().is_none_or(|unit| unit <= 0.0))
        {
            self.invalid(format!("{path}.multipleOf"), unit, "must be positive");
        }
    }

    fn lists(&mut self, value: &Value, path: &str) {
        let (list, map) =
            (value.text(&["x-kubernetes-list-type"]), value.text(&["x-kubernetes-map-type"]));
        let place = format!("{path}.x-kubernetes-list-type");
        if !list.is_empty() {
            if !["atomic", "set", "map"].contains(&list) {
                self.errors.push(FieldError::not_supported(
                    &place,
                    &list.into(),
                    &["atomic", "set", "map"],
                ));
            }
            if value.text(&["type"]) != "array" {
                self.invalid(
                    format!("{path}.type"),
                    &value["type"],
                    "must be array if x-kubernetes-list-type is specified",
                );
            }
        }
        if !map.is_empty() {
            if !["atomic", "granular"].contains(&map) {
                let path = format!("{path}.x-kubernetes-map-type");
                self.errors.push(FieldError::not_supported(
                    &path,
                    &map.into(),
                    &["atomic", "granular"],
                ));
            }
            if value.text(&["type"]) != "object" {
                self.invalid(
                    format!("{path}.type"),
                    &value["type"],
                    "must be object if x-kubernetes-map-type is specified",
                );
            }
        }
        self.keys(value, list, path);
    }

    /// The keys of a list, and its elements.
    fn keys(&mut self, value: &Value, list: &str, path: &str) {
        let keys = value.list(&["x-kubernetes-list-map-keys"]);
        let place = format!("{path}.x-kubernetes-list-map-keys");
        let items = value.get("items").unwrap_or(&Value::Null);
        match (list, keys) {
            ("map", []) => {
                self.errors.push(FieldError::required(
                    &place,
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            ("map", keys) => {
                if items.text(&["type"]) != "object" {
                    self.invalid(
                        format!("{path}.items.type"),
                        &items["type"],
                        "must be object if parent array's x-kubernetes-list-type is map",
                    );
                }
                for (number, key) in keys.iter().enumerate() {
                    let name = key.as_str().unwrap_or_default();
                    let Some(property) = items.at(&["properties", name]) else {
                        self.invalid(
                            format!("{place}[{number}]"),
                            key,
                            "entries must all be names of item properties",
                        );
                        continue;
                    };
                    if !matches!(
                        property.text(&["type"]),
                        "string" | "integer" | "number" | "boolean"
                    ) && !property.flag(&["x-kubernetes-int-or-string"])
                    {
                        self.invalid(
                            format!("{path}.items.properties[{name}].type"),
                            &property["type"],
                            "must be a scalar type if parent array's x-kubernetes-list-type is map",
                        );
                    }
                    let required = items.list(&["required"]).contains(key);
                    if !required && property.get("default").is_none() {
                        let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                        self.errors.push(FieldError::required(
                            &format!("{path}.items.properties[{name}].default"),
                            why,
                        ));
                    }
                }
            }
            (_, []) => {}
            (_, _) => self.forbidden(place, "must be empty if x-kubernetes-list-type is not map"),
        }
        if list == "set" {
            let fits = match items.text(&["type"]) {
                "object" => items.text(&["x-kubernetes-map-type"]) == "atomic",
                "array" => items.text(&["x-kubernetes-list-type"]) == "atomic",
                _ => !items.flag(&["nullable"]),
            };
            if !fits {
                self.invalid(
                    format!("{path}.items"),
                    &items["type"],
                    "items of a set must be atomic and not nullable",
                );
            }
        }
    }

    /// Alternatives judge what is described outside of them. `outer` is that description.
    fn alternatives(&mut self, value: &Value, path: &str, outer: &Value, depth: usize) {
        let free = outer.flag(&["x-kubernetes-int-or-string"]);
        for field in ["allOf", "anyOf", "oneOf"] {
            let Some(parts) = value.get(field) else { continue };
            if free && field == "anyOf" && is_int_or_string(parts) {
                continue;
            }
            for (place, part) in parts.as_array().into_iter().flatten().enumerate() {
                let path = format!("{path}.{field}[{place}]");
                // With the customary alternatives, anything else is said in allOf.
                if free && field == "allOf" && part.get("anyOf").is_some_and(is_int_or_string) {
                    continue;
                }
                self.nested(part, &path, outer, depth + 1);
            }
        }
        if let Some(not) = value.get("not") {
            self.nested(not, &format!("{path}.not"), outer, depth + 1);
        }
    }

    fn nested(&mut self, value: &Value, path: &str, outer: &Value, depth: usize) {
        if self.is_too_much(path, depth) {
            return;
        }
        for field in OUTSIDE.iter().chain(&EXTENSIONS) {
            let set = match value.get(*field) {
                None | Some(Value::Bool(false)) => false,
                // Rules within allOf judge as any others.
                Some(_) => *field != "x-kubernetes-validations",
            };
            if set {
                self.forbidden(format!("{path}.{field}"), "must be empty to be structural");
            }
        }
        self.values(value, path);
        for (name, property) in value.map(&["properties"]).into_iter().flatten() {
            let described = outer.at(&["properties", name]);
            let described =
                described.or_else(|| outer.get("additionalProperties").filter(|it| it.is_object()));
            let path = format!("{path}.properties[{name}]");
            match described {
                Some(described) => self.nested(property, &path, described, depth + 1),
                None if outer.flag(&["x-kubernetes-preserve-unknown-fields"])
                    && property.as_object().is_none_or(serde_json::Map::is_empty) => {}
                None if name == "metadata" => {}
                None => {
                    let why = format!("because it is defined in {path}");
                    self.errors.push(FieldError::required(&path, &why));
                }
            }
        }
        if let (Some(items), Some(described)) = (value.get("items"), outer.get("items")) {
            self.nested(items, &format!("{path}.items"), described, depth + 1);
        }
        self.alternatives(value, path, outer, depth);
    }

    fn defaults(&mut self, value: &Value, path: &str, is_root: bool) {
        let Some(default) = value.get("default") else { return };
        let path = format!("{path}.default");
        if is_root {
            self.forbidden(path, "must not be set at the root");
            return;
        }
        let schema = Schema::parse(value);
        let mut pruned = default.clone();
        let mut unknown = Vec::new();
        schema.prune(&mut pruned, "", &mut unknown);
        if let Some(unknown) = unknown.first() {
            self.invalid(
                path,
                &"object".into(),
                format!("must not have unknown fields: {unknown}"),
            );
            return;
        }
        schema.fill(&mut pruned);
        let mut walk = Walk::new();
        walk.run(&schema, &pruned, None);
        self.errors.extend(walk.errors.into_iter().map(|error| {
            let place = if error.path().is_empty() || error.path() == "<nil>" {
                path.clone()
            } else {
                join(&path, error.path())
            };
            FieldError::invalid(&place, default, error.to_string())
        }));
    }

    fn rules(&mut self, value: &Value, path: &str) {
        for (place, rule) in value.list(&["x-kubernetes-validations"]).iter().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{place}]");
            let text = rule.text(&["rule"]);
            self.expressions += text.len() + rule.text(&["messageExpression"]).len();
            if self.expressions > EXPRESSIONS {
                let why = format!("the expressions have more than {EXPRESSIONS} bytes together");
                self.forbidden(path, &why);
                return;
            }
            if text.trim().is_empty() {
                self.errors
                    .push(FieldError::required(&format!("{path}.rule"), "rule is not specified"));
                continue;
            }
            let transition = match Program::compile(text, &VARIABLES) {
                Ok(program) => {
                    self.selections(&program, value, &format!("{path}.rule"));
                    program.uses("oldSelf")
                }
                Err(error) => {
                    self.invalid(
                        format!("{path}.rule"),
                        &text.into(),
                        format!("compilation failed: {error}"),
                    );
                    continue;
                }
            };
            let message = rule.text(&["messageExpression"]);
            if !message.is_empty() {
                match Program::compile(message, &VARIABLES) {
                    Ok(program) => {
                        self.selections(&program, value, &format!("{path}.messageExpression"))
                    }
                    Err(error) => {
                        let why = format!("messageExpression compilation failed: {error}");
                        self.invalid(format!("{path}.messageExpression"), &message.into(), why);
                    }
                }
            }
            if rule.text(&["message"]).contains('\n') {
                self.invalid(
                    format!("{path}.message"),
                    &rule["message"],
                    "message must not contain line breaks",
                );
            }
            if rule.flag(&["optionalOldSelf"]) && !transition {
                self.invalid(
                    format!("{path}.optionalOldSelf"),
                    &true.into(),
                    "may not be set if oldSelf is not used in rule",
                );
            }
            const REASONS: [&str; 4] = [
                "FieldValueForbidden",
                "FieldValueDuplicate",
                "FieldValueInvalid",
                "FieldValueRequired",
            ];
            if let Some(reason) =
                rule.get("reason").filter(|it| !REASONS.contains(&it.as_str().unwrap_or_default()))
            {
                self.errors.push(FieldError::not_supported(
                    &format!("{path}.reason"),
                    reason,
                    &REASONS,
                ));
            }
            let field = rule.text(&["fieldPath"]);
            if !field.is_empty() && !leads(field, value) {
                self.invalid(
                    format!("{path}.fieldPath"),
                    &field.into(),
                    "does not refer to a valid field",
                );
            }
        }
    }

    /// Fields an expression selects must be there in the schema.
    fn selections(&mut self, program: &Program, value: &Value, path: &str) {
        for variable in VARIABLES {
            for selection in program.selections(variable) {
                let mut at = value;
                for escaped in &selection {
                    let name = berth_cel::unescape(escaped);
                    let about = ["apiVersion", "kind", "metadata"].contains(&name.as_str());
                    let known = at
                        .at(&["properties", &name])
                        .or_else(|| at.get("additionalProperties").filter(|it| it.is_object()));
                    match known {
                        Some(next) => at = next,
                        None if about
                            || at.text(&["type"]) != "object"
                            || at.get("properties").is_none() =>
                        {
                            break;
                        }
                        None => {
                            let why = format!(
                                "compilation failed: ERROR: <input>: undefined field '{escaped}'"
                            );
                            self.invalid(path.to_owned(), &program.source().into(), why);
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// Whether a path of a rule leads to a field.
fn leads(field: &str, value: &Value) -> bool {
    let mut at = value;
    let mut rest = field;
    while !rest.is_empty() {
        let name = if let Some(quoted) = rest.strip_prefix("['") {
            let Some((name, after)) = quoted.split_once("']") else { return false };
            rest = after;
            name
        } else if let Some(plain) = rest.strip_prefix('.') {
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            let (name, after) = plain.split_at(end);
            rest = after;
            name
        } else {
            return false;
        };
        let next = at.at(&["properties", name]);
        match next.or_else(|| at.get("additionalProperties").filter(|it| it.is_object())) {
            Some(next) => at = next,
            None => return false,
        }
    }
    true
}

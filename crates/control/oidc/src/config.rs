//! The configuration: `AuthenticationConfiguration` of `apiserver.config.k8s.io/v1`.

use berth_objects::Object;
use serde_json::Value;

use crate::keys::Keys;
use crate::mapping::Mapping;

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no YAML.
    #[error("the configuration cannot be read: {0}")]
    Form(String),
    /// Something in it.
    #[error("{path}: {why}")]
    Field {
        /// Where.
        path: String,
        /// What.
        why: String,
    },
}

pub(crate) fn wrong(path: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Field { path: path.into(), why: why.into() }
}

/// A provider whose tokens are believed.
pub(crate) struct Issuer {
    pub url: String,
    pub audiences: Vec<String>,
    pub keys: Keys,
    pub mapping: Mapping,
}

/// Refuses fields nobody knows: a misspelt rule would be one that does not hold.
pub(crate) fn only(path: &str, value: &Value, known: &[&str]) -> Result<(), ConfigError> {
    let fields = value.as_object().ok_or_else(|| wrong(path, "must be an object"))?;
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(wrong(format!("{path}.{name}").trim_start_matches('.'), "unknown field")),
        None => Ok(()),
    }
}

pub(crate) fn parse(text: &str) -> Result<Vec<Issuer>, ConfigError> {
    let root =
        berth_objects::yaml::parse(text).map_err(|error| ConfigError::Form(error.to_string()))?;
    only("", &root, &["apiVersion", "kind", "jwt"])?;
    if root.text(&["kind"]) != "AuthenticationConfiguration" {
        return Err(wrong("kind", "must be AuthenticationConfiguration"));
    }
    if !VERSIONS.contains(&root.text(&["apiVersion"])) {
        return Err(wrong("apiVersion", format!("must be {}", VERSIONS[0])));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    for (index, item) in root.list(&["jwt"]).iter().enumerate() {
        let path = format!("jwt[{index}]");
        let issuer = issuer(&path, item)?;
        if issuers.iter().any(|known| known.url == issuer.url) {
            return Err(wrong(format!("{path}.issuer.url"), "is there twice"));
        }
        issuers.push(issuer);
    }
    if issuers.is_empty() {
        return Err(wrong("jwt", "names no issuer"));
    }
    Ok(issuers)
}

fn issuer(path: &str, item: &Value) -> Result<Issuer, ConfigError> {
    only(path, item, &["issuer", "claimMappings", "claimValidationRules", "userValidationRules"])?;
    let place = format!("{path}.issuer");
    let issuer = &item["issuer"];
    let known = ["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy"];
    only(&place, issuer, &known)?;
    let url = issuer.text(&["url"]);
    for (field, url) in [("url", url), ("discoveryURL", issuer.text(&["discoveryURL"]))] {
        if field == "discoveryURL" && url.is_empty() {
            continue;
        }
        if !url.starts_with("https://") {
            return Err(wrong(format!("{place}.{field}"), "must begin with https://"));
        }
    }
    let audiences = issuer.list(&["audiences"]).iter().filter_map(Value::as_str);
    let audiences: Vec<String> = audiences.map(str::to_owned).collect();
    if audiences.is_empty() {
        return Err(wrong(format!("{place}.audiences"), "must name at least one audience"));
    }
    let roots = Some(issuer.text(&["certificateAuthority"])).filter(|pem| !pem.is_empty());
    let discovery = match issuer.text(&["discoveryURL"]) {
        "" => format!("{}/.well-known/openid-configuration", url.trim_end_matches('/')),
        other => other.to_owned(),
    };
    let keys = Keys::new(url, &discovery, roots)
        .map_err(|error| wrong(format!("{place}.certificateAuthority"), error.to_string()))?;
    Ok(Issuer { url: url.to_owned(), audiences, keys, mapping: Mapping::parse(path, item)? })
}

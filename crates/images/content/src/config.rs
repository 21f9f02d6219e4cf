//! The image configuration beyond the OCI specification, and writing it with stable digests.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What docker adds to an image's `config`, and everyone relies on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerConfig {
    /// How to find out whether a container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What the shell form of instructions runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for builds that start from this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
}

/// A health check. Durations are nanoseconds, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// During which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two checks during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row before the container is unwell.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl DockerConfig {
    pub(crate) fn parse(config: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Whole {
            config: Option<DockerConfig>,
        }
        serde_json::from_slice::<Whole>(config).map(|whole| whole.config.unwrap_or_default())
    }
}

/// The bytes of a configuration: the same for the same content, whatever the order in its maps.
///
/// # Errors
///
/// When it cannot be encoded, which would be a defect of the types.
pub fn encode_config(
    config: &ImageConfiguration,
    docker: &DockerConfig,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut whole = serde_json::to_value(config)?;
    if let (Value::Object(extra), Some(root)) =
        (serde_json::to_value(docker)?, whole.as_object_mut())
        && !extra.is_empty()
    {
        let inner = root.entry("config").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(inner) = inner.as_object_mut() {
            inner.extend(extra);
        }
    }
    whole.sort_all_objects();
    serde_json::to_vec(&whole)
}

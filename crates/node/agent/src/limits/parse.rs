//! Reading limits from a configuration in a kubelet's form.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_client::demand::Amounts;
use serde::Deserialize;
use serde_json::Value;

use super::{Bound, Limits, Signal, Threshold, default_thresholds};

/// Why a configuration is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// It is of another kind.
    #[error("it must be a KubeletConfiguration of kubelet.config.k8s.io/v1beta1")]
    Kind,
    /// Its fields are not what they should be.
    #[error("{0}")]
    Form(String),
    /// A value cannot be understood.
    #[error("`{field}`: {why}")]
    Value {
        /// The field.
        field: String,
        /// The reason.
        why: String,
    },
    /// There is not so much.
    #[error("more `{0}` is reserved than the machine has")]
    Capacity(String),
}

type Texts = BTreeMap<String, String>;

/// The fields that are heeded.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    #[serde(rename = "apiVersion")]
    _version: String,
    #[serde(rename = "kind")]
    _kind: String,
    system_reserved: Texts,
    kube_reserved: Texts,
    eviction_hard: Option<Texts>,
    eviction_soft: Texts,
    eviction_soft_grace_period: Texts,
    eviction_minimum_reclaim: Texts,
    eviction_pressure_transition_period: Option<String>,
    eviction_max_pod_grace_period: Option<u64>,
    merge_default_eviction_settings: bool,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_high: Option<u64>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_low: Option<u64>,
    #[serde(rename = "imageMinimumGCAge")]
    image_youngest: Option<String>,
    #[serde(rename = "imageMaximumGCAge")]
    image_oldest: Option<String>,
    max_pods: Option<u32>,
    pod_pids_limit: Option<i64>,
    // Read by whoever looks after static pods.
    #[serde(rename = "staticPodPath")]
    _static_pod_path: Option<String>,
    #[serde(rename = "fileCheckFrequency")]
    _file_check_frequency: Option<String>,
}

fn wrong(field: &str, why: impl Into<String>) -> LimitsError {
    LimitsError::Value { field: field.to_owned(), why: why.into() }
}

impl Limits {
    /// Reads a configuration. What it does not name is as by default.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(value: &Value) -> Result<Self, LimitsError> {
        let is = |field: &str, wanted: &str| value[field].as_str() == Some(wanted);
        if !is("apiVersion", "kubelet.config.k8s.io/v1beta1") || !is("kind", "KubeletConfiguration")
        {
            return Err(LimitsError::Kind);
        }
        let file: File = serde_json::from_value(value.clone())
            .map_err(|error| LimitsError::Form(error.to_string()))?;
        let mut limits = Self {
            system: reserved("systemReserved", &file.system_reserved)?,
            own: reserved("kubeReserved", &file.kube_reserved)?,
            ..Self::default()
        };
        limits.thresholds = thresholds(&file)?;
        if let Some(text) = &file.eviction_pressure_transition_period {
            limits.transition = duration("evictionPressureTransitionPeriod", text)?;
        }
        limits.longest_grace = Duration::from_secs(file.eviction_max_pod_grace_period.unwrap_or(0));
        images(&file, &mut limits)?;
        limits.pods = file.max_pods.unwrap_or(limits.pods);
        limits.pod_processes = match file.pod_pids_limit {
            None | Some(-1) => None,
            Some(limit) if limit > 0 => Some(limit),
            Some(_) => return Err(wrong("podPidsLimit", "must be -1 or greater than 0")),
        };
        Ok(limits)
    }
}

fn images(file: &File, limits: &mut Limits) -> Result<(), LimitsError> {
    let images = &mut limits.images;
    images.high = file.image_high.unwrap_or(images.high);
    images.low = file.image_low.unwrap_or(images.low.min(images.high.saturating_sub(1)));
    if images.high > 100 {
        return Err(wrong("imageGCHighThresholdPercent", "must be between 0 and 100"));
    }
    if images.low >= images.high {
        let why = "must be less than imageGCHighThresholdPercent";
        return Err(wrong("imageGCLowThresholdPercent", why));
    }
    if let Some(text) = &file.image_youngest {
        images.youngest = duration("imageMinimumGCAge", text)?;
    }
    if let Some(text) = &file.image_oldest {
        let oldest = duration("imageMaximumGCAge", text)?;
        images.oldest = Some(oldest).filter(|it| !it.is_zero());
        if images.oldest.is_some_and(|oldest| oldest <= images.youngest) {
            return Err(wrong("imageMaximumGCAge", "must be longer than imageMinimumGCAge"));
        }
    }
    Ok(())
}

/// Resources of the node that can be reserved.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

fn reserved(field: &str, texts: &Texts) -> Result<Amounts, LimitsError> {
    let read = |(name, text): (&String, &String)| {
        let field = format!("{field}.{name}");
        if !RESERVABLE.contains(&name.as_str()) {
            return Err(wrong(&field, format!("can be one of {}", RESERVABLE.join(", "))));
        }
        let quantity: berth_objects::Quantity = text
            .parse()
            .map_err(|error: berth_objects::NotAQuantity| wrong(&field, error.to_string()))?;
        if quantity.is_negative() {
            return Err(wrong(&field, "must not be less than zero"));
        }
        let amount = if name == "cpu" { quantity.milli() } else { quantity.value() };
        Ok((name.clone(), amount))
    };
    texts.iter().map(read).collect()
}

fn signal(field: &str, name: &str) -> Result<Signal, LimitsError> {
    const NAMED: [Signal; 6] = [
        Signal::Memory,
        Signal::Disk,
        Signal::DiskFiles,
        Signal::ImageDisk,
        Signal::ImageFiles,
        Signal::Processes,
    ];
    let found = NAMED.into_iter().find(|signal| signal.as_str() == name);
    found.ok_or_else(|| {
        let all = NAMED.map(Signal::as_str).join(", ");
        wrong(&format!("{field}.{name}"), format!("can be one of {all}"))
    })
}

fn bound(field: &str, name: &str, text: &str) -> Result<Bound, LimitsError> {
    let field = format!("{field}.{name}");
    if let Some(percent) = text.strip_suffix('%') {
        // A number with two places after the point.
        let (whole, rest) = percent.split_once('.').unwrap_or((percent, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let part = (digits(whole) && digits(rest) && rest.len() <= 2)
            .then(|| format!("{whole}{rest:0<2}").parse::<u64>().ok())
            .flatten()
            .filter(|part| *part <= 10_000 && !whole.is_empty());
        return part.map(Bound::Part).ok_or_else(|| {
            wrong(&field, "must be between 0% and 100%, with at most two digits after the point")
        });
    }
    let quantity: berth_objects::Quantity = text
        .parse()
        .map_err(|error: berth_objects::NotAQuantity| wrong(&field, error.to_string()))?;
    let amount = u64::try_from(quantity.value());
    amount.map(Bound::Amount).map_err(|_| wrong(&field, "must not be less than zero"))
}

fn thresholds(file: &File) -> Result<Vec<Threshold>, LimitsError> {
    let mut reclaims = BTreeMap::new();
    for (name, text) in &file.eviction_minimum_reclaim {
        let field = "evictionMinimumReclaim";
        reclaims.insert(signal(field, name)?, bound(field, name, text)?);
    }
    let mut all = Vec::new();
    for (name, text) in file.eviction_hard.iter().flatten() {
        let field = "evictionHard";
        let (signal, bound) = (signal(field, name)?, bound(field, name, text)?);
        all.push(Threshold { signal, bound, grace: None, reclaim: Bound::NONE });
    }
    if file.eviction_hard.is_none() || file.merge_default_eviction_settings {
        let named: Vec<Signal> = all.iter().map(|threshold| threshold.signal).collect();
        all.extend(default_thresholds().into_iter().filter(|it| !named.contains(&it.signal)));
    }
    for (name, text) in &file.eviction_soft {
        let field = "evictionSoft";
        let (signal, bound) = (signal(field, name)?, bound(field, name, text)?);
        let field = "evictionSoftGracePeriod";
        let grace = file.eviction_soft_grace_period.get(name);
        let grace = grace.ok_or_else(|| {
            wrong(&format!("{field}.{name}"), "is needed for each soft threshold")
        })?;
        let grace = Some(duration(&format!("{field}.{name}"), grace)?);
        all.push(Threshold { signal, bound, grace, reclaim: Bound::NONE });
    }
    for name in file.eviction_soft_grace_period.keys() {
        if !file.eviction_soft.contains_key(name) {
            let field = format!("evictionSoftGracePeriod.{name}");
            return Err(wrong(&field, "there is no such soft threshold"));
        }
    }
    for threshold in &mut all {
        threshold.reclaim = reclaims.get(&threshold.signal).copied().unwrap_or(Bound::NONE);
    }
    // Nothing is ever short of nothing: this is how a threshold is switched off.
    all.retain(|it| !matches!(it.bound, Bound::Amount(0) | Bound::Part(0)));
    Ok(all)
}

/// Times as Go writes them: `1m30s`, `500ms`, `0s`.
///
/// # Errors
/// Names the field.
pub(crate) fn duration(field: &str, text: &str) -> Result<Duration, LimitsError> {
    let failed = || wrong(field, format!("`{text}` is no time, write for example 1m30s"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit);
        let number: u32 = number.parse().map_err(|_| failed())?;
        let unit = match unit {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return Err(failed()),
        };
        sum += unit.checked_mul(number).ok_or_else(failed)?;
        rest = after;
    }
    if text.is_empty() { Err(failed()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(extra: Value) -> Value {
        let mut file = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        });
        file.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        file
    }

    #[test]
    fn what_is_not_named_is_as_by_default() {
        assert_eq!(Limits::parse(&file(json!({}))).unwrap(), Limits::default());
        let one =
            Limits::parse(&file(json!({"evictionHard": {"memory.available": "5%"}}))).unwrap();
        // As upstream: whoever names some hard thresholds has no others.
        assert_eq!(one.thresholds.len(), 1);
        assert_eq!(one.thresholds[0].bound, Bound::Part(500));
        let merged = json!({"evictionHard": {"memory.available": "1Gi", "pid.available": "0%"},
                            "mergeDefaultEvictionSettings": true});
        let merged = Limits::parse(&file(merged)).unwrap();
        assert_eq!(merged.hard(Signal::Memory).unwrap().bound, Bound::Amount(1 << 30));
        assert!(merged.hard(Signal::Processes).is_none() && merged.hard(Signal::Disk).is_some());
    }

    #[test]
    fn everything_can_be_said() {
        let all = Limits::parse(&file(json!({
            "systemReserved": {"cpu": "500m", "memory": "1Gi"},
            "kubeReserved": {"ephemeral-storage": "1G", "pid": "100"},
            "evictionSoft": {"nodefs.available": "12.5%"},
            "evictionSoftGracePeriod": {"nodefs.available": "1m30s"},
            "evictionMinimumReclaim": {"nodefs.available": "500Mi"},
            "evictionPressureTransitionPeriod": "0s",
            "evictionMaxPodGracePeriod": 20,
            "imageGCHighThresholdPercent": 70, "imageGCLowThresholdPercent": 60,
            "imageMinimumGCAge": "1h", "imageMaximumGCAge": "48h",
            "maxPods": 50, "podPidsLimit": 1000,
        })))
        .unwrap();
        assert_eq!((all.system["cpu"], all.own["pid"]), (500, 100));
        let soft = all.thresholds.iter().find(|it| it.grace.is_some()).unwrap();
        assert_eq!(soft.bound, Bound::Part(1250));
        assert_eq!(soft.grace, Some(Duration::from_secs(90)));
        assert_eq!(soft.reclaim, Bound::Amount(500 << 20));
        assert_eq!((all.transition, all.longest_grace.as_secs()), (Duration::ZERO, 20));
        assert_eq!((all.images.high, all.images.low, all.pods), (70, 60, 50));
        assert_eq!(all.images.oldest, Some(Duration::from_hours(48)));
        assert_eq!(all.pod_processes, Some(1000));
    }

    #[test]
    fn mistakes_are_named() {
        for (extra, wanted) in [
            (json!({"kind": "Other"}), "must be a KubeletConfiguration"),
            (
                json!({"nodeStatusUpdateFrequency": "1s"}),
                "unknown field `nodeStatusUpdateFrequency`",
            ),
            (json!({"systemReserved": {"gpu": "1"}}), "`systemReserved.gpu`: can be one of cpu"),
            (json!({"systemReserved": {"cpu": "-1"}}), "must not be less than zero"),
            (json!({"kubeReserved": {"cpu": "many"}}), "`kubeReserved.cpu`: quantities must match"),
            (
                json!({"evictionHard": {"memory": "1Gi"}}),
                "`evictionHard.memory`: can be one of memory.available",
            ),
            (json!({"evictionHard": {"memory.available": "101%"}}), "must be between 0% and 100%"),
            (json!({"evictionHard": {"memory.available": "%"}}), "must be between 0% and 100%"),
            (json!({"evictionHard": {"memory.available": "1.234%"}}), "two digits"),
            (
                json!({"evictionSoft": {"memory.available": "1Gi"}}),
                "is needed for each soft threshold",
            ),
            (
                json!({"evictionSoftGracePeriod": {"memory.available": "1s"}}),
                "there is no such soft threshold",
            ),
            (json!({"evictionPressureTransitionPeriod": "soon"}), "`soon` is no time"),
            (json!({"evictionPressureTransitionPeriod": ""}), "is no time"),
            (json!({"imageMinimumGCAge": "-1s"}), "is no time"),
            (json!({"imageGCHighThresholdPercent": 101}), "must be between 0 and 100"),
            (
                json!({"imageGCHighThresholdPercent": 50, "imageGCLowThresholdPercent": 50}),
                "must be less than",
            ),
            (json!({"imageMaximumGCAge": "1m"}), "must be longer than imageMinimumGCAge"),
            (json!({"podPidsLimit": 0}), "must be -1 or greater than 0"),
            (json!({"maxPods": -1}), "invalid value"),
        ] {
            let refused = Limits::parse(&file(extra.clone())).unwrap_err().to_string();
            assert!(refused.contains(wanted), "{extra}: {refused}");
        }
    }
}

//! The short form of volumes, `[source:]target[:options]`.

use super::ValueError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortVolume {
    pub(crate) source: Option<String>,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

impl ShortVolume {
    /// A path on the host rather than a volume's name.
    pub(crate) fn is_bind(&self) -> bool {
        self.source.as_deref().is_some_and(is_path)
    }
}

/// Whether a source is a path.
pub(crate) fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
}

pub(crate) fn parse(text: &str) -> Result<ShortVolume, ValueError> {
    let fail = |why: &str| {
        ValueError::Other(format!(
            "`{text}` is not a volume: {why}; write `name:/path`, `./folder:/path` or `./folder:/path:ro`"
        ))
    };
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    let second = parts.next();
    let options = parts.next();
    if parts.next().is_some() {
        return Err(fail("it has more than three parts"));
    }
    let (source, target) = match second {
        None => (None, first),
        Some(target) => (Some(first), target),
    };
    if source == Some("") {
        return Err(fail("the part before the colon is empty"));
    }
    if !target.starts_with('/') {
        return Err(fail("the path in the container must begin with `/`"));
    }
    Ok(ShortVolume {
        source: source.map(str::to_owned),
        target: target.to_owned(),
        options: options
            .unwrap_or_default()
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_short_form() {
        let data = parse("data:/var/lib:ro,z").unwrap();
        assert_eq!(data.source.as_deref(), Some("data"));
        assert_eq!(data.options, ["ro", "z"]);
        assert!(!data.is_bind());
        assert!(parse("./a:/b").unwrap().is_bind());
        assert_eq!(parse("/cache").unwrap().source, None);
    }

    #[test]
    fn says_what_is_wrong() {
        for wrong in ["", "data", ":/x", "a:b", "a:/b:ro:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! `.dockerignore`: what of the context a build does not see.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use crate::error::BuildError;

/// The rules, in order; the last that fits decides.
#[derive(Default)]
pub(crate) struct Ignore {
    rules: Vec<Rule>,
}

struct Rule {
    matcher: GlobMatcher,
    /// `!`: bring it back.
    keep: bool,
}

impl Ignore {
    /// The file beside the Dockerfile (`<Dockerfile>.dockerignore`) if there is one, else the context's own.
    pub(crate) fn load(context: &Path, dockerfile: &Path) -> Result<Self, BuildError> {
        let mut own = dockerfile.as_os_str().to_owned();
        own.push(".dockerignore");
        for path in [PathBuf::from(own), context.join(".dockerignore")] {
            match fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&text, &path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(BuildError::Read { path, source }),
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &str, path: &Path) -> Result<Self, BuildError> {
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            if pattern.is_empty() || pattern == "." {
                continue;
            }
            let matcher = pattern_matcher(pattern).map_err(|error| {
                let place = format!("{}:{}", path.display(), number + 1);
                BuildError::Request(format!("{place}: bad pattern `{pattern}`: {}", error.kind()))
            })?;
            rules.push(Rule { matcher, keep });
        }
        Ok(Self { rules })
    }

    /// Whether a path relative to the context is left out. A rule for a folder covers what is in it.
    pub(crate) fn hides(&self, path: &Path) -> bool {
        let mut hidden = false;
        for rule in &self.rules {
            if rule.keep == hidden
                && path
                    .ancestors()
                    .any(|part| !part.as_os_str().is_empty() && rule.matcher.is_match(part))
            {
                hidden = !rule.keep;
            }
        }
        hidden
    }

    /// Whether something below a hidden folder may come back, so that it has to be looked into.
    pub(crate) fn may_bring_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.keep)
    }
}

/// `*` stays within one folder, `**` does not.
pub(crate) fn pattern_matcher(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()?
        .compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_fits_decides() {
        let text = "# comment\n*.log\n**/target\n/docs\n!docs/README.md\nsecret*\n!*.log.keep\n";
        let ignore = Ignore::parse(text, Path::new(".dockerignore")).unwrap_or_default();
        for (path, hidden) in [
            ("a.log", true),
            ("sub/a.log", false),
            ("target", true),
            ("sub/target/x", true),
            ("docs/x", true),
            ("docs/README.md", false),
            ("secrets/x", true),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignore.hides(Path::new(path)), hidden, "{path}");
        }
    }
}

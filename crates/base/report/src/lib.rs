//! Errors as text, for places that keep nothing else: logs, messages of objects, replies over a socket.
//!
//! An error of ours leaves its cause to `source`, but some libraries repeat theirs. A cause that the text before it already says is
//! therefore left out, which costs nothing where it would have been said once.

use std::error::Error;

/// The error and its causes in one text, the outermost first.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    fn layers(texts: &[&'static str]) -> Layer {
        Layer(texts[0], texts.get(1).map(|_| Box::new(layers(&texts[1..]))))
    }

    #[test]
    fn causes_follow_what_they_caused() {
        let error = layers(&["cannot start", "cannot open `a`", "no such file"]);
        assert_eq!(chain(&error), "cannot start: cannot open `a`: no such file");
        assert_eq!(chain(&layers(&["alone"])), "alone");
    }

    #[test]
    fn what_is_repeated_is_said_once() {
        let error = layers(&["cannot ask: refused", "refused", "by the peer"]);
        assert_eq!(chain(&error), "cannot ask: refused: by the peer");
    }
}

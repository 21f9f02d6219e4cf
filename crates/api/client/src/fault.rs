//! What went wrong with a request, in words for people.
//!
//! The library's own error prints the whole Status with every field; here the server's message stands alone.

/// A request that did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server answered, and said no. The same request gives the same answer until something changes there.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The machine's word for it, `NotFound`.
        reason: String,
        /// The server's words.
        message: String,
    },
    /// There was no answer that could be understood; another attempt may help.
    #[error("the server cannot be reached or does not answer as it should")]
    Unreachable(#[source] kube::Error),
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            other => Self::Unreachable(other),
        }
    }
}

impl From<kube::core::Status> for Fault {
    fn from(status: kube::core::Status) -> Self {
        let message =
            if status.message.is_empty() { status.reason.clone() } else { status.message };
        Self::Refused { code: status.code, reason: status.reason, message }
    }
}

impl Fault {
    /// There is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// An object of that name is there already.
    #[must_use]
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == "AlreadyExists")
    }

    /// The revision that was asked for is history.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_server_says() {
        let status = kube::core::Status::failure("pods \"a\" not found", "NotFound").with_code(404);
        let fault = Fault::from(kube::Error::Api(status.boxed()));
        assert_eq!(fault.to_string(), "pods \"a\" not found");
        assert!(fault.is_not_found() && !fault.already_exists());
    }
}

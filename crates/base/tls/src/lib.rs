//! The one door to TLS: rustls configurations with ring, and PEM loading.
//!
//! Nothing installs a process-wide provider; each configuration names its own, so that no library's default gets in.

use std::sync::Arc;

use rustls::ConfigBuilder;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::WebPkiClientVerifier;
pub use rustls::{ClientConfig, ServerConfig};

use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls_platform_verifier::BuilderVerifierExt;

/// Protocols offered to peers, best first.
pub const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a configuration cannot be made. Trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is no PEM, or lacks the part looked for.
    #[error("cannot read {what} from PEM")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// The parser's word.
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate is refused, or key and certificate do not belong together.
    #[error("cannot use the certificate")]
    Certificate(#[from] rustls::Error),
    /// The trusted certificates cannot verify anyone.
    #[error("cannot verify clients with these certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate chain with its private key. Its Debug prints neither.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Parses a PEM chain, own certificate first, and a PEM key.
    ///
    /// # Errors
    /// When either text holds none.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|source| TlsError::Pem { what: "a private key", source })?;
        Ok(Self { chain, key })
    }
}

/// All certificates in a PEM text; at least one.
///
/// # Errors
/// When the text is broken or holds none.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "a certificate";
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() {
        return Err(TlsError::Pem { what, source: rustls_pki_types::pem::Error::NoItemsFound });
    }
    Ok(found)
}

fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server that asks for client certificates of `client_roots` (PEM). A wrong certificate fails the handshake; none at
/// all does not, so that the server can explain itself in its own protocol.
///
/// # Errors
/// When the credentials or roots are not usable.
pub fn server(credentials: Credentials, client_roots: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_roots)?), provider())
            .allow_unauthenticated()
            .build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = HTTP.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// A client that trusts `server_roots` (PEM) alone and shows `credentials` when asked. It offers no protocol by ALPN; the
/// HTTP library on top adds what it speaks.
///
/// # Errors
/// When the credentials or roots are not usable.
pub fn client(
    server_roots: &str,
    credentials: Option<Credentials>,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(server_roots)?);
    shows(config, credentials)
}

fn shows(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    credentials: Option<Credentials>,
) -> Result<ClientConfig, TlsError> {
    Ok(match credentials {
        Some(own) => config.with_client_auth_cert(own.chain, own.key)?,
        None => config.with_no_client_auth(),
    })
}

/// A client that trusts the machine's own authorities and shows `credentials` when asked.
///
/// # Errors
/// When the machine has none, or the credentials are not usable.
pub fn public_client(credentials: Option<Credentials>) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)?;
    shows(config, credentials)
}

/// A client that takes whatever certificate it is shown, and shows `credentials` when asked: what passes is hidden from who listens,
/// and nobody knows who is at the other end. For peers that somebody has chosen to trust in this way, and for probes, which want
/// to know that a server answers and not who it is.
///
/// # Errors
/// When the credentials are not usable.
pub fn unverified_client(credentials: Option<Credentials>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Unverified(provider.signature_verification_algorithms));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    shows(config, credentials)
}

/// Takes every certificate, and still wants its holder to have the key.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _status: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        let error = certificates("nothing").unwrap_err();
        assert_eq!(error.to_string(), "cannot read a certificate from PEM");
        let error = Credentials::from_pem("", "").unwrap_err();
        assert!(matches!(error, TlsError::Pem { what: "a certificate", .. }));
    }
}

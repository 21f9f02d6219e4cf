//! The cluster's certificate authority: created once, issues server and client certificates.
//!
//! Identities are read from client certificates as Kubernetes does: the common name is the user, the organization is the
//! group.

mod file;
mod kubeconfig;
mod request;
mod token;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};

pub use kubeconfig::Kubeconfig;
pub use request::{Asked, ask};
pub use token::{LONGEST as LONGEST_TOKEN, TokenError, TokenKeys};

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of clients may be this much behind.
const SKEW: Duration = Duration::from_secs(3600);

/// Why a certificate cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error("cannot access `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The certificate library refused, for example a name that is no name.
    #[error("cannot make the certificate")]
    Certificate(#[from] rcgen::Error),
    /// A key that signs tokens is damaged, or cannot be used.
    #[error("cannot use the key that signs tokens")]
    TokenKey,
    /// A request for a certificate is damaged, or asks for what cannot be granted.
    #[error("the request for a certificate is damaged or asks for what cannot be granted")]
    Request,
}

/// A certificate chain and its key, both PEM. Its Debug prints neither.
pub struct Issued {
    /// The certificate, followed by none: clients know the authority.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// The authority, ready to issue.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority in a folder, creating both on first use. The key file can be read by its owner only.
    /// Two processes must not do this at once on a new folder.
    ///
    /// # Errors
    /// When the files cannot be read or written, or are damaged.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
        // The certificate is written last: without it the key was never used.
        let certificate = match std::fs::read_to_string(&certificate_path) {
            Ok(certificate) => certificate,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (certificate, key) = create()?;
                file::folder(folder)?;
                file::write(&key_path, key.as_bytes())?;
                file::write(&certificate_path, certificate.as_bytes())?;
                certificate
            }
            Err(source) => return Err(AuthorityError::File { path: certificate_path, source }),
        };
        let key = std::fs::read_to_string(&key_path)
            .map_err(|source| AuthorityError::File { path: key_path, source })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
        Ok(Self { certificate, issuer })
    }

    /// What another server of the same cluster needs to be the same authority: certificate and key, PEM. None where the folder
    /// holds no authority.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn export(folder: &Path) -> Result<Option<Issued>, AuthorityError> {
        let read = |name: &str| {
            let path = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(AuthorityError::File { path, source }),
            }
        };
        let (certificate, key) = (read(CERTIFICATE)?, read(KEY)?);
        Ok(certificate.zip(key).map(|(certificate, key)| Issued { certificate, key }))
    }

    /// Makes the folder that of an authority that was exported elsewhere.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn install(folder: &Path, authority: &Issued) -> Result<(), AuthorityError> {
        file::folder(folder)?;
        file::write(&folder.join(KEY), authority.key.as_bytes())?;
        file::write(&folder.join(CERTIFICATE), authority.certificate.as_bytes())
    }

    /// The authority's own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a server certificate for DNS names and addresses, valid for ten years from now.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn server(&self, names: &[String]) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::new(names)?;
        let common = names.first().map_or("berth", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, TEN_YEARS)
    }

    /// Issues a client certificate for a user in one group, or in none where that is empty.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn client(
        &self,
        user: &str,
        group: &str,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name = DistinguishedName::new();
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, lifetime)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        prepare(&mut params, lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn create() -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, "berth");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    prepare(&mut params, TEN_YEARS);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Sets the validity and a serial number nobody can foretell; both are the library's defaults otherwise.
fn prepare(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(serial());
}

fn serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    // Serial numbers are positive, and a leading zero byte would have to be dropped (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

//! Requests for certificates (PKCS #10): what they ask for, and the certificate that answers one.
//!
//! The subject and the names are the requester's; everything that gives power (usages, lifetime, being an authority) is set
//! here and never taken from the request.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::{Authority, AuthorityError, SKEW, serial};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The common name: the user.
    pub user: String,
    /// The organizations: the groups.
    pub groups: Vec<String>,
    /// DNS names and addresses.
    pub hosts: usize,
    /// Mail addresses, URIs and anything else.
    pub others: usize,
}

fn parse(pem: &str) -> Result<CertificateSigningRequestParams, AuthorityError> {
    Ok(CertificateSigningRequestParams::from_pem(pem)?)
}

impl Asked {
    /// Reads a request, PEM, and checks that whoever made it has the key.
    ///
    /// # Errors
    /// When it is damaged, its signature is wrong, or it asks for more than can be kept apart: a second common name.
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        let params = parse(pem)?.params;
        let mut asked = Self::default();
        for name in &params.subject_alt_names {
            match name {
                SanType::DnsName(_) | SanType::IpAddress(_) => asked.hosts += 1,
                _ => asked.others += 1,
            }
        }
        let (_, body) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| AuthorityError::Request)?;
        let (_, request) = X509CertificationRequest::from_der(&body.contents)
            .map_err(|_| AuthorityError::Request)?;
        let subject = &request.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).map_err(|_| AuthorityError::Request)
        };
        let users: Vec<String> = subject.iter_common_name().map(text).collect::<Result<_, _>>()?;
        asked.groups = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        match users.as_slice() {
            [] => {}
            [user] => asked.user.clone_from(user),
            _ => return Err(AuthorityError::Request),
        }
        Ok(asked)
    }
}

impl Authority {
    /// Answers a request with a certificate for these usages, written as the API has them. Returns PEM.
    ///
    /// # Errors
    /// When the request is damaged, names several organizations (which the library would merge into one), or asks for an
    /// unknown usage.
    pub fn sign(
        &self,
        pem: &str,
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, AuthorityError> {
        let asked = Asked::parse(pem)?;
        let mut request = parse(pem)?;
        if asked.groups.len() > 1 {
            return Err(AuthorityError::Request);
        }
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in usages {
            match usage.as_str() {
                "digital signature" | "signing" => {
                    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
                }
                "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "client auth" => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
                }
                "server auth" => {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                }
                _ => return Err(AuthorityError::Request),
            }
        }
        let now = SystemTime::now();
        params.not_before = (now - SKEW.min(lifetime / 2)).into();
        params.not_after = (now + lifetime).into();
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

/// A key and a request for a certificate of it, both PEM: the request first. For clients that join.
///
/// # Errors
/// When the library refuses.
pub fn ask(user: &str, group: &str, hosts: &[String]) -> Result<(String, String), AuthorityError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(hosts)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, user);
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::X509Certificate;

    use super::*;

    #[test]
    fn a_certificate_has_the_requested_name_and_only_the_granted_powers() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let (request, _) = ask("ann", "devs", &["a.example".into()]).unwrap();
        let asked = Asked::parse(&request).unwrap();
        let wanted =
            Asked { user: "ann".into(), groups: vec!["devs".into()], hosts: 1, ..Asked::default() };
        assert_eq!(asked, wanted);
        let usages = ["digital signature".into(), "client auth".into()];
        let hour = Duration::from_secs(3600);
        let pem = authority.sign(&request, &usages, hour).unwrap();
        let (_, body) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&body.contents).unwrap();
        assert!(!certificate.is_ca());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(authority.sign(&request, &["cert sign".into()], hour).is_err());
    }

    #[test]
    fn a_request_of_another_key_is_refused() {
        let (request, _) = ask("ann", "", &[]).unwrap();
        // A letter within the signature, which is the end of the request.
        let at = request.find("-----END").unwrap() - 12;
        let mut forged = request.clone();
        let other = if &request[at..=at] == "A" { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        for bad in ["", "x", forged.as_str()] {
            assert!(Asked::parse(bad).is_err(), "{bad}");
        }
    }
}

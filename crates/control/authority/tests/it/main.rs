//! The authority as the server uses it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use berth_authority::{Authority, Kubeconfig};
use berth_tls::Credentials;
use x509_parser::pem::parse_x509_pem;

#[test]
fn is_created_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("authority");
    let first = Authority::open(&place).unwrap().certificate().to_owned();
    assert_eq!(Authority::open(&place).unwrap().certificate(), first);
    let mode = |name| std::fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("ca.crt")), (0o600, 0o600));
}

#[test]
fn starts_over_when_its_creation_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.key"), "half a k").unwrap();
    Authority::open(folder.path()).unwrap();
    Authority::open(folder.path()).unwrap();
}

#[test]
fn says_which_file_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    Authority::open(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("ca.key")).unwrap();
    let error = Authority::open(folder.path()).err().unwrap().to_string();
    assert!(error.ends_with("ca.key`"), "{error}");
}

#[test]
fn issues_certificates_that_carry_user_and_group() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let lifetime = Duration::from_secs(3600);
    let issued = authority.client("system:node:a", "system:nodes", lifetime).unwrap();
    let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let subject = certificate.subject();
    assert_eq!(subject.iter_common_name().next().unwrap().as_str().unwrap(), "system:node:a");
    assert_eq!(subject.iter_organization().next().unwrap().as_str().unwrap(), "system:nodes");
    assert!(certificate.validity().is_valid());
    let (_, pem) = parse_x509_pem(authority.certificate().as_bytes()).unwrap();
    assert_eq!(pem.parse_x509().unwrap().subject(), certificate.issuer());
}

#[test]
fn its_certificates_make_tls_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let server = authority.server(&["localhost".into(), "127.0.0.1".into()]).unwrap();
    let credentials = Credentials::from_pem(&server.certificate, &server.key).unwrap();
    berth_tls::server(credentials, authority.certificate()).unwrap();
    let client = authority.client("me", "system:masters", Duration::from_secs(60)).unwrap();
    let credentials = Credentials::from_pem(&client.certificate, &client.key).unwrap();
    berth_tls::client(authority.certificate(), Some(credentials)).unwrap();
}

#[test]
fn writes_a_private_kubeconfig() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let identity = authority.client("me", "system:masters", Duration::from_secs(60)).unwrap();
    let path = folder.path().join("config");
    let config = Kubeconfig {
        name: "berth",
        server: "https://127.0.0.1:6443",
        authority: authority.certificate(),
        identity: &identity,
    };
    config.write(&path).unwrap();
    config.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), config.text());
    assert!(!format!("{config:?}").contains("PRIVATE"));
}

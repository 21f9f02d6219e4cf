//! Tokens of a provider that really serves its keys over TLS.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use berth_authority::{Authority, TokenKeys};
use berth_oidc::Providers;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const NOW: i64 = 1_700_000_000;

/// A provider with keys that may change.
struct Provider {
    url: String,
    roots: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    async fn serve(keys: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(&folder.path().join("authority")).unwrap();
        let issued = authority.server(&["127.0.0.1".to_owned()]).unwrap();
        let own = berth_tls::Credentials::from_pem(&issued.certificate, &issued.key).unwrap();
        let tls = berth_tls::server(own, authority.certificate()).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
        let (own, count, base) = (Arc::clone(&keys), Arc::clone(&asked), url.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, keys) = (acceptor.clone(), Arc::clone(&own));
                let (count, base) = (Arc::clone(&count), base.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = match request.uri().path() {
                            "/.well-known/openid-configuration" => {
                                json!({"issuer": base, "jwks_uri": format!("{base}/keys")})
                            }
                            _ => {
                                count.fetch_add(1, Ordering::SeqCst);
                                keys.lock().unwrap().clone()
                            }
                        };
                        let body = Full::new(Bytes::from(answer.to_string()));
                        async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _gone = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let roots = authority.certificate().to_owned();
        Self { url, roots, keys, asked, task, _folder: folder }
    }

    fn providers(&self, more: &Value) -> Providers {
        let mut jwt = json!({
            "issuer": {"url": self.url, "audiences": ["berth"], "certificateAuthority": self.roots},
            "claimMappings": {"username": {"claim": "sub", "prefix": "people:"},
                "groups": {"claim": "groups", "prefix": ""}},
        });
        merge(&mut jwt, more);
        let whole = json!({"apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration", "jwt": [jwt]});
        Providers::parse(&whole.to_string()).unwrap()
    }

    fn claims(&self, more: Value) -> Value {
        let mut claims = json!({"iss": self.url, "aud": "berth", "exp": NOW + 60, "sub": "ada",
            "groups": ["dev", "ops"]});
        merge(&mut claims, &more);
        claims
    }
}

fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(own), Value::Object(more)) => {
            for (name, part) in more {
                merge(own.entry(name.clone()).or_insert(Value::Null), part);
            }
        }
        (value, more) => *value = more.clone(),
    }
}

async fn refused(providers: &Providers, token: &str) -> String {
    let outcome = providers.identify(token, NOW).await.expect("it is of this provider");
    outcome.expect_err("it is not good").to_string()
}

#[tokio::test]
async fn a_token_names_a_user_with_groups() {
    let keys = TokenKeys::ephemeral().unwrap();
    let provider = Provider::serve(keys.key_set()).await;
    let providers = provider.providers(&json!({}));
    let token = keys.sign(&provider.claims(json!({}))).unwrap();
    let identity = providers.identify(&token, NOW).await.unwrap().unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.groups),
        ("people:ada", vec!["dev".to_owned(), "ops".to_owned()])
    );
    providers.identify(&token, NOW).await.unwrap().unwrap();
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "keys are kept");

    // Another's token is none of theirs.
    let other = keys.sign(&provider.claims(json!({"iss": "https://example.com"}))).unwrap();
    assert!(providers.identify(&other, NOW).await.is_none());
    assert!(providers.identify("no.token.atall", NOW).await.is_none());
}

#[tokio::test]
async fn bad_tokens_are_refused() {
    let keys = TokenKeys::ephemeral().unwrap();
    let provider = Provider::serve(keys.key_set()).await;
    let providers = provider.providers(&json!({}));
    let sign = |claims: Value| keys.sign(&provider.claims(claims)).unwrap();
    assert!(refused(&providers, &sign(json!({"exp": NOW - 60}))).await.contains("expired"));
    assert!(refused(&providers, &sign(json!({"nbf": NOW + 60}))).await.contains("not valid yet"));
    assert!(refused(&providers, &sign(json!({"aud": ["other"]}))).await.contains("audience"));
    assert!(refused(&providers, &sign(json!({"sub": 7}))).await.contains("`sub`"));
    let masters = sign(json!({"groups": ["system:masters"]}));
    assert!(refused(&providers, &masters).await.contains("the cluster's own"));
    // Without a prefix, a name of the cluster's own.
    let bare = provider.providers(&json!({"claimMappings": {"username": {"prefix": ""}}}));
    let token = sign(json!({"sub": "system:admin"}));
    assert!(refused(&bare, &token).await.contains("the cluster's own"));

    // Changed after it was signed.
    let token = sign(json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let forged = B64.encode(provider.claims(json!({"sub": "eve"})).to_string());
    let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
    assert!(refused(&providers, &forged).await.contains("signature"));
    // Unsigned, and signed with the public key as a password.
    for algorithm in ["none", "HS256"] {
        let head = B64.encode(json!({"alg": algorithm, "kid": keys.ids()[0]}).to_string());
        let forged = format!("{head}.{}.{}", parts[1], parts[2]);
        assert!(refused(&providers, &forged).await.contains("not accepted"), "{algorithm}");
    }
    // Signed with a key the provider does not have; asking for it again and again is not passed on.
    let strange = TokenKeys::ephemeral().unwrap().sign(&provider.claims(json!({}))).unwrap();
    for _ in 0..5 {
        assert!(refused(&providers, &strange).await.contains("unknown key"));
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1 + 1, "one provider asked once by each");
}

#[tokio::test]
async fn expressions_map_and_check() {
    let keys = TokenKeys::ephemeral().unwrap();
    let provider = Provider::serve(keys.key_set()).await;
    let providers = provider.providers(&json!({
        "claimMappings": {
            "username": {"claim": "", "prefix": null, "expression": "claims.email.split('@')[0] + ':oidc'"},
            "groups": {"claim": "", "prefix": null, "expression": "claims.groups.filter(g, g != 'ops').map(g, 'idp:' + g)"},
            "uid": {"claim": "sub"},
            "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}]},
        "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"},
            {"expression": "claims.level >= 2", "message": "the level is too low"}],
        "userValidationRules": [{"expression": "!user.username.startsWith('root')", "message": "no root"}],
    }));
    let good = json!({"email": "ada@example.com", "hd": "example.com", "level": 3, "team": "blue"});
    let token = |more: Value| {
        let mut claims = provider.claims(good.clone());
        merge(&mut claims, &more);
        keys.sign(&claims).unwrap()
    };
    let identity = providers.identify(&token(json!({})), NOW).await.unwrap().unwrap();
    assert_eq!((identity.user.as_str(), identity.uid.as_str()), ("ada:oidc", "ada"));
    assert_eq!(identity.groups, ["idp:dev"]);
    assert_eq!(identity.extra["example.com/team"], ["blue"]);
    assert!(refused(&providers, &token(json!({"hd": "evil.example"}))).await.contains("`hd`"));
    assert!(refused(&providers, &token(json!({"level": 1}))).await.contains("too low"));
    assert!(refused(&providers, &token(json!({"email": "root@x"}))).await.contains("no root"));
}

#[tokio::test]
async fn an_address_has_to_be_verified() {
    let keys = TokenKeys::ephemeral().unwrap();
    let provider = Provider::serve(keys.key_set()).await;
    let providers = provider.providers(&json!({"claimMappings": {"username": {"claim": "email"}}}));
    let token = |verified: Value| {
        let claims = json!({"email": "a@b.c", "email_verified": verified});
        keys.sign(&provider.claims(claims)).unwrap()
    };
    providers.identify(&token(json!(true)), NOW).await.unwrap().unwrap();
    assert!(refused(&providers, &token(json!(false))).await.contains("not verified"));
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_and_its_old_keys_last() {
    let keys = TokenKeys::ephemeral().unwrap();
    let provider = Provider::serve(keys.key_set()).await;
    let (providers, late) = (provider.providers(&json!({})), provider.providers(&json!({})));
    let token = keys.sign(&provider.claims(json!({}))).unwrap();
    providers.identify(&token, NOW).await.unwrap().unwrap();
    *provider.keys.lock().unwrap() = json!("nonsense");
    providers.identify(&token, NOW).await.unwrap().unwrap();
    assert!(refused(&late, &token).await.contains("unknown key"), "there are no keys in nonsense");
    provider.task.abort();
    let away = provider.providers(&json!({}));
    assert!(refused(&away, &token).await.contains("cannot fetch the keys"));
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's openssl is needed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

#[tokio::test]
async fn signatures_of_others_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem").display().to_string();
    openssl(&["genrsa", "-out", &file, "2048"], b"");
    let modulus = openssl(&["rsa", "-in", &file, "-noout", "-modulus"], b"");
    let modulus = String::from_utf8(modulus).unwrap();
    let hex = modulus.trim().strip_prefix("Modulus=").unwrap();
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|index| u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).unwrap())
        .collect();
    let key = json!({"kty": "RSA", "kid": "r", "n": B64.encode(bytes), "e": "AQAB"});
    let provider = Provider::serve(json!({"keys": [key]})).await;
    let providers = provider.providers(&json!({}));
    for (algorithm, digest, padding) in [
        ("RS256", "-sha256", "pkcs1"),
        ("RS384", "-sha384", "pkcs1"),
        ("RS512", "-sha512", "pkcs1"),
        ("PS256", "-sha256", "pss"),
    ] {
        let head = B64.encode(json!({"alg": algorithm, "kid": "r"}).to_string());
        let text = format!("{head}.{}", B64.encode(provider.claims(json!({})).to_string()));
        let padding = format!("rsa_padding_mode:{padding}");
        let mut arguments = vec!["dgst", digest, "-sign", &file, "-sigopt", &padding];
        if algorithm == "PS256" {
            arguments.extend(["-sigopt", "rsa_pss_saltlen:digest"]);
        }
        let signature = openssl(&arguments, text.as_bytes());
        let token = format!("{text}.{}", B64.encode(signature));
        let identity = providers.identify(&token, NOW).await.unwrap();
        assert_eq!(identity.unwrap().user, "people:ada", "{algorithm}");
    }
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let wrong = |change: &str, place: &str| {
        let mut whole = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{"issuer": {"url": "https://a.example", "audiences": ["x"]},
                "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]});
        Providers::parse(&whole.to_string()).expect("good as it is");
        merge(&mut whole["jwt"][0], &serde_json::from_str(change).unwrap());
        let error = Providers::parse(&whole.to_string()).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    };
    wrong(r#"{"issuer": {"url": "http://a.example"}}"#, "jwt[0].issuer.url");
    wrong(r#"{"issuer": {"audiences": []}}"#, "jwt[0].issuer.audiences");
    wrong(r#"{"issuer": {"certificateAuthority": "x"}}"#, "jwt[0].issuer.certificateAuthority");
    wrong(
        r#"{"claimMappings": {"username": {"prefix": null}}}"#,
        "jwt[0].claimMappings.username.prefix",
    );
    wrong(r#"{"claimMappings": {"username": null}}"#, "jwt[0].claimMappings.username");
    wrong(r#"{"claimMappings": {"grops": {}}}"#, "jwt[0].claimMappings.grops");
    wrong(
        r#"{"userValidationRules": [{"expression": "nobody"}]}"#,
        "jwt[0].userValidationRules[0].expression",
    );
    wrong(r#"{"claimValidationRules": [{"message": "x"}]}"#, "jwt[0].claimValidationRules[0]");
    assert!(Providers::parse("kind: Other").is_err());
    assert!(Providers::parse("a: [").is_err());
}

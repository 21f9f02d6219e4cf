//! Registries with opinions, and registries that lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_registry::{
    Client, ClientOptions, Credential, Credentials, PullOptions, RegistryError, pull,
};

use crate::support::{answer, at, client, digest_of, scripted, store};

fn client_of(registry: &str, password: &str) -> Client {
    let mut credentials = Credentials::default();
    let credential = Credential { username: "me".into(), password: password.into() };
    credentials.insert(registry, credential);
    let pause = Duration::from_millis(5);
    Client::new(ClientOptions { credentials, pause, ..ClientOptions::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_with_our_credentials_and_used() {
    // `me:right` in base64.
    let (auth, _) = scripted(|head| {
        if head.contains("authorization: Basic bWU6cmlnaHQ=")
            && head.contains("scope=repository%3Aapp%3Apull")
        {
            answer("200 OK", "", r#"{"token": "t0k3n"}"#)
        } else {
            answer("401 Unauthorized", "", "")
        }
    })
    .await;
    let (address, seen) = scripted(move |head| {
        if head.contains("authorization: Bearer t0k3n") {
            answer("404 Not Found", "", "")
        } else {
            let challenge =
                format!("WWW-Authenticate: Bearer realm=\"http://{auth}/token\",service=\"s\"\r\n");
            answer("401 Unauthorized", &challenge, "")
        }
    })
    .await;
    let name = at(address, "app");
    let options = PullOptions::new(client_of(name.registry(), "right"));
    let outcome = pull(&store().store, &name, &options).await;
    assert!(matches!(outcome, Err(RegistryError::NotFound { .. })), "{outcome:?}");
    assert_eq!(seen.lock().unwrap().len(), 2);
    let options = PullOptions::new(client_of(name.registry(), "wrong"));
    let outcome = pull(&store().store, &name, &options).await;
    assert!(matches!(outcome, Err(RegistryError::Unauthorised { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_sent_only_when_asked_for() {
    let (address, _) = scripted(|head| {
        if head.contains("authorization: Basic bWU6cmlnaHQ=") {
            answer("404 Not Found", "", "")
        } else {
            answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", "")
        }
    })
    .await;
    let name = at(address, "app");
    let right = PullOptions::new(client_of(name.registry(), "right"));
    assert!(matches!(
        pull(&store().store, &name, &right).await,
        Err(RegistryError::NotFound { .. })
    ));
    for client in [client(), client_of(name.registry(), "wrong")] {
        let outcome = pull(&store().store, &name, &PullOptions::new(client)).await;
        assert!(matches!(outcome, Err(RegistryError::Unauthorised { .. })), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_registry_is_asked_again() {
    let count = AtomicUsize::new(0);
    let (address, seen) = scripted(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer("429 Too Many Requests", "Retry-After: 0\r\n", ""),
        1 => answer("503 Service Unavailable", "", ""),
        _ => answer("404 Not Found", "", ""),
    })
    .await;
    let outcome = pull(&store().store, &at(address, "app"), &PullOptions::new(client())).await;
    assert!(matches!(outcome, Err(RegistryError::NotFound { .. })), "{outcome:?}");
    assert_eq!(seen.lock().unwrap().len(), 3);
    let (address, _) = scripted(|_| answer("500 Internal Server Error", "", "disk full")).await;
    let outcome = pull(&store().store, &at(address, "app"), &PullOptions::new(client())).await;
    let Err(RegistryError::Status { status: 500, detail, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(detail, "disk full");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_without_our_platform_says_what_it_has() {
    let entry = |architecture: &str| {
        let digest = digest_of(architecture);
        format!(
            r#"{{"mediaType":"m","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{}]}}"#,
        entry("arm64"),
        entry("s390x")
    );
    let (address, _) = scripted(move |_| answer("200 OK", "", &index)).await;
    let outcome = pull(&store().store, &at(address, "app"), &PullOptions::new(client())).await;
    let Err(RegistryError::Platform { has, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(has, "linux/arm64, linux/s390x");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_was_asked_for_are_refused() {
    let (address, _) = scripted(|_| answer("200 OK", "", r#"{"evil": true}"#)).await;
    let name = at(address, "app").at(digest_of("good"));
    let outcome = pull(&store().store, &name, &PullOptions::new(client())).await;
    assert!(matches!(outcome, Err(RegistryError::Digest { .. })), "{outcome:?}");
    let outcome = pull(&store().store, &at(address, "app"), &PullOptions::new(client())).await;
    assert!(matches!(outcome, Err(RegistryError::Protocol { .. })), "{outcome:?}");
    let huge = "x".repeat(5 << 20);
    let (address, _) = scripted(move |_| answer("200 OK", "", &huge)).await;
    let outcome = pull(&store().store, &at(address, "app"), &PullOptions::new(client())).await;
    assert!(matches!(outcome, Err(RegistryError::Protocol { .. })), "{outcome:?}");
}

/// A registry with one image of one layer, whose blob is what `layer` makes of the promised one.
async fn lying(layer: impl Fn(&str) -> String + Send + Sync + 'static) -> std::net::SocketAddr {
    let promised = "promised bytes of a layer";
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        digest_of("tar")
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{}","size":{}}},"layers":[{{"mediaType":"l","digest":"{}","size":{}}}]}}"#,
        digest_of(&config),
        config.len(),
        digest_of(promised),
        promised.len()
    );
    let config_url = format!("blobs/{}", digest_of(&config));
    let (address, _) = scripted(move |head| {
        let body = match head {
            head if head.contains("/manifests/") => manifest.clone(),
            head if head.contains(&config_url) => config.clone(),
            _ => layer(promised),
        };
        answer("200 OK", "", &body)
    })
    .await;
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_lie_about_themselves_are_refused() {
    for (what, address) in [
        ("long", lying(|promised| format!("{promised} and more")).await),
        ("short", lying(|_| String::new()).await),
        ("other", lying(|promised| promised.replace('p', "q")).await),
    ] {
        let to = store();
        let outcome = pull(&to.store, &at(address, "app"), &PullOptions::new(client())).await;
        assert!(
            matches!(outcome, Err(RegistryError::Protocol { .. } | RegistryError::Store(_))),
            "{what}: {outcome:?}"
        );
        assert!(to.store.tags().unwrap().is_empty());
        assert!(to.store.snapshots().list().unwrap().is_empty());
    }
}

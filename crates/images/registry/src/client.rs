//! One HTTP client for all registries: addresses, identities, attempts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_content::Reference;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::error::RegistryError;

const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
const BODY_SHOWN: usize = 300;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Who we are.
    pub credentials: Credentials,
    /// Registries (`host` or `host:port`) spoken to in plain HTTP. `localhost` and loopback addresses always are.
    pub insecure: Vec<String>,
    /// How often a request is tried before giving up; at least 1.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles from there, up to five seconds.
    pub pause: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: Credentials::default(),
            insecure: Vec::new(),
            attempts: 5,
            pause: Duration::from_millis(200),
        }
    }
}

/// A client for any number of registries. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    options: Arc<ClientOptions>,
    /// `Authorization` headers by registry and scope.
    tokens: Arc<Mutex<HashMap<(String, String), HeaderValue>>>,
}

/// What a token must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    fn scope(self, repository: &str) -> String {
        match self {
            Self::Pull => format!("repository:{repository}:pull"),
            Self::Push => format!("repository:{repository}:pull,push"),
        }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// Sets up a client.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        let mut tls = berth_tls::public_client(None).map_err(RegistryError::Tls)?;
        tls.alpn_protocols = berth_tls::HTTP.map(<[u8]>::to_vec).to_vec();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build()
            .map_err(RegistryError::Setup)?;
        Ok(Self { http, options: Arc::new(options), tokens: Arc::default() })
    }

    /// Asks whether the registry of `image` answers and accepts us.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn ping(&self, image: &Reference) -> Result<(), RegistryError> {
        let url = format!("{}/v2/", self.base(image));
        self.send(image, Access::Pull, |http| http.get(&url)).await.map(drop)
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.options.attempts.max(1)
    }

    /// `https://host/v2/<repository>/<rest>`.
    pub(crate) fn url(&self, image: &Reference, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.base(image), image.repository())
    }

    /// Scheme and host.
    pub(crate) fn base(&self, image: &Reference) -> String {
        let registry = image.registry();
        if registry == "docker.io" {
            return "https://registry-1.docker.io".to_owned();
        }
        let host = match registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => registry,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let plain = local || self.options.insecure.iter().any(|one| one == registry || one == host);
        format!("{}://{registry}", if plain { "http" } else { "https" })
    }

    /// Sends a request until there is a final answer: identifies itself when asked, waits and tries again when the
    /// registry is not there or overloaded. Success is a status below 400.
    pub(crate) async fn send(
        &self,
        image: &Reference,
        access: Access,
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        let mut identified = false;
        loop {
            let mut builder = request(&self.http);
            if let Some(token) = self.token(image, access) {
                builder = builder.header(AUTHORIZATION, token);
            }
            let last = attempt >= self.attempts();
            match builder.send().await {
                Err(source) if last => return Err(unreachable(image, source)),
                Err(error) => {
                    tracing::debug!(image = %image, %error, attempt, "registry request failed");
                    self.wait(attempt, None).await;
                }
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !identified => {
                    // Not an attempt of its own: it is how the protocol begins.
                    identified = true;
                    self.identify(image, access, answer.headers()).await?;
                    continue;
                }
                Ok(answer) if busy(answer.status()) && !last => {
                    self.wait(attempt, answer.headers().get(RETRY_AFTER)).await;
                }
                Ok(answer) if answer.status().as_u16() < 400 => return Ok(answer),
                Ok(answer) => return Err(refused(image, answer).await),
            }
            attempt += 1;
        }
    }

    /// Waits before another attempt: what the registry asked for, or twice as long as the last time.
    pub(crate) async fn wait(&self, attempt: u32, asked: Option<&HeaderValue>) {
        let asked = asked.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let doubled = self.options.pause.saturating_mul(1 << attempt.min(10).saturating_sub(1));
        let pause = asked.map_or(doubled, Duration::from_secs);
        tokio::time::sleep(pause.min(Duration::from_secs(5)).max(doubled.min(pause))).await;
    }

    fn key(image: &Reference, access: Access) -> (String, String) {
        (image.registry().to_owned(), access.scope(image.repository()))
    }

    fn token(&self, image: &Reference, access: Access) -> Option<HeaderValue> {
        self.tokens.lock().ok()?.get(&Self::key(image, access)).cloned()
    }

    /// Does what the registry asked for, and keeps the header to send from now on.
    async fn identify(
        &self,
        image: &Reference,
        access: Access,
        headers: &HeaderMap,
    ) -> Result<(), RegistryError> {
        let unauthorised = || RegistryError::Unauthorised {
            image: image.familiar(),
            registry: image.registry().to_owned(),
        };
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge =
            challenges.filter_map(|value| Challenge::parse(value.to_str().ok()?)).next();
        let credential = self.options.credentials.of(image.registry());
        let header = match challenge.ok_or_else(unauthorised)? {
            Challenge::Basic => basic(credential.ok_or_else(unauthorised)?),
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| access.scope(image.repository()));
                let mut url = reqwest::Url::parse(&realm).map_err(|_| RegistryError::Protocol {
                    image: image.familiar(),
                    registry: image.registry().to_owned(),
                    what: format!("the bad token address `{realm}`"),
                })?;
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", &service);
                }
                let mut request = self.http.request(Method::GET, url);
                if let Some(credential) = credential {
                    request = request.basic_auth(&credential.username, Some(&credential.password));
                }
                let answer = request.send().await.map_err(|source| unreachable(image, source))?;
                if !answer.status().is_success() {
                    return Err(refused(image, answer).await);
                }
                let token: Token =
                    answer.json().await.map_err(|source| unreachable(image, source))?;
                let token = token.token.or(token.access_token).ok_or_else(unauthorised)?;
                format!("Bearer {token}")
            }
        };
        let mut header = HeaderValue::from_str(&header).map_err(|_| unauthorised())?;
        header.set_sensitive(true);
        if let Ok(mut tokens) = self.tokens.lock() {
            tokens.insert(Self::key(image, access), header);
        }
        Ok(())
    }
}

fn basic(credential: &crate::credentials::Credential) -> String {
    use base64::Engine as _;
    let pair = format!("{}:{}", credential.username, credential.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

fn busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

pub(crate) fn unreachable(image: &Reference, source: reqwest::Error) -> RegistryError {
    let registry = image.registry().to_owned();
    RegistryError::Unreachable { image: image.familiar(), registry, source }
}

async fn refused(image: &Reference, answer: Response) -> RegistryError {
    let (name, registry) = (image.familiar(), image.registry().to_owned());
    match answer.status() {
        StatusCode::NOT_FOUND => RegistryError::NotFound { image: name, registry },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryError::Unauthorised { image: name, registry }
        }
        status => {
            let body = answer.text().await.unwrap_or_default();
            let detail = body.chars().take(BODY_SHOWN).collect();
            RegistryError::Status { image: name, registry, status: status.as_u16(), detail }
        }
    }
}

//! One configured proxy: its URL, headers and timeout, and one call over HTTP.

use std::{fmt, io, sync::Arc, time::Duration};

use ureq::{
    Agent, RequestExt,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::{
    auth::{Device, Verdict},
    proxy::{
        BackendAnswer, BackendCall, Failure, HeaderRules, Method,
        answers::{self, Refusal},
        calls::Encoding,
        headers::check_name,
        notices::{self, Notice},
    },
};

/// Bytes of the backend's answer to a device token.
const DEVICE_BYTES_MAX: u64 = 64 << 10;
/// Bytes of any other answer: a payload for a client and what stands around it.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The options of one proxy (`docs/server/proxy.md`, "Proxy configuration object").
#[derive(Clone, Default)]
pub struct Proxy {
    /// Where it stands in the configuration, for logs.
    pub name: String,
    /// An `http` or `https` URL.
    pub endpoint: String,
    /// Time for one answer, from the connection to the last byte.
    pub timeout: Duration,
    /// Names of the client's transport headers to forward.
    pub http_headers: Vec<String>,
    /// Names of the client's emulated headers to forward.
    pub emulated_headers: Vec<String>,
    /// Headers of every call, unless a forwarded one has the name.
    pub static_headers: Vec<(String, String)>,
    /// Whether calls carry the connection's meta.
    pub include_connection_meta: bool,
    /// Whether calls carry payloads in Base64.
    pub binary_encoding: bool,
    /// What a status other than 200 means, where it means more than a failure.
    pub status_to_code_transforms: Vec<(u16, Refusal)>,
}

/// Without endpoint and headers: both may hold secrets.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.name)
    }
}

/// Whose certificates a backend may have.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those of the system's store, or of `SSL_CERT_FILE`.
    #[default]
    System,
    /// These alone, in DER.
    Only(Vec<Vec<u8>>),
}

/// A proxy that is ready to be asked.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) timeout: Duration,
    uri: Uri,
    rules: HeaderRules,
    static_headers: HeaderMap,
    include_meta: bool,
    encoding: Encoding,
    transforms: Vec<(u16, Refusal)>,
    agent: Agent,
}

/// Why there is no body with status 200, and for people.
type Missing = (Failure, String);

/// A client that keeps up to `connections` idle connections per host.
///
/// # Errors
/// When certificates are needed and the system has none.
pub(super) fn agent(proxies: &[Proxy], trust: &Trust, connections: usize) -> Result<Agent, String> {
    let uses_tls = proxies.iter().any(|proxy| proxy.endpoint.starts_with("https:"));
    let tls = match (uses_tls, trust) {
        (false, _) => TlsConfig::default(),
        (true, trust) => {
            let roots: Vec<Certificate<'static>> = match trust {
                Trust::Only(roots) => {
                    roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
                }
                Trust::System => rustls_native_certs::load_native_certs()
                    .certs
                    .iter()
                    .map(|der| Certificate::from_der(der).to_owned())
                    .collect(),
            };
            if roots.is_empty() {
                return Err(
                    "a proxy has an https endpoint, and the system's store of certificates \
                            is empty"
                        .into(),
                );
            }
            TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(roots))).build()
        }
    };
    // A redirect is not followed: it could take tokens elsewhere. The environment's proxies are not
    // used.
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(4 * connections)
        .max_idle_connections_per_host(connections)
        .user_agent(concat!("tiderace/", env!("CARGO_PKG_VERSION")))
        .proxy(None)
        .tls_config(tls)
        .build();
    Ok(Agent::new_with_config(config))
}

impl Endpoint {
    /// # Errors
    /// What is wrong with the options, after the proxy's name.
    pub(super) fn new(proxy: &Proxy, agent: &Agent) -> Result<Self, String> {
        let refuse = |why: String| format!("{}: {why}", proxy.name);
        let uri: Uri = proxy
            .endpoint
            .parse()
            .map_err(|error| refuse(format!("endpoint is no URL: {error}")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(refuse("endpoint is no http:// or https:// URL".into()));
        }
        let mut static_headers = HeaderMap::new();
        for (name, value) in &proxy.static_headers {
            let checked = check_name(name).map_err(refuse)?;
            let checked = HeaderName::from_bytes(checked.as_bytes());
            let (Ok(checked), Ok(value)) = (checked, HeaderValue::from_str(value)) else {
                return Err(refuse(format!("static header {name} has no possible value")));
            };
            static_headers.insert(checked, value);
        }
        Ok(Self {
            name: proxy.name.clone(),
            timeout: proxy.timeout,
            uri,
            rules: HeaderRules::new(&proxy.http_headers, &proxy.emulated_headers)
                .map_err(refuse)?,
            static_headers,
            include_meta: proxy.include_connection_meta,
            encoding: if proxy.binary_encoding { Encoding::Binary } else { Encoding::Json },
            transforms: proxy.status_to_code_transforms.clone(),
            agent: agent.clone(),
        })
    }

    /// Asks, and says in the log why there is no answer.
    pub(super) fn ask(&self, call: &BackendCall) -> BackendAnswer {
        let answer = match call {
            BackendCall::Device { token } => self.ask_about_device(token),
            call => self.ask_about_caller(call),
        };
        answer.unwrap_or_else(|(failure, error)| {
            self.complain(call.method(), &error);
            BackendAnswer::Failed(failure)
        })
    }

    pub(super) fn complain(&self, method: Method, error: &str) {
        let (proxy, method) = (self.name.as_str(), method.name());
        tracing::warn!(proxy, method, %error, "the backend gave no answer");
    }

    /// Has notices processed.
    pub(super) fn notify(&self, batch: &[Notice]) -> Result<(), Missing> {
        let (status, body) = self.post(self.static_headers.clone(), notices::to_json(batch))?;
        expect_ok(status)?;
        answers::parse_notices(&body).map_err(nonsense)
    }

    fn ask_about_caller(&self, call: &BackendCall) -> Result<BackendAnswer, Missing> {
        let (status, body) =
            self.post(self.headers(call), call.to_json(self.include_meta, self.encoding))?;
        if let Some((_, refusal)) = self.transforms.iter().find(|(from, _)| *from == status) {
            return Ok(match call.method() {
                // As to any refusal of a refresh: there is no result.
                method @ (Method::Refresh | Method::SubRefresh) => {
                    BackendAnswer::parse(method, b"{}").map_err(nonsense)?
                }
                _ => BackendAnswer::Refused(refusal.clone()),
            });
        }
        expect_ok(status)?;
        BackendAnswer::parse(call.method(), &body).map_err(nonsense)
    }

    /// 200 names the device, 401 is the end of it; whatever else may be temporary.
    fn ask_about_device(&self, token: &str) -> Result<BackendAnswer, Missing> {
        let mut headers = self.static_headers.clone();
        let value = HeaderValue::from_bytes(format!("DeviceToken {token}").as_bytes());
        headers.insert(header::AUTHORIZATION, value.map_err(|error| nonsense(error.to_string()))?);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let mut request = Request::get(&self.uri).body(()).map_err(unsendable)?;
        *request.headers_mut() = headers;
        let request = request.with_agent(&self.agent).configure();
        let response = request.timeout_global(Some(self.timeout)).run();
        let (status, body) = self.read(response, DEVICE_BYTES_MAX)?;
        if status == 401 {
            return Ok(BackendAnswer::Device(Verdict::Invalid));
        }
        expect_ok(status)?;
        let device = Device::parse(&body).map_err(nonsense)?;
        Ok(BackendAnswer::Device(Verdict::Device(device)))
    }

    /// Static headers, and over them what may be forwarded of the client's.
    fn headers(&self, call: &BackendCall) -> HeaderMap {
        let mut forwarded = HeaderMap::new();
        let shown =
            call.caller().into_iter().flat_map(|caller| caller.headers.forwarded(&self.rules));
        for (name, value) in shown {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
            {
                forwarded.append(name, value);
            }
        }
        for (name, value) in &self.static_headers {
            if !forwarded.contains_key(name) {
                forwarded.insert(name, value.clone());
            }
        }
        forwarded
    }

    fn post(&self, mut headers: HeaderMap, body: Vec<u8>) -> Result<(u16, Vec<u8>), Missing> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut request = Request::post(&self.uri).body(body).map_err(unsendable)?;
        *request.headers_mut() = headers;
        let request = request.with_agent(&self.agent).configure();
        let response = request.timeout_global(Some(self.timeout)).run();
        self.read(response, ANSWER_BYTES_MAX)
    }

    /// Reads the whole body, whatever the status, so that the connection can be used again.
    fn read(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        bytes_max: u64,
    ) -> Result<(u16, Vec<u8>), Missing> {
        let missing = |error| missing(error, self.timeout);
        let mut response = response.map_err(missing)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(bytes_max).read_to_vec();
        match body {
            Ok(body) => Ok((status, body)),
            // The status says enough.
            Err(_) if status != 200 => Ok((status, Vec::new())),
            Err(error) => Err(missing(error)),
        }
    }
}

fn expect_ok(status: u16) -> Result<(), Missing> {
    match status {
        200 => Ok(()),
        status => Err((Failure::Status(status), format!("it answered {status}"))),
    }
}

fn nonsense(error: String) -> Missing {
    (Failure::Nonsense, error)
}

fn unsendable(error: ureq::http::Error) -> Missing {
    nonsense(error.to_string())
}

/// Why there is no answer, in plain words, where it was to come within `timeout`.
pub(crate) fn in_words(error: &ureq::Error, timeout: Duration) -> String {
    match error {
        error if is_timeout(error) => format!("it did not answer within {timeout:?}"),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::BodyExceedsLimit(bytes) => format!("its answer is above {bytes} bytes"),
        error => error.to_string(),
    }
}

fn is_timeout(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

fn missing(error: ureq::Error, timeout: Duration) -> Missing {
    let failure = match &error {
        error if is_timeout(error) => Failure::Timeout,
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => {
            Failure::TooLarge
        }
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => Failure::Nonsense,
        _ => Failure::Unreachable,
    };
    (failure, in_words(&error, timeout))
}

//! Where traces go: an address, or the variables that OpenTelemetry's own exporters read.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use reqwest::Url;

use super::context::header_value;

/// How long a collector may take to answer; OTLP's default.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const PATH: &str = "v1/traces";

/// A collector that speaks OTLP over HTTP, and what is told of this server.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    pub(super) url: Url,
    pub(super) client: reqwest::Client,
    /// Names and values that describe the server.
    pub(super) resource: Vec<(String, String)>,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("`{address}` is no address for traces; give one like http://localhost:4318/v1/traces")]
    Address { address: String },
    #[error(
        "traces are sent over HTTP and not over {scheme}; give the collector's HTTP address, usually http://HOST:4318/v1/traces"
    )]
    Scheme { scheme: String },
    #[error("{variable} is no list of name=value with commas between")]
    Pairs { variable: &'static str },
    #[error("the client for traces could not be set up")]
    Client(#[source] reqwest::Error),
}

impl TraceSettings {
    /// What `address` says, or else OpenTelemetry's variables, by their names out of `variable`:
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_HEADERS`
    /// or `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`. Nothing if no
    /// address is given, `OTEL_SDK_DISABLED` is true or, without `address`, `OTEL_TRACES_EXPORTER` is not
    /// `otlp` or `OTEL_TRACES_SAMPLER` always off. An address without a path gets OTLP's, `/v1/traces`.
    ///
    /// # Errors
    /// An address that is none or not HTTP, variables that ask for gRPC, a list that is none.
    pub fn find(
        address: Option<&str>,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<TraceSettings>, TraceError> {
        // Empty counts as not set (OpenTelemetry, environment variables).
        let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
        let disabled = variable("OTEL_SDK_DISABLED")
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
        let given = address.map(str::to_owned);
        let own = given.or_else(|| variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
        // Who names an address here has decided; variables are often meant for all programs of a machine.
        let elsewhere = address.is_none()
            && (variable("OTEL_TRACES_EXPORTER").is_some_and(|name| name.trim() != "otlp")
                || variable("OTEL_TRACES_SAMPLER")
                    .is_some_and(|name| name.ends_with("always_off")));
        let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let speaks_grpc = address.is_none() && protocol.is_some_and(|name| name.trim() == "grpc");
        let url = match (own, variable("OTEL_EXPORTER_OTLP_ENDPOINT")) {
            _ if disabled || elsewhere => return Ok(None),
            (Some(_), _) | (_, Some(_)) if speaks_grpc => {
                return Err(TraceError::Scheme { scheme: "gRPC".to_owned() });
            }
            (Some(own), _) => {
                let mut url = read_address(&own)?;
                if url.path() == "/" {
                    url.set_path(PATH);
                }
                url
            }
            // All kinds of telemetry have this one in common.
            (None, Some(base)) => {
                let mut url = read_address(&base)?;
                let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
                url.set_path(&path);
                url
            }
            (None, None) => return Ok(None),
        };
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for (key, value) in pairs(name, variable(name))? {
                let pair = HeaderName::from_bytes(key.as_bytes()).ok().zip(header_value(&value));
                let (key, value) = pair.ok_or(TraceError::Pairs { variable: name })?;
                headers.insert(key, value);
            }
        }
        let mut resource = pairs("OTEL_RESOURCE_ATTRIBUTES", variable("OTEL_RESOURCE_ATTRIBUTES"))?;
        let mut tell = |name: &str, value: &str| {
            resource.retain(|(key, _)| key != name);
            resource.push((name.to_owned(), value.to_owned()));
        };
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            tell("service.name", &name);
        }
        tell("telemetry.sdk.name", "fungible");
        tell("telemetry.sdk.language", "rust");
        for (name, value) in
            [("service.name", "fungible"), ("service.version", env!("CARGO_PKG_VERSION"))]
        {
            if !resource.iter().any(|(key, _)| key == name) {
                resource.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(Some(TraceSettings { client: client(&url, headers)?, url, resource }))
    }

    /// Where traces go, without what must not be shown.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.into()
    }
}

fn read_address(address: &str) -> Result<Url, TraceError> {
    let url = Url::parse(address.trim()).ok();
    match url.as_ref().map(Url::scheme) {
        Some("http" | "https") => {}
        // `collector:4317` reads as a scheme, too.
        Some(scheme) if address.contains("://") => {
            return Err(TraceError::Scheme { scheme: scheme.to_owned() });
        }
        _ => return Err(TraceError::Address { address: address.to_owned() }),
    }
    url.ok_or_else(|| TraceError::Address { address: address.to_owned() })
}

fn client(url: &Url, headers: HeaderMap) -> Result<reqwest::Client, TraceError> {
    // The cryptography is chosen per process. Whoever chose before us is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder().timeout(ANSWER_LIMIT).default_headers(headers);
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
        client = client.no_proxy();
    }
    client.build().map_err(TraceError::Client)
}

/// `name=value,name=value`, with values in percent encoding, as W3C Baggage has it.
fn pairs(
    variable: &'static str,
    list: Option<String>,
) -> Result<Vec<(String, String)>, TraceError> {
    let list = list.unwrap_or_default();
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (name, value) = item.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some((name.to_owned(), decoded(value.trim())?))
    };
    items.map(|item| pair(item).ok_or(TraceError::Pairs { variable })).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_number)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(
        address: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<TraceSettings>, TraceError> {
        TraceSettings::find(address, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_address_is_found_where_opentelemetry_says() {
        let url = |address, variables: &[(&str, &str)]| {
            find(address, variables).unwrap().map(|settings| settings.shown())
        };
        let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT";
        assert_eq!(url(None, &[]), None);
        assert_eq!(url(None, &[(all, " ")]), None);
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(url(Some("http://a:4318"), &[]), found("http://a:4318/v1/traces"));
        assert_eq!(url(Some("http://a/own"), &[(traces, "http://b")]), found("http://a/own"));
        let both = [(traces, "http://b/x"), (all, "http://c")];
        assert_eq!(url(None, &both), found("http://b/x"));
        assert_eq!(url(None, &[(all, "https://c/base/")]), found("https://c/base/v1/traces"));
        // Not meant for us, unless the address was.
        for other in [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")] {
            assert_eq!(url(None, &[(all, "http://c"), other]), None, "{other:?}");
            assert!(url(Some("http://a"), &[(all, "http://c"), other]).is_some(), "{other:?}");
        }
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert!(find(None, &[(all, "http://c:4317"), grpc]).is_err());
        assert_eq!(url(None, &[grpc]), None);
        assert_eq!(url(Some("http://u:p@a/x?key=1"), &[]), found("http://a/x"));
        assert_eq!(url(Some("http://a"), &[("OTEL_SDK_DISABLED", "true")]), None);
        for wrong in ["grpc://a:4317", "a:4317", "", "http://"] {
            assert!(find(Some(wrong), &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_service_has_a_name_and_headers_stay_secret() {
        let named = |variables: &[(&str, &str)]| {
            let settings = find(Some("http://a"), variables).unwrap().unwrap();
            let names: Vec<String> = settings
                .resource
                .iter()
                .filter(|(key, _)| key == "service.name")
                .map(|(_, value)| value.clone())
                .collect();
            names.join("|")
        };
        assert_eq!(named(&[]), "fungible");
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a%20b,team=x");
        assert_eq!(named(&[attributes]), "a b");
        assert_eq!(named(&[attributes, ("OTEL_SERVICE_NAME", "chat")]), "chat");
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20geheim");
        let settings = find(Some("http://a"), &[headers]).unwrap().unwrap();
        assert!(!format!("{settings:?}").contains("geheim"));
        for wrong in ["nothing", "=x", "a=%zz", "a b=c"] {
            let headers = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", wrong);
            assert!(find(Some("http://a"), &[headers]).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in ".{0,60}") {
            let _ = pairs("LIST", Some(text));
        }
    }
}

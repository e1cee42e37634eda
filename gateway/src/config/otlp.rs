//! Where traces go.
//!
//! In: `--otlp-endpoint`, and the variables that every OpenTelemetry program reads. Out: the URL that takes traces. The flag
//! is this program's own and a mistake in it is one like any other. The variables are often everybody's, for collectors that
//! speak something else too: a mistake in them is no reason not to serve.

use hyper::Uri;

use super::{Mistake, values::web_url};

/// What OTLP over HTTP appends to a collector's URL.
const TRACES: &str = "/v1/traces";

/// The flag, else the variables; `None` means no traces, a mistake none either. Empty ones count as missing.
///
/// # Errors
/// When the flag is wrong.
pub(super) fn endpoint(
    flag: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Result<Uri, Mistake>>, Mistake> {
    let is = |name, value: &str| variable(name).is_some_and(|given| given.trim().eq_ignore_ascii_case(value));
    let flag = flag.filter(|text| !text.trim().is_empty()).map(|text| below("--otlp-endpoint", text)).transpose()?;
    if is("OTEL_SDK_DISABLED", "true") {
        return Ok(None);
    }
    if flag.is_some() || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(flag.map(Ok));
    }
    let given = |name| variable(name).filter(|text| !text.trim().is_empty());
    // By OpenTelemetry's rules the first is used as it is.
    if let Some(text) = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        return Ok(Some(web_url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &text)));
    }
    Ok(given("OTEL_EXPORTER_OTLP_ENDPOINT").map(|text| below("OTEL_EXPORTER_OTLP_ENDPOINT", &text)))
}

fn below(name: &str, text: &str) -> Result<Uri, Mistake> {
    let url = web_url(name, text)?;
    if url.query().is_some() {
        return Err(Mistake(format!("{name} must not have a query (?…)")));
    }
    let base = url.to_string();
    let base = base.trim_end_matches('/');
    web_url(name, &format!("{}{TRACES}", base.strip_suffix(TRACES).unwrap_or(base)))
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn the_flag_comes_first_then_the_variables_of_opentelemetry() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        for (flag, variables, expected) in [
            (None, &[][..], None),
            (Some(""), &[(ALL, " ")], None),
            (Some("http://c:4318"), &[(ALL, "http://other")], Some("http://c:4318/v1/traces")),
            (Some("https://c/otlp/"), &[], Some("https://c/otlp/v1/traces")),
            (Some("http://c:4318/v1/traces"), &[], Some("http://c:4318/v1/traces")),
            (None, &[(ALL, "http://c:4318/")], Some("http://c:4318/v1/traces")),
            (None, &[(ALL, "http://c:4318"), (TRACES, "http://t/x?y=z")], Some("http://t/x?y=z")),
            (None, &[(ALL, "http://c:4318"), ("OTEL_TRACES_EXPORTER", "none")], None),
            (Some("http://c:4318"), &[("OTEL_SDK_DISABLED", "true")], None),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned());
            let got = endpoint(flag, variable).expect("it works").map(|url| url.expect("a URL").to_string());
            assert_eq!(got.as_deref(), expected, "{flag:?} {variables:?}");
        }
        let with = |flag, value: &'static str| endpoint(flag, |name| (name == ALL).then(|| value.to_owned()));
        let refused = with(Some("collector:4317"), "http://c:4318").expect_err("the flag is wrong").to_string();
        assert!(refused.contains("--otlp-endpoint"), "{refused}");
        let told = with(None, "collector:4317").expect("no reason not to serve").expect("something is said");
        assert!(told.expect_err("no URL").to_string().contains(ALL));
    }
}

//! Values that flags take.
//!
//! In: text. Out: hosts, durations, or what is wrong with them.

use std::{net::Ipv6Addr, time::Duration};

use hyper::Uri;

use super::Mistake;

/// Whether the connection is encrypted, and `host:port` of each server, of a URL that this flag gave.
pub(super) fn addresses(flag: &str, url: &str) -> Result<(bool, Vec<String>), Mistake> {
    let wrong = |why: &str| {
        Mistake(format!("{flag} {why}: write redis://host:port or rediss://host:port, several hosts by commas"))
    };
    let (tls, hosts) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
        (Some(hosts), _) => (false, hosts),
        (None, Some(hosts)) => (true, hosts),
        (None, None) => return Err(wrong("has no redis:// in front")),
    };
    if hosts.contains(['@', '/']) {
        return Err(wrong("holds more than hosts; user and password have flags of their own"));
    }
    let addresses = hosts.split(',').map(|host| with_port(host.trim()).map_err(&wrong)).collect::<Result<_, _>>()?;
    Ok((tls, addresses))
}

/// `host:port`, an IPv6 address in brackets.
fn with_port(text: &str) -> Result<String, &'static str> {
    let (host, port) = match text.find(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
        None if text.parse::<Ipv6Addr>().is_ok() => {
            return Err("has an IPv6 address without brackets, such as redis://[fd00::1]:6379");
        }
        None => !host.is_empty() && !host.contains(['[', ']']),
    };
    match port.strip_prefix(':') {
        Some(number) if is_host && number.parse::<u16>().is_ok() => Ok(text.to_owned()),
        None if is_host && port.is_empty() => Ok(format!("{host}:6379")),
        _ => Err("has a host that is empty or no address, or a port that is no number"),
    }
}

/// `25s`, `1m30s`, `500ms`: the form that the resource uses too.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write something like 25s, 1m30s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = &rest[digits..];
        let units = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit_ms = match &after[..units] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[units..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A URL that can be fetched.
pub(super) fn web_url(flag: &str, text: &str) -> Result<Uri, Mistake> {
    let wrong = |why: &str| Mistake(format!("{flag} {why}: write something like https://host/path"));
    let url: Uri = text.trim().parse().map_err(|_| wrong("is no URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(wrong("has no http:// or https:// in front"));
    }
    let authority = url.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("holds a user or password, which URLs must not"));
    }
    if authority.host().is_empty() {
        return Err(wrong("names no host"));
    }
    Ok(url)
}

/// An origin as browsers write it: `https://host` or `https://host:port`.
pub(super) fn origin(text: &str) -> Result<String, Mistake> {
    let wrong = |why: &str| Mistake(format!("--allowed-origins: {text:?} {why}: write something like https://host"));
    let plain = text.trim().trim_end_matches('/').to_ascii_lowercase();
    if plain == "*" {
        return Err(wrong("is what leaving the flag out means"));
    }
    if plain == "null" {
        return Err(wrong("is the origin of any page that hides where it comes from"));
    }
    if !plain.is_ascii() {
        return Err(wrong("holds letters that browsers write as xn--…"));
    }
    let (scheme, host) = plain.split_once("://").ok_or_else(|| wrong("has no https:// in front"))?;
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) || host.is_empty() {
        return Err(wrong("is no origin"));
    }
    if host.contains(['/', '?', '#', '@', '*', ' ']) {
        return Err(wrong("holds more than scheme, host and port"));
    }
    // Browsers leave out the port that the scheme means.
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let host = if default.is_empty() { host } else { host.strip_suffix(default).unwrap_or(host) };
    Ok(format!("{scheme}://{host}"))
}

/// The text of a file.
pub(super) fn read_text(flag: &str, file: &std::path::Path) -> Result<String, Mistake> {
    std::fs::read_to_string(file).map_err(|error| unreadable(flag, file, &error))
}

pub(super) fn unreadable(flag: &str, file: &std::path::Path, error: &std::io::Error) -> Mistake {
    Mistake(format!("{flag}: {} cannot be read: {error}", file.display()))
}

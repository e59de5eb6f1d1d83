//! The two forms of a connection string: `key=value` pairs with libpq's quoting, and a URL.
//!
//! Invariant: errors never repeat any of the text, since any part of a mistyped string may be the password.

use super::ConnectionError;

/// The settings of `text` in their order; later ones of the same name come later.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ConnectionError> {
    let text = text.trim();
    match text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
        Some(rest) => url(rest),
        None => key_values(text),
    }
}

fn syntax(problem: &'static str) -> ConnectionError {
    ConnectionError::Syntax { problem }
}

fn key_values(text: &str) -> Result<Vec<(String, String)>, ConnectionError> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || key.is_empty() {
            return Err(syntax("a setting has no value, hint: write key=value"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        if chars.next_if_eq(&'\'').is_some() {
            loop {
                match chars.next() {
                    Some('\'') => break,
                    Some('\\') => value.extend(chars.next()),
                    Some(c) => value.push(c),
                    None => return Err(syntax("a quote is not closed")),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                if c == '\\' {
                    value.extend(chars.next());
                } else {
                    value.push(c);
                }
            }
        }
        pairs.push((key, value));
    }
}

fn url(rest: &str) -> Result<Vec<(String, String)>, ConnectionError> {
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    if place.contains(',') {
        return Err(syntax("several hosts are named, hint: name the one on this machine"));
    }
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let bracketed = place.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match place.get(bracketed..).unwrap_or_default().split_once(':') {
        Some((before, port)) => (place.get(..bracketed + before.len()).unwrap_or_default(), port),
        None => (place, ""),
    };
    for (key, value) in [("user", user), ("host", host), ("port", port), ("dbname", path)] {
        if !value.is_empty() {
            pairs.push((key.to_owned(), decode(value)?));
        }
    }
    if let Some(password) = password {
        pairs.push(("password".to_owned(), decode(password)?));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| syntax("a parameter has no value"))?;
        pairs.push((decode(key)?, decode(value)?));
    }
    Ok(pairs)
}

fn decode(text: &str) -> Result<String, ConnectionError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or_else(|| syntax("a percent sign is not followed by two hexadecimal digits"))?);
    }
    String::from_utf8(bytes).map_err(|_| syntax("a value is not UTF-8"))
}

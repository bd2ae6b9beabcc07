//! Authentication: none, or one token for all clients, as a bearer token or as a password.

use sha2::{Digest, Sha256};
use tonic::{Request, Status};

use crate::config::Secret;

/// The check of every call, including the handshake.
#[derive(Debug, Clone)]
pub struct Login {
    token: Option<Secret>,
}

impl Login {
    /// `None` admits every client.
    pub fn new(token: Option<Secret>) -> Self {
        Self { token }
    }

    /// The answer to a handshake: the token again, which later calls send as `Bearer`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token.as_ref().map_or("anonymous", Secret::expose))
    }

    /// Admits the call or refuses it.
    pub fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.token else { return Ok(request) };
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match shown.and_then(shown_token) {
            Some(shown) if same(shown.as_bytes(), token.expose().as_bytes()) => Ok(request),
            Some(_) => Err(Status::unauthenticated("token or password is wrong")),
            None => Err(Status::unauthenticated(
                "login is missing\nhint: Send `Authorization: Bearer <token>`, or any user with the token as password.",
            )),
        }
    }
}

/// The token in an `Authorization` header.
fn shown_token(header: &str) -> Option<String> {
    let (scheme, value) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let login = String::from_utf8(decode_base64(value.trim())?).ok()?;
    login.split_once(':').map(|(_, password)| password.to_owned())
}

/// Compares digests, so that the time taken reveals nothing about the token.
fn same(left: &[u8], right: &[u8]) -> bool {
    Sha256::digest(left) == Sha256::digest(right)
}

/// RFC 4648 §4, padding optional.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(token: &str, header: Option<&str>) -> bool {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        Login::new(Some(Secret::new(token))).check(request).is_ok()
    }

    #[test]
    fn the_token_passes_as_bearer_and_as_password_of_any_user() {
        assert!(check("s3cret", Some("Bearer s3cret")));
        assert!(check("s3cret", Some("Basic YW5hOnMzY3JldA==")), "ana:s3cret");
        assert!(check("a:b", Some("Basic dTphOmI=")), "u:a:b");
    }

    #[test]
    fn anything_else_is_refused() {
        for header in [
            None,
            Some("Bearer s3cre"),
            Some("Bearer"),
            Some("Basic !!"),
            Some("Basic YW5hOnMzY3JlVA=="),
            Some("s3cret"),
        ] {
            assert!(!check("s3cret", header), "{header:?}");
        }
    }

    #[test]
    fn base64_follows_the_rfc_vectors() {
        for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(decode_base64(text).unwrap(), plain.as_bytes());
        }
    }
}

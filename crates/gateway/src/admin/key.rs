//! Whether a request comes from whoever runs the gateway.

use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Whether the headers hold `key` as `Authorization: Bearer KEY`, once. How long it takes says nothing of the
/// key, not even its length: digests are compared, all of their bytes.
pub(super) fn is_right(headers: &HeaderMap, key: &str) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let first = given.next().and_then(|value| value.to_str().ok());
    let presented = first
        .filter(|_| given.next().is_none())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, presented)| presented.trim());
    let digests = [presented.unwrap_or_default(), key].map(|text| Sha256::digest(text.as_bytes()));
    let is_same: bool = digests[0].as_slice().ct_eq(digests[1].as_slice()).into();
    is_same && presented.is_some_and(|presented| !presented.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_opens() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            is_right(&headers, "key-of-admin")
        };
        assert!(with(&["Bearer key-of-admin"]) && with(&["bearer  key-of-admin "]));
        for wrong in [
            &[][..],
            &["key-of-admin"],
            &["Basic key-of-admin"],
            &["Bearer key-of-admi"],
            &["Bearer key-of-admin2"],
            &["Bearer "],
            &["Bearer key-of-admin", "Bearer key-of-admin"],
        ] {
            assert!(!with(wrong), "{wrong:?}");
        }
        let mut empty = HeaderMap::new();
        empty.insert(AUTHORIZATION, "Bearer ".parse().unwrap());
        assert!(!is_right(&empty, ""), "an empty key opens nothing");
    }
}

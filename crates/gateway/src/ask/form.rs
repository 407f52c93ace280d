//! A `multipart/form-data` body (sounds, pictures): where its model's name is. Everything else is
//! passed on as it is.

use std::ops::Range;

use hyper::body::Bytes;

use super::AskError;

#[derive(Clone)]
pub(super) struct Form {
    body: Bytes,
    model: Option<Range<usize>>,
    is_streamed: bool,
}

/// RFC 2046, 5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;
const PARTS_MAX: usize = 256;

impl Form {
    /// `media` is the content type with its parameters.
    pub fn read(media: &str, body: Bytes) -> Result<Form, AskError> {
        let boundary = boundary(media).ok_or(AskError::Form("its content type has no boundary"))?;
        let opening = format!("--{boundary}");
        let mut form = Form { body: body.clone(), model: None, is_streamed: false };
        let mut at = match body.starts_with(opening.as_bytes()) {
            true => opening.len(),
            false => return Err(AskError::Form("it does not begin with its boundary")),
        };
        let next = format!("\r\n--{boundary}");
        for _ in 0..PARTS_MAX {
            let rest = &body[at..];
            if rest.starts_with(b"--") {
                return Ok(form);
            }
            let cut = AskError::Form("it ends within a part");
            if !rest.starts_with(b"\r\n") {
                return Err(AskError::Form("a boundary is not at the end of its line"));
            }
            let head_end = find(rest, b"\r\n\r\n").ok_or(cut)?;
            let head = &rest[..head_end + 2];
            let start = at + head_end + 4;
            let length = find(&body[start..], next.as_bytes())
                .ok_or(AskError::Form("it ends within a part"))?;
            form.take(head, start..start + length)?;
            at = start + length + next.len();
        }
        Err(AskError::Form("it has too many parts"))
    }

    fn take(&mut self, head: &[u8], value: Range<usize>) -> Result<(), AskError> {
        match name(head).as_deref() {
            Some("model") if self.model.is_some() => Err(AskError::Twice("model".to_owned())),
            Some("model") => {
                if std::str::from_utf8(&self.body[value.clone()]).is_err() {
                    return Err(AskError::Type { field: "model", expected: "a text" });
                }
                self.model = Some(value);
                Ok(())
            }
            Some("stream") => {
                self.is_streamed = &self.body[value] == b"true";
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub fn model(&self) -> Option<String> {
        let bytes = &self.body[self.model.clone()?];
        Some(String::from_utf8_lossy(bytes).trim().to_owned())
    }

    pub fn is_streamed(&self) -> bool {
        self.is_streamed
    }

    /// The body with another name for the model. A name with a line break could begin a part of its own;
    /// those of the gateway's config have none.
    pub fn with(&self, model: &str) -> Bytes {
        let Some(range) = &self.model else { return self.body.clone() };
        let parts = [&self.body[..range.start], model.as_bytes(), &self.body[range.end..]];
        Bytes::from(parts.concat())
    }
}

fn boundary(media: &str) -> Option<String> {
    let mut parameters = media.split(';').skip(1).map(str::trim);
    let value = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim().trim_matches('"'))
    })?;
    let is_right = !value.is_empty()
        && value.len() <= BOUNDARY_BYTES_MAX
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_right.then(|| value.to_owned())
}

/// The `name` in a part's `content-disposition`.
fn name(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let line = head.split("\r\n").find_map(|line| {
        let (header, value) = line.split_once(':')?;
        header.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    line.split(';').map(str::trim).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

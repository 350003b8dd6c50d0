//! The watch protocol as the load sees it: requests out, responses, chunks and events in.

/// The id of a device.
pub(super) fn device(number: usize) -> String {
    format!("bench-{number}")
}

/// A request with a body; `headers` are whole lines.
pub(super) fn post(host: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The beginning of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Bytes of its head, and of its body where that is wanted.
    pub(super) length: usize,
}

/// Reads a response's head, with `whole` its body of declared length too; `None` while it is incomplete.
pub(super) fn answer(bytes: &[u8], whole: bool) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("no HTTP response: {error}")),
    };
    let status = response.code.unwrap_or_default();
    if !whole {
        return Ok(Some(Answer { status, length: head }));
    }
    let field = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let body = field.and_then(|field| str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    let length = head + body.ok_or("a response without Content-Length")?;
    Ok((bytes.len() >= length).then_some(Answer { status, length }))
}

/// One chunk of a stream: the server writes one event or comment into each.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Comment,
    Hello { lease: &'a str, interval_ms: u64 },
    Wake(&'a str),
    End,
}

/// Reads a chunk and its length on the wire; `None` while it is incomplete.
pub(super) fn part(bytes: &[u8]) -> Result<Option<(Part<'_>, usize)>, &'static str> {
    let Some(line) = memchr::memmem::find(bytes, b"\r\n") else { return Ok(None) };
    let size = str::from_utf8(&bytes[..line]).ok();
    let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
    let size = size.filter(|size| *size <= 1 << 20).ok_or("a chunk without a size")?;
    let end = line + 2 + size + 2;
    let Some(chunk) = bytes.get(line + 2..end) else { return Ok(None) };
    let text = chunk.strip_suffix(b"\r\n").and_then(|text| str::from_utf8(text).ok());
    let text = text.ok_or("a chunk without an end")?;
    let part = if text.is_empty() {
        Part::End
    } else if text.starts_with(':') {
        Part::Comment
    } else if let Some(data) = text.strip_prefix("event: hello\ndata: ") {
        let lease = member(data, "\"watchLeaseId\":\"").and_then(|rest| rest.split('"').next());
        let interval = member(data, "\"heartbeatIntervalMs\":").map(|rest| {
            rest.bytes().take_while(u8::is_ascii_digit).fold(0u64, |number, digit| {
                number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            })
        });
        let (Some(lease), Some(interval_ms @ 1..)) = (lease, interval) else {
            return Err("a hello without lease or interval");
        };
        Part::Hello { lease, interval_ms }
    } else if let Some(data) = text.strip_prefix("event: wake\ndata: ") {
        Part::Wake(data)
    } else {
        return Err("an event that nobody knows");
    };
    Ok(Some((part, end)))
}

fn member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    json.find(name).map(|at| &json[at + name.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_when_they_are_whole() {
        let hello =
            r#"{"watchLeaseId":"rwl_1","deviceWaitForViewerMs":5,"heartbeatIntervalMs":30000}"#;
        let text = format!("event: hello\ndata: {hello}\n\n");
        let bytes = format!("{:x}\r\n{text}\r\n3\r\n:\n\n\r\n0\r\n\r\n", text.len());
        let bytes = bytes.as_bytes();
        let (_, first) = part(bytes).unwrap().unwrap();
        for end in 0..first {
            assert_eq!(part(&bytes[..end]), Ok(None), "{end}");
        }
        let lease = "rwl_1";
        assert_eq!(part(bytes), Ok(Some((Part::Hello { lease, interval_ms: 30_000 }, first))));
        assert_eq!(part(&bytes[first..]), Ok(Some((Part::Comment, 8))));
        assert_eq!(part(&bytes[first + 8..]), Ok(Some((Part::End, 5))));
        assert!(part(b"x\r\n").is_err() && part(b"1\r\nabc").is_err());
        assert!(part(b"10\r\nevent: hello\n{}\n\r\n").is_err());
    }

    #[test]
    fn a_response_is_whole_with_its_body() {
        let bytes = b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1";
        assert_eq!(answer(&bytes[..41], true), Ok(None));
        assert_eq!(answer(bytes, true), Ok(Some(Answer { status: 410, length: 42 })));
        assert_eq!(answer(bytes, false), Ok(Some(Answer { status: 410, length: 40 })));
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n", true).is_err());
    }
}

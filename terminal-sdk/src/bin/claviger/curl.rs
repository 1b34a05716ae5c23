//! `claviger curl`: one request as the user.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use claviger_terminal::Origin;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::{
    args::Curl,
    commands,
    output::{self, Failure, print},
};

pub(crate) async fn run(path: PathBuf, curl: Curl, json: bool) -> Result<(), Failure> {
    let uri: Uri = curl.url.parse().map_err(|_| Failure::local(format!("`{}` is not a URL", curl.url)))?;
    let origin = Origin::of(&uri)?;
    let request = build(&curl, uri)?;
    let terminal = commands::open(path).await?;
    let session = terminal.session(origin.as_str(), curl.share.options()?).await?;
    let response = session.request_bytes(request).await?;
    if !curl.silent {
        output::warn(&terminal);
    }
    let status = response.status();
    if curl.fail && (status.is_client_error() || status.is_server_error()) {
        let message = format!("{origin} answered with HTTP {status}");
        return Err(match status.as_u16() {
            401 | 403 | 429 => Failure::refused(message),
            502..=504 => Failure::unreachable(message),
            _ => Failure::local(message),
        });
    }
    if json { print_json(response, &curl).await } else { stream(response, &curl).await }
}

fn build(curl: &Curl, uri: Uri) -> Result<Request<Bytes>, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("claviger/", env!("CARGO_PKG_VERSION"))));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let body = if let Some(data) = &curl.data_binary {
        Some(content(data)?)
    } else if curl.data.is_empty() {
        None
    } else {
        let parts = curl.data.iter().map(|data| {
            content(data).map(|bytes| match data.starts_with('@') {
                true => bytes.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect(),
                false => bytes,
            })
        });
        Some(parts.collect::<Result<Vec<_>, _>>()?.join(&b'&'))
    };
    if body.is_some() {
        headers.insert(header::CONTENT_TYPE, form);
    }
    let mut seen = Vec::new();
    for line in &curl.headers {
        let (name, value) = parse_header(line)?;
        // The first of a name replaces ours, more of it are added.
        if seen.contains(&name) {
            headers.append(name, value);
        } else {
            headers.insert(name.clone(), value);
            seen.push(name);
        }
    }
    let method = curl.request.clone().unwrap_or(if body.is_some() { Method::POST } else { Method::GET });
    let mut request = Request::new(Bytes::from(body.unwrap_or_default()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn parse_header(line: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let invalid = || Failure::local(format!("`{line}` is not a header; expected `Name: value`"));
    let (name, value) = line.split_once(':').ok_or_else(invalid)?;
    let name: HeaderName = name.trim().parse().map_err(|_| invalid())?;
    if name == header::AUTHORIZATION {
        return Err(Failure::local("the header Authorization is set by claviger"));
    }
    Ok((name, value.trim().parse().map_err(|_| invalid())?))
}

/// The text itself, or what is in `@FILE`.
fn content(data: &str) -> Result<Vec<u8>, Failure> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_vec()),
        Some("-") => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map_err(|error| cannot_read("standard input", &error))?;
            Ok(bytes)
        }
        Some(path) => fs::read(path).map_err(|error| cannot_read(path, &error)),
    }
}

fn cannot_read(path: &str, error: &io::Error) -> Failure {
    Failure::local(format!("cannot read {path}: {error}"))
}

/// Writes the response as it comes.
async fn stream(response: Response<Incoming>, curl: &Curl) -> Result<(), Failure> {
    let mut out: Box<dyn AsyncWrite + Unpin> = match &curl.output {
        Some(path) => Box::new(create(path).await?),
        None => Box::new(tokio::io::stdout()),
    };
    let (parts, mut body) = response.into_parts();
    if curl.include {
        let mut head = format!("{:?} {}\r\n", parts.version, parts.status).into_bytes();
        for (name, value) in &parts.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        out.write_all(&head).await?;
    }
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            out.write_all(&data).await?;
            out.flush().await?;
        }
    }
    Ok(out.flush().await?)
}

/// Prints the whole response as one JSON object.
async fn print_json(response: Response<Incoming>, curl: &Curl) -> Result<(), Failure> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut value =
        json!({ "status": parts.status.as_u16(), "version": format!("{:?}", parts.version), "headers": headers });
    match (&curl.output, std::str::from_utf8(&body)) {
        (Some(path), _) => {
            let mut file = create(path).await?;
            file.write_all(&body).await?;
            file.flush().await?;
        }
        (None, Ok(text)) => value["body"] = json!(text),
        (None, Err(_)) => value["body_base64"] = json!(data_encoding::BASE64.encode(&body)),
    }
    print(true, &value, String::new)
}

async fn create(path: &Path) -> Result<tokio::fs::File, Failure> {
    let file = tokio::fs::File::create(path).await;
    file.map_err(|error| Failure::local(format!("cannot write {}: {error}", path.display())))
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::unreachable(format!("the connection broke: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn request(line: &[&str]) -> Result<Request<Bytes>, Failure> {
        let line = ["claviger", "curl", "https://shop/x"].iter().chain(line);
        let Command::Curl(curl) = Args::try_parse_from(line).unwrap().command else { panic!("another command") };
        build(&curl, curl.url.parse().unwrap())
    }

    #[test]
    fn options_are_those_of_curl() {
        let plain = request(&[]).unwrap();
        assert_eq!((plain.method(), plain.body().len()), (&Method::GET, 0));
        assert!(!plain.headers().contains_key("content-type"));

        let form = request(&["-d", "a=1", "-d", "b=2"]).unwrap();
        assert_eq!((form.method(), form.body().as_ref()), (&Method::POST, b"a=1&b=2".as_slice()));
        assert_eq!(form.headers()["content-type"], "application/x-www-form-urlencoded");

        let json = request(&["-X", "PUT", "-H", "Content-Type: application/json", "--data-binary", "{}"]).unwrap();
        assert_eq!((json.method(), json.body().as_ref()), (&Method::PUT, b"{}".as_slice()));
        assert_eq!(json.headers()["content-type"], "application/json");

        let twice = request(&["-H", "X-A: 1", "-H", "x-a: 2"]).unwrap();
        assert_eq!(twice.headers().get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn files_are_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "a=1\n&b=2\n").unwrap();
        let name = format!("@{}", file.path().display());
        assert_eq!(request(&["-d", &name]).unwrap().body().as_ref(), b"a=1&b=2");
        assert_eq!(request(&["--data-binary", &name]).unwrap().body().as_ref(), b"a=1\n&b=2\n");
        assert!(request(&["-d", "@/no/such/file"]).is_err());
    }

    #[test]
    fn headers_that_cannot_be_sent_are_refused() {
        for header in ["nonsense", "Authorization: Bearer x", "authorization:x", "A B: c", "A: b\nC: d"] {
            assert!(request(&["-H", header]).is_err(), "{header}");
        }
    }
}

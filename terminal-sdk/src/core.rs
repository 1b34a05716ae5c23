//! The terminal's exchanges without input or output: requests come out,
//! responses, the time and random bytes go in. [`crate::Terminal`] drives them
//! over HTTPS; another transport can do the same.

pub mod account;
mod attempt;
pub mod enrolment;
pub mod realm;
pub mod sign_on;
pub(crate) mod user_id;

pub use attempt::{Fresh, Judged, Learnt};

use bytes::Bytes;
use claviger_protocol::{CONTENT_TYPE, Suite, SuiteId, aws_lc::AwsLc};
use http::Method;

use crate::error::{Error, Result};

/// A request to be made of the server in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, starting with `/`.
    pub path: &'static str,
    /// The content type of the body, when there is one.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path, content_type: None, body: Bytes::new() }
    }

    fn post(path: &'static str, body: Vec<u8>) -> Self {
        Self { method: Method::POST, path, content_type: Some(CONTENT_TYPE), body: body.into() }
    }
}

/// The response to it; attacker-controlled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The body, when the response is of the protocol at all.
    fn message(&self, origin: &str) -> Result<&[u8]> {
        if self.content_type.as_deref() == Some(CONTENT_TYPE) {
            Ok(&self.body)
        } else {
            Err(Error::NotProtocol { origin: origin.to_owned(), status: self.status })
        }
    }
}

fn suite(id: SuiteId) -> Result<&'static dyn Suite> {
    match AwsLc::suite(id) {
        Some(suite) => Ok(suite),
        None => Err(Error::Crypto("the cipher suite is not offered by this version; update claviger")),
    }
}

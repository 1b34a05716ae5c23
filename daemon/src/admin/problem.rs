//! Refusals on the wire: `application/problem+json` of RFC 9457.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::management::model::AdminError;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:claviger:error:` and a word for programs, such as `not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people, whatever the case at hand.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, in one line.
    pub detail: String,
}

impl Problem {
    /// A problem of the kind that `word` names.
    pub(super) fn new(status: StatusCode, word: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("refused").to_owned();
        Self { kind: format!("{PREFIX}{word}"), title, status: status.as_u16(), detail: detail.into() }
    }

    /// The word for programs.
    pub fn word(&self) -> &str {
        self.kind.strip_prefix(PREFIX).unwrap_or(&self.kind)
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let (status, word) = match &error {
            AdminError::NotFound(_) => (StatusCode::NOT_FOUND, "not-found"),
            AdminError::Exists(_) => (StatusCode::CONFLICT, "exists"),
            AdminError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            AdminError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            AdminError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Self::new(status, word, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

const PREFIX: &str = "urn:claviger:error:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_status_and_word() {
        for (error, status, word) in [
            (AdminError::NotFound("user a".into()), 404, "not-found"),
            (AdminError::Exists("user a".into()), 409, "exists"),
            (AdminError::Invalid("the id is empty".into()), 422, "invalid"),
            (AdminError::Conflict("user a".into()), 409, "conflict"),
            (AdminError::Unavailable("locked".into()), 503, "unavailable"),
        ] {
            let problem = Problem::from(error.clone());
            assert_eq!((problem.status, problem.word()), (status, word));
            assert_eq!(problem.detail, error.to_string());
        }
    }
}

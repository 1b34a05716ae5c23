//! The administration API: JSON over HTTP on a Unix socket, for root, the
//! daemon's own user and those that the configuration names.
//!
//! - [`api`]: the requests and answers that are not of the management role itself.
//! - [`server`]: the socket, who may use it, and its end.
//! - `routes`: one function an endpoint.
//! - `problem`: refusals, as RFC 9457 has them.
//! - [`client`]: the other end, for the command line.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`api::Status`] |
//! | `GET /v1/plugins` | the plugins of the host, with the files as they are now |
//! | `POST /v1/plugins/{name}/reload` | [`api::Reload`] |
//! | `GET /v1/users?after=&limit=` | `UserPage` |
//! | `POST /v1/users` (`NewUser`) | `User` |
//! | `GET`, `DELETE /v1/users/{id}` | `User`, nothing |
//! | `POST /v1/users/{id}/suspend` ([`api::Suspend`]) | `User` |
//! | `POST /v1/users/{id}/resume` | `User` |
//! | `POST /v1/users/{id}/confirm-enrolment` ([`api::Digits`]) | `User` |
//! | `POST /v1/users/{id}/require-rotation` | `User` |
//! | `POST /v1/users/{id}/enrolment-code` ([`api::CodeRequest`]) | `EnrolmentCode` |
//! | `GET`, `POST /v1/services` (`Service`) | list of `Service`, `Service` |
//! | `DELETE /v1/services/{id}` | nothing |

pub mod api;
pub mod client;
mod problem;
mod routes;
pub mod server;

pub use client::{AdminClient, ClientError};
pub use problem::Problem;
pub use server::{AdminServer, AdminServerError, AdminState};

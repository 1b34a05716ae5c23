//! One function an endpoint. What changes something leaves a line in the audit log.

use std::{fmt::Display, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State},
    routing::{delete, get, post},
};
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;

use super::{
    api::{
        CodeRequest, CountQuery, DestroyKeys, Destroyed, Digits, GoOn, PageQuery, Reload, RotateKeys, Status, Suspend,
    },
    problem::Problem,
    server::{AdminState, Caller},
};
use crate::{
    config,
    management::{
        Management,
        model::{
            AdminError, EnrolmentCode, KeyRing, NewUser, OrphanedKeys, RewrapProgress, Rotated, SecretCount, Service,
            User, UserPage,
        },
    },
    plugin_host::{PluginStatus, ReloadError},
};

type Answer<T> = Result<Json<T>, Problem>;
type Shared = State<Arc<AdminState>>;

pub(super) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plugins", get(plugins))
        .route("/v1/plugins/{name}/reload", post(reload_plugin))
        .route("/v1/users", get(users).post(add_user))
        .route("/v1/users/{id}", get(user).delete(delete_user))
        .route("/v1/users/{id}/suspend", post(suspend_user))
        .route("/v1/users/{id}/resume", post(resume_user))
        .route("/v1/users/{id}/confirm-enrolment", post(confirm_enrolment))
        .route("/v1/users/{id}/require-rotation", post(require_rotation))
        .route("/v1/users/{id}/enrolment-code", post(enrolment_code))
        .route("/v1/services", get(services).post(add_service))
        .route("/v1/services/{id}", delete(remove_service))
        .route("/v1/keys", get(key_ring))
        .route("/v1/keys/secrets", get(count_secrets))
        .route("/v1/keys/rotate", post(rotate_keys))
        .route("/v1/keys/rewrap", post(rewrap))
        .route("/v1/keys/orphans", get(orphaned_keys))
        .route("/v1/keys/orphans/destroy", post(destroy_orphaned_keys))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path does not know that method")
        })
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no-such-path", "there is no such path"))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(state)
}

async fn status(State(state): Shared) -> Json<Status> {
    let roles = [(state.roles.management, "management"), (state.roles.service, "service")];
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: state.started.elapsed().as_secs(),
        realm: state.realm.clone(),
        roles: roles.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect(),
        readiness: state.readiness.report(),
    })
}

async fn plugins(State(state): Shared) -> Json<Vec<PluginStatus>> {
    Json(state.plugins.list_with_files().await)
}

/// Takes no configuration from the caller: what is loaded is what the daemon's own files say.
async fn reload_plugin(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(name)): Part<Path<String>>,
) -> Answer<Reload> {
    let (uid, pid, action, object) = (caller.uid, caller.pid, "plugin.reload", &name);
    match try_reload(&state, caller, &name).await {
        Ok(done) => {
            let (from, to, signature) = (&done.before.sha256, &done.now.sha256, &done.now.signature);
            tracing::info!(target: "audit", uid, pid, action, object, from, to, signature, "done");
            Ok(Json(done))
        }
        Err(problem) => {
            tracing::info!(target: "audit", uid, pid, action, object, error = problem.detail, "refused");
            Err(problem)
        }
    }
}

async fn try_reload(state: &AdminState, caller: Caller, name: &str) -> Result<Reload, Problem> {
    if !caller.is_operator() {
        let detail = "only root and the daemon's own user may replace a plugin";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not-operator", detail));
    }
    let path = state.configuration.clone();
    let failed = |error: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration", error);
    let config = tokio::task::spawn_blocking(move || config::load(&path)).await.map_err(|e| failed(e.to_string()))?;
    let config = config
        .map_err(|error| failed(error.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let Some(plugin) = config.plugins.into_iter().find(|plugin| plugin.name == name) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "no [[plugin]] has that name"));
    };
    let done = state.plugins.reload(plugin).await.map_err(|error| {
        let (status, word) = match error {
            ReloadError::Unknown | ReloadError::NotLoaded => (StatusCode::NOT_FOUND, "not-loaded"),
            ReloadError::Busy | ReloadError::InUse => (StatusCode::CONFLICT, "busy"),
            ReloadError::Lost { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "lost"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "not-reloaded"),
        };
        Problem::new(status, word, error.to_string())
    })?;
    let (before, now) = ((&done.before).into(), (&done.now).into());
    Ok(Reload { plugin: name.to_owned(), before, now, drained: done.drained })
}

async fn users(State(state): Shared, Part(Query(page)): Part<Query<PageQuery>>) -> Answer<UserPage> {
    let limit = page.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(AdminError::Invalid("limit must be from 1 to 1000".to_owned()).into());
    }
    Ok(Json(management(&state)?.users(page.after.as_deref(), limit).await?))
}

async fn user(State(state): Shared, Part(Path(id)): Part<Path<String>>) -> Answer<User> {
    Ok(Json(management(&state)?.user(&id).await?))
}

async fn add_user(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Body(new): Body<NewUser>,
) -> Answer<User> {
    let management = management(&state)?;
    let id = new.id.clone();
    audited(caller, "user.add", &id, management.add_user(new).await)
}

async fn delete_user(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
) -> Result<StatusCode, Problem> {
    audited(caller, "user.delete", &id, management(&state)?.delete_user(&id).await).map(|_| StatusCode::NO_CONTENT)
}

async fn suspend_user(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
    Body(suspend): Body<Suspend>,
) -> Answer<User> {
    let result = management(&state)?.suspend_user(&id, suspend.reason.as_deref()).await;
    audited(caller, "user.suspend", &id, result)
}

async fn resume_user(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
) -> Answer<User> {
    audited(caller, "user.resume", &id, management(&state)?.resume_user(&id).await)
}

async fn confirm_enrolment(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
    Body(digits): Body<Digits>,
) -> Answer<User> {
    let result = management(&state)?.confirm_enrolment(&id, &digits.digits).await;
    audited(caller, "user.confirm-enrolment", &id, result)
}

async fn require_rotation(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
) -> Answer<User> {
    audited(caller, "user.require-rotation", &id, management(&state)?.require_rotation(&id).await)
}

async fn enrolment_code(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
    Body(request): Body<CodeRequest>,
) -> Answer<EnrolmentCode> {
    let management = management(&state)?;
    if !(60..=30 * 86_400).contains(&request.valid_seconds) {
        return Err(AdminError::Invalid("a code may be valid for a minute to 30 days".to_owned()).into());
    }
    let valid = Duration::from_secs(request.valid_seconds);
    audited(caller, "user.enrolment-code", &id, management.enrolment_code(&id, valid).await)
}

async fn services(State(state): Shared) -> Answer<Vec<Service>> {
    Ok(Json(management(&state)?.services().await?))
}

async fn add_service(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Body(service): Body<Service>,
) -> Answer<Service> {
    let management = management(&state)?;
    let id = service.id.clone();
    audited(caller, "service.add", &id, management.add_service(service).await)
}

async fn remove_service(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Part(Path(id)): Part<Path<String>>,
) -> Result<StatusCode, Problem> {
    audited(caller, "service.remove", &id, management(&state)?.remove_service(&id).await)
        .map(|_| StatusCode::NO_CONTENT)
}

async fn key_ring(State(state): Shared) -> Answer<KeyRing> {
    Ok(Json(management(&state)?.key_ring().await?))
}

async fn count_secrets(State(state): Shared, Part(Query(page)): Part<Query<CountQuery>>) -> Answer<SecretCount> {
    Ok(Json(management(&state)?.count_secrets(page.after.as_deref()).await?))
}

async fn rotate_keys(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Body(request): Body<RotateKeys>,
) -> Answer<Rotated> {
    let result = management(&state)?.rotate_data_key(&request.drop, request.sole_daemon).await;
    audited(caller, "keys.rotate", "", result)
}

/// Leaves a line at the end of a pass, not for each page.
async fn rewrap(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Body(request): Body<GoOn>,
) -> Answer<RewrapProgress> {
    if !(1..=1000).contains(&request.limit) {
        return Err(AdminError::Invalid("limit must be from 1 to 1000".to_owned()).into());
    }
    match management(&state)?.rewrap(request.sole_daemon, request.limit).await {
        Ok(progress) if progress.end.is_none() => Ok(Json(progress)),
        result => audited(caller, "keys.rewrap", "", result),
    }
}

async fn orphaned_keys(State(state): Shared) -> Answer<OrphanedKeys> {
    Ok(Json(management(&state)?.orphaned_keys().await?))
}

async fn destroy_orphaned_keys(
    State(state): Shared,
    Extension(caller): Extension<Caller>,
    Body(request): Body<DestroyKeys>,
) -> Answer<Destroyed> {
    let result = management(&state)?.destroy_orphaned_keys(&request.ids, request.many).await;
    audited(caller, "keys.destroy-orphans", "", result.map(|destroyed| Destroyed { destroyed }))
}

fn management(state: &AdminState) -> Result<&Management, Problem> {
    state.management.as_deref().ok_or_else(|| {
        let detail = "this daemon has no management role: ask the one that has";
        Problem::new(StatusCode::NOT_FOUND, "no-management", detail)
    })
}

/// Writes what was tried, by whom and with which result. The log quotes `object`, which comes from the caller.
fn audited<T>(caller: Caller, action: &str, object: &str, result: Result<T, AdminError>) -> Answer<T> {
    let (uid, pid) = (caller.uid, caller.pid);
    match &result {
        Ok(_) => tracing::info!(target: "audit", uid, pid, action, object, "done"),
        Err(e) => tracing::info!(target: "audit", uid, pid, action, object, error = %e, "refused"),
    }
    result.map(Json).map_err(Problem::from)
}

/// A JSON body; what is no such body is a problem like all others.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::new(rejection.status(), "malformed", rejection.body_text())),
        }
    }
}

/// A part of the URL; what does not parse is a problem like all others.
struct Part<E>(E);

impl<E, S> FromRequestParts<S> for Part<E>
where
    E: FromRequestParts<S, Rejection: Display>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let part = E::from_request_parts(parts, state).await;
        part.map(Self).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "malformed", e.to_string()))
    }
}

const BODY_LIMIT: usize = 64 * 1024;

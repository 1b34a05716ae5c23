//! Users, as administrators handle them.

use std::sync::Arc;

use claviger_plugin_api::{Cursor, PluginError};
use claviger_protocol::message::MAX_ATTRIBUTES;
use tracing::warn;

use super::{
    model::{AdminError, NewUser, User, UserPage, UserState},
    record::{EnrolmentRecord, Suspension, UserRecord, enrolment_key, user_key},
    repository::{ChangeError, Repository},
    unique_keys::UniqueKeys,
};
use crate::clock::{self, Clock};

/// The users in the store.
pub struct Users {
    /// The store.
    pub repository: Repository,
    /// Where their unique keys are.
    pub unique_keys: Arc<UniqueKeys>,
    /// The time.
    pub clock: Clock,
}

impl Users {
    /// Adds a user without a credential.
    pub async fn add(&self, new: NewUser) -> Result<User, AdminError> {
        check(&new)?;
        let record = UserRecord {
            id: new.id,
            suspended: None,
            name: new.name,
            email: new.email,
            groups: new.groups,
            created_ms: clock::millis((self.clock)()),
            credential: None,
            enrolment: None,
        };
        if self.repository.create(&user_key(&record.id), &record).await.map_err(away)? {
            Ok(self.view(&record))
        } else {
            Err(AdminError::Exists(what(&record.id)))
        }
    }

    /// One user.
    pub async fn get(&self, id: &str) -> Result<User, AdminError> {
        let found = self.repository.get::<UserRecord>(&user_key(id)).await.map_err(away)?;
        found.map(|found| self.view(&found.value)).ok_or_else(|| AdminError::NotFound(what(id)))
    }

    /// Users in the order of their ids, from behind `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<UserPage, AdminError> {
        let after = after.map(|id| Cursor { value: id.to_owned(), key: user_key(id) });
        let (records, next) = self.repository.page::<UserRecord>(after, limit.clamp(1, 1000)).await.map_err(away)?;
        Ok(UserPage {
            users: records.iter().map(|record| self.view(record)).collect(),
            next: next.map(|cursor| cursor.value),
        })
    }

    /// Keeps a user out from its next sign-on on.
    pub async fn suspend(&self, id: &str, reason: Option<&str>) -> Result<User, AdminError> {
        self.change(id, |user| {
            user.suspended = Some(Suspension { reason: reason.map(str::to_owned) });
            true
        })
        .await
    }

    /// Lets a user in again. A credential that was seen twice stays out: only
    /// a new enrolment heals it.
    pub async fn resume(&self, id: &str) -> Result<User, AdminError> {
        let mut cloned = false;
        let resumed = self.change(id, |user| {
            cloned = user.is_cloned();
            !cloned && user.suspended.take().is_some()
        });
        let resumed = resumed.await?;
        if cloned {
            return Err(AdminError::Invalid(format!(
                "user {id} has two live copies of its credential; enrol it anew with `clavigerd user enrol-code {id}`"
            )));
        }
        Ok(resumed)
    }

    /// Has a user's keys rotated after its next sign-on, whatever their age.
    pub async fn require_rotation(&self, id: &str) -> Result<User, AdminError> {
        let mut enrolled = false;
        let user = self
            .change(id, |user| {
                let credential = user.credential.as_mut();
                enrolled = credential.is_some();
                credential.is_some_and(|credential| !std::mem::replace(&mut credential.rotate_required, true))
            })
            .await?;
        if enrolled { Ok(user) } else { Err(AdminError::Invalid(format!("user {id} has no terminal yet"))) }
    }

    /// Deletes a user, its keys and its counters.
    pub async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let removed = self.repository.remove::<UserRecord>(&user_key(id)).await;
        let record = removed.map_err(|e| refused(e, id))?.ok_or_else(|| AdminError::NotFound(what(id)))?;
        if let Some(enrolment) = record.enrolment {
            let removed = self.repository.remove::<EnrolmentRecord>(&enrolment_key(&enrolment.id)).await;
            let removed = removed.map_err(|e| refused(e, id))?;
            let offered = removed.and_then(|enrolment| enrolment.offer).map(|offer| offer.credential.keys_in_custody());
            self.unique_keys.destroy(offered.unwrap_or_default()).await;
        }
        if let Some(credential) = record.credential {
            if let Err(error) = self.repository.forget_credential(&credential).await {
                warn!(user = id, %error, "rows of a deleted user were left behind");
            }
            self.unique_keys.destroy(credential.keys_in_custody()).await;
        }
        Ok(())
    }

    async fn change(&self, id: &str, mut change: impl FnMut(&mut UserRecord) -> bool) -> Result<User, AdminError> {
        let changed = self.repository.change(&user_key(id), |user| Ok::<_, ()>(change(user))).await;
        changed.map(|record| self.view(&record)).map_err(|e| refused(e, id))
    }

    fn view(&self, record: &UserRecord) -> User {
        let now = clock::millis((self.clock)());
        let code = record.enrolment.as_ref().filter(|enrolment| enrolment.expires_ms > now);
        User {
            id: record.id.clone(),
            state: match &record.credential {
                _ if record.is_kept_out() => UserState::Suspended,
                Some(_) => UserState::Active,
                None => UserState::New,
            },
            reason: if record.is_cloned() {
                Some("two live copies of its credential were seen; enrol it anew".into())
            } else {
                record.suspended.as_ref().and_then(|suspension| suspension.reason.clone())
            },
            name: record.name.clone(),
            email: record.email.clone(),
            groups: record.groups.clone(),
            epoch: record.credential.as_ref().map(|credential| credential.epoch),
            created: clock::rfc3339(record.created_ms),
            enrolled: record.credential.as_ref().map(|credential| clock::rfc3339(credential.enrolled_ms)),
            keys_made: record.credential.as_ref().map(|credential| clock::rfc3339(credential.keys_made_ms)),
            rotation_required: record.credential.as_ref().is_some_and(|credential| credential.rotate_required),
            code_expires: code.map(|enrolment| clock::rfc3339(enrolment.expires_ms)),
        }
    }
}

/// Maps a change that was not made to what the administrator is told.
pub(super) fn refused(error: ChangeError<()>, id: &str) -> AdminError {
    match error {
        ChangeError::NotFound | ChangeError::Refused(()) => AdminError::NotFound(what(id)),
        ChangeError::Conflict => AdminError::Conflict(what(id)),
        ChangeError::Store(error) => away(error),
    }
}

fn check(new: &NewUser) -> Result<(), AdminError> {
    let id_is_good =
        (1..=128).contains(&new.id.len()) && new.id.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/');
    if !id_is_good {
        let message = "a user id has 1 to 128 bytes, without white space, control characters or `/`";
        return Err(AdminError::Invalid(message.into()));
    }
    for (what, value) in [("name", &new.name), ("email", &new.email)] {
        if value.as_ref().is_some_and(|v| v.len() > 256 || v.chars().any(char::is_control)) {
            return Err(AdminError::Invalid(format!("the {what} has at most 256 bytes and no control characters")));
        }
    }
    let group_is_good = |group: &String| {
        (1..=128).contains(&group.len()) && !group.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control())
    };
    if new.groups.len() > 64 || !new.groups.iter().all(group_is_good) {
        let message = "a user has at most 64 groups of 1 to 128 bytes each, without commas and white space";
        return Err(AdminError::Invalid(message.into()));
    }
    // As they are released: quotes and backslashes take two bytes.
    let released = serde_json::json!({ "user": new.id, "name": new.name, "email": new.email, "groups": new.groups });
    if released.to_string().len() > MAX_ATTRIBUTES {
        return Err(AdminError::Invalid(format!(
            "all attributes together have at most {MAX_ATTRIBUTES} bytes as JSON"
        )));
    }
    Ok(())
}

fn what(id: &str) -> String {
    format!("user {id}")
}

fn away(error: PluginError) -> AdminError {
    AdminError::Unavailable(error.to_string())
}

//! What a terminal asks the management server for itself: new keys, the
//! directory, and what the realm offers. Where the management server cannot be
//! reached, a service of the table passes the envelopes on.

use std::{sync::PoisonError, time::Duration};

use claviger_protocol::Secret32;

use super::{Terminal, now_ms, random};
use crate::{
    client::Trust,
    core::{
        Fresh,
        account::{Directory, Exchange, Next, Random, Rotation},
        realm,
    },
    credential::{Credential, Service},
    credential_file::CredentialFile,
    error::{Blame, Error, Result},
    origin::Origin,
    service::{self, Source},
};

/// The outcome of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// The epoch of the new keys.
    pub epoch: u32,
    /// Whether they have been used with success: the ones before them are
    /// gone, on both sides. Otherwise the next sign-on uses them.
    pub in_use: bool,
}

impl Terminal {
    /// Gets new keys now, and uses them once, so that the ones before them
    /// count no longer. Whatever is lost on the way, and whenever the program
    /// is stopped, the terminal keeps the keys that the management server has.
    ///
    /// # Errors
    /// Until the new keys are stored. A first use that fails is no error: see
    /// [`Rotated::in_use`].
    pub async fn rotate(&self) -> Result<Rotated> {
        let _one = self.0.rotating.lock().await;
        if self.credential().await?.next.is_some() {
            // A use of the pending keys shows which epoch is the current one;
            // only under that one can there be a rotation.
            let _ = self.directory().await;
        }
        let epoch = self.new_keys().await?;
        let _ = self.directory().await;
        let in_use = self.credential().await?.epoch >= epoch;
        Ok(Rotated { epoch, in_use })
    }

    /// Fetches the services that this user may reach, and stores them in the
    /// place of those that came from the directory before; rows that the user
    /// added stay, and win. Takes up what the realm says of itself, too.
    /// Returns the rows from the directory.
    pub async fn refresh_directory(&self) -> Result<Vec<Service>> {
        // Where it does not come, what is known of the realm still holds.
        let _ = self.refresh_realm().await;
        self.directory().await
    }

    /// A rotation that the management server asked for, or that heals keys it
    /// does not know. Its failure is a warning; the next sign-on tries again.
    pub(super) async fn rotate_by_itself(&self, used: &Credential, epoch: u32, is_behind: bool) {
        let Ok(_one) = self.0.rotating.try_lock() else { return };
        let rotation = async {
            let now = self.credential().await?;
            let waits = match (&used.next, &now.next) {
                (Some(used), Some(now)) if is_behind => !used.unique_key.ct_eq(now.unique_key.expose()),
                (_, next) => next.is_some(),
            };
            if now.id != used.id || now.epoch > epoch || waits {
                return Ok(());
            }
            self.new_keys().await.map(|_| ())
        };
        let failure = match tokio::time::timeout(AUTOMATIC_LIMIT, rotation).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("there was no answer within {} s", AUTOMATIC_LIMIT.as_secs()),
        };
        let warning = format!("the keys could not be rotated, the next sign-on tries again: {failure}");
        *self.0.warning.lock().unwrap_or_else(PoisonError::into_inner) = Some(warning);
    }

    /// Gets keys for the next epoch and stores them as pending ones.
    async fn new_keys(&self) -> Result<u32> {
        let (keys, used) = self.ask(Rotation::start()).await?;
        let epoch = keys.epoch();
        let stored = self.blocking(move |file| file.update(|credential| Ok(keys.store(&used, credential)))).await?;
        if stored {
            Ok(epoch)
        } else {
            Err(Error::Invalid("another program changed the keys at the same time; run `claviger rotate` again".into()))
        }
    }

    async fn directory(&self) -> Result<Vec<Service>> {
        let (listed, used) = self.ask(Directory::start()).await?;
        let learnt = move |credential: &mut Credential| {
            if credential.id == used.id {
                service::learn(&mut credential.services, listed);
            }
            let rows = credential.services.iter().filter(|row| row.source == Source::Directory);
            Ok(rows.cloned().collect())
        };
        self.blocking(move |file| file.update(learnt)).await
    }

    async fn refresh_realm(&self) -> Result<()> {
        let credential = self.credential().await?;
        let transport = self.transport(&credential.server_trust())?;
        let response = transport.exchange(&credential.server, realm::request()).await?;
        let info = realm::receive(&response, &credential.realm, credential.server.as_str())?;
        let id = credential.id;
        let change = move |credential: &mut Credential| {
            if credential.id == id {
                credential.offered(&info);
            }
            Ok(())
        };
        self.blocking(move |file| file.update(change)).await
    }

    /// Makes an exchange, each envelope with a counter of its own. Also gives
    /// the credential as the last envelope used it.
    async fn ask<E: Exchange>(&self, mut exchange: E) -> Result<(E::Answer, Credential)> {
        let mut routes = routes(&self.credential().await?).into_iter();
        let (mut origin, mut trust) = routes.next().ok_or(Error::Crypto("there is no management server"))?;
        let mut first_failure = None;
        loop {
            let outcome = self.ask_once(exchange.clone(), &origin, &trust).await;
            let failure = match outcome {
                Ok((Next::Done(answer), used)) => return Ok((answer, used)),
                Ok((Next::Again(next), _)) => {
                    exchange = next;
                    continue;
                }
                Err(error) => error,
            };
            // A service that does not pass envelopes on is as good as away.
            let is_relay = first_failure.is_some();
            let go_on = failure.blame() == Blame::Unreachable
                || (is_relay && matches!(failure, Error::NotProtocol { .. } | Error::Invalid(_)));
            if !go_on {
                return Err(failure);
            }
            let first = first_failure.get_or_insert(failure);
            match routes.next() {
                Some(route) => (origin, trust) = route,
                None => return Err(std::mem::replace(first, Error::Crypto("the terminal is closed"))),
            }
        }
    }

    async fn ask_once<E: Exchange>(
        &self,
        exchange: E,
        origin: &Origin,
        trust: &Trust,
    ) -> Result<(Next<E, E::Answer>, Credential)> {
        let _permit = self.permit().await?;
        let transport = self.transport(trust)?;
        let (credential, counter) = self.blocking(CredentialFile::take_counter).await?;
        let random = Random { nonce: random()?, kem: Secret32::new(random()?) };
        let (request, awaited) = exchange.seal(&credential, Fresh { counter, now_ms: now_ms(), random })?;
        let response = transport.exchange(origin, request).await?;
        let judged = exchange.receive(awaited, &response, now_ms(), origin.as_str());
        self.learn(&credential, judged.learnt).await?;
        Ok((judged.next?, credential))
    }
}

/// The management server, then a few services that could pass an envelope on.
fn routes(credential: &Credential) -> Vec<(Origin, Trust)> {
    let services = credential.services.iter().map(|service| {
        let ca = service.ca.as_deref().or(credential.ca.as_deref());
        (service.origin.clone(), Trust::of(ca))
    });
    let server = (credential.server.clone(), credential.server_trust());
    std::iter::once(server).chain(services.take(MAX_RELAYS)).collect()
}

/// How many services are asked to pass an envelope on.
const MAX_RELAYS: usize = 4;
/// How long a sign-on waits for the rotation that comes with it.
const AUTOMATIC_LIMIT: Duration = Duration::from_secs(10);

//! A service: the protocol's states. Which envelopes it has at the management
//! server is lost when it dies.

use std::collections::BTreeMap;

use claviger_protocol::{
    Code, Realm, ServiceId,
    message::{Answer, KeyGrant},
    service::{self, Answered, BindingCheck, Bound, Policy},
};

use super::{
    super::material::{KEMS, SUITES, realm, suite},
    Awaiting, Moment, USERS, user_id,
};

/// A service.
pub struct Service {
    number: usize,
    /// Its id.
    pub id: ServiceId,
    realm: Realm,
    waiting: BTreeMap<u64, (Awaiting, Vec<u8>)>,
    tickets: u64,
}

impl Service {
    /// A service without sessions.
    pub fn new(number: usize, id: ServiceId) -> Self {
        Self { number, id, realm: realm(), waiting: BTreeMap::new(), tickets: 0 }
    }

    /// The process dies and starts again.
    pub fn restart(&mut self) {
        self.waiting.clear();
    }

    /// Takes an envelope. Gives the ticket under which the management server
    /// is asked about it, or the refusal.
    pub fn receive(&mut self, awaiting: Awaiting, envelope: &[u8], moment: &mut Moment<'_>) -> Result<u64, Vec<u8>> {
        let forward = self.bound(envelope).map(|bound| bound.forward().to_vec());
        let forward = forward.map_err(|code| service::refusal(code, &moment.random.bytes(), &[]))?;
        self.tickets += 1;
        self.waiting.insert(self.tickets, (awaiting, forward));
        Ok(self.tickets)
    }

    /// Takes the management server's answer, and gives the reply.
    pub fn answered(&mut self, ticket: u64, answer: &[u8], moment: &mut Moment<'_>) -> Option<(Awaiting, Vec<u8>)> {
        let (awaiting, envelope) = self.waiting.remove(&ticket)?;
        let reply = self.reply(&envelope, answer, moment);
        Some((awaiting, reply.unwrap_or_else(|code| service::refusal(code, &moment.random.bytes(), &[]))))
    }

    fn reply(&self, envelope: &[u8], answer: &[u8], moment: &mut Moment<'_>) -> Result<Vec<u8>, Code> {
        let bound = self.bound(envelope)?;
        let header = service::receive(envelope, &self.policy())?.header().suite;
        let suite = suite(header);
        let awaiting = bound.await_answer(suite).unwrap();
        match awaiting.receive(answer).map_err(|_| Code::Unavailable)? {
            Answered::Refused { code, note } => Ok(service::refusal(code, &moment.random.bytes(), note)),
            Answered::Granted(granted) => {
                let key = moment.random.bytes();
                moment.ledger.session(envelope, user_of(granted.subject), self.number, key);
                let grant = KeyGrant {
                    kind: 1,
                    lifetime: 60,
                    key_id: vec![1; 16],
                    key: key.to_vec().into(),
                    audience: self.id.clone(),
                };
                Ok(granted.reply(suite, &grant, &moment.random.bytes(), &moment.random.secret()).unwrap())
            }
        }
    }

    /// What a hostile service does with an answer to an envelope that it
    /// handed in itself: whatever grants something is a session to it.
    pub fn look_into(&self, envelope: &[u8], answer: &[u8], moment: &mut Moment<'_>) {
        moment.ledger.in_clear(answer);
        if let Some(grant) = Answer::decode(answer).unwrap().grant {
            moment.ledger.session(envelope, user_of(grant.subject), self.number, moment.random.bytes());
        }
    }

    fn bound<'a>(&self, envelope: &'a [u8]) -> Result<Bound<'a>, Code> {
        service::receive(envelope, &self.policy())?.bound(BindingCheck::NotRequired)
    }

    fn policy(&self) -> Policy<'_> {
        Policy { service: &self.id, realm: &self.realm, suites: &SUITES, kems: &KEMS }
    }
}

fn user_of(subject: &str) -> usize {
    (0..USERS).find(|user| user_id(*user) == subject).unwrap()
}

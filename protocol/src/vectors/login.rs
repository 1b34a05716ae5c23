//! Vectors of kind `login`.

use zeroize::Zeroizing;

use super::{Checker, Result, show};
use crate::{
    Code,
    kem::TerminalKey,
    management::login as management,
    message::{Binding, Envelope, KeyGrant, LoginInner, Note, Scope, Uid},
    names::{Realm, ServiceId},
    registry::{KemId, SuiteId},
    schedule, service,
    suite::Suite,
    terminal::login::{self as terminal, Accept, Login, LoginRandom, Sender},
};

pub(super) fn run(checker: &mut Checker<'_>, suite: &dyn Suite, id: SuiteId, kem_id: KemId) -> Result<()> {
    let realm: Realm = checker.text("realm")?.parse()?;
    let service_id: ServiceId = checker.text("service")?.parse()?;
    let user_id = checker.text("user_id")?.to_owned();
    let (unique_key, management_key) = (checker.secret("K_u")?, checker.secret("A_u")?);
    let session_password = checker.secret("SP")?;
    let (terminal_seed, service_seed) = (checker.kem_secret("t_x25519")?, checker.kem_secret("s_x25519")?);
    let service_nonce = checker.array("s_nonce")?;
    let names =
        checker.vector.inputs.get("scope").and_then(|scope| scope.as_array()).ok_or("input scope is missing")?;
    let names: Vec<&str> = names.iter().filter_map(|name| name.as_str()).collect();
    let scope = Scope::new(names).map_err(show)?;
    let bind = checker.array("bind")?;
    let grant = KeyGrant {
        kind: checker.number("sak_kind")? as u8,
        lifetime: checker.number("lifetime")? as u32,
        key_id: checker.bytes("keyid")?,
        key: Zeroizing::new(checker.bytes("SAK")?),
        audience: service_id.clone(),
    };
    let note_plain = checker.bytes("note_plain")?;
    let note = Note::decode(&note_plain).map_err(show)?;

    // The parties' states.
    let sender = Sender {
        realm: &realm,
        user_id: user_id.as_bytes(),
        uid: Uid::UserId(user_id.as_bytes()),
        epoch: checker.number("epoch")? as u32,
        unique_key: &unique_key,
        management_key: &management_key,
        suite: id,
        kem: kem_id,
        counter: checker.number("counter")?,
        time_ms: checker.number("time_ms")?,
    };
    let login = Login {
        sender,
        service: &service_id,
        binding: match checker.number("bind_kind")? {
            0 => Binding::None,
            1 => Binding::Challenge(bind),
            _ => Binding::TlsExporter(bind),
        },
        scope: scope.clone(),
    };
    let random = LoginRandom {
        nonce: checker.array("nonce")?,
        session_password: session_password.clone(),
        kem: terminal_seed.clone(),
    };
    let seed = checker.bytes_or_empty("t_mlkem_seed")?;
    let key = || TerminalKey::from_seed(kem_id, &terminal_seed, &seed).map_err(show);
    let (ephemeral, share) = key()?;
    let (envelope, awaiting) = terminal::start_with(suite, login, random, ephemeral, &share).map_err(show)?;
    checker.equal("envelope", &envelope);
    checker.size("envelope", envelope.len());

    let (own, _) = key()?;
    let (s_share, shared) = checker.agree("s_share", kem_id, &own, &share, &service_seed)?;

    let policy = service::Policy { service: &service_id, realm: &realm, suites: &[id], kems: &[kem_id] };
    let received = service::receive(&envelope, &policy).map_err(show)?;
    let binding = match received.header().binding {
        Binding::None => service::BindingCheck::NotRequired,
        Binding::Challenge(_) => service::BindingCheck::OwnChallenge,
        Binding::TlsExporter(_) => service::BindingCheck::ThisConnection,
    };
    let bound = received.bound(binding).map_err(show)?;
    let await_answer = bound.await_answer(suite).map_err(show)?;

    let policy = management::Policy { realm: &realm, suites: &[id], kems: &[kem_id] };
    let candidate = management::Candidate { user_id: user_id.as_bytes(), management_key: &management_key, known: true };
    let clock = management::Clock { now_ms: note.server_time_ms, window_ms: u64::MAX, not_before_ms: 0 };
    let floor = management::Floor { hash_len: suite.hash_len(), suite: id, kem: kem_id };
    let refused = |refusal: Box<management::Refusal>| show(refusal.reason());
    let authorised = management::receive(bound.forward(), &policy)
        .and_then(|received| received.from_service(&service_id))
        .and_then(|received| received.open(suite, &unique_key, candidate))
        .map_err(show)?
        .meets_floor(&floor)
        .map_err(refused)?
        .counted(management::Counted::Fresh, &clock)
        .map_err(refused)?
        .decided(true)
        .map_err(refused)?;
    checker.that("the scope differs", *authorised.scope() == scope);
    let granting = management::Granting {
        auth_id: [1; 16],
        subject: "subject",
        now_ms: note.server_time_ms,
        max_session: 3600,
        attributes: b"{}",
        epoch: note.epoch,
        rotate_required: note.flags.rotate_required,
        next_handle: None,
    };
    let answer = authorised.grant(suite, &granting).map_err(show)?;
    let answered = await_answer.receive(&answer).map_err(show)?;
    let service::Answered::Granted(granted) = answered else { return Err("the sign-on was refused".into()) };
    let reply = granted.reply_with(suite, &grant, &service_nonce, &s_share, shared.expose()).map_err(show)?;
    checker.equal("reply", &reply);
    checker.size("reply", reply.len());
    let accept = Accept { kinds: &[grant.kind], max_lifetime: grant.lifetime };
    let signed_on = awaiting.receive(suite, &reply, accept).map_err(show)?;
    checker.that("the terminal's key differs", signed_on.grant.key == grant.key);
    checker.that("the terminal's note differs", signed_on.note == note && note.code == Code::Ok);

    // The same step by step.
    let decoded = Envelope::decode(&envelope).map_err(show)?;
    checker.equal("header", decoded.header_bytes);
    checker.size("header", decoded.header_bytes.len());
    let master = schedule::master_secret(suite, &unique_key, user_id.as_bytes(), decoded.header_bytes).map_err(show)?;
    checker.equal("MS", master.as_slice());
    checker.equal("msg_key_iv", schedule::envelope_key(suite, &master).map_err(show)?.expose());
    let inner = LoginInner {
        session_password: session_password.clone(),
        management_key: management_key.clone(),
        counter: sender.counter,
        scope,
    };
    checker.equal("inner", &inner.encode());
    let envelope_hash = schedule::hash(suite, &envelope).map_err(show)?;
    checker.equal("envelope_hash", envelope_hash.as_slice());
    checker.equal("note_key_iv", schedule::note_key(suite, &master, &envelope_hash).map_err(show)?.expose());
    let answer = crate::message::Answer::decode(&answer).map_err(show)?;
    checker.equal("note", answer.note);
    checker.size("note", answer.note.len());
    let head = crate::message::reply_head(Code::Ok, &service_nonce, &s_share, answer.note);
    let transcript = schedule::transcript(suite, &envelope_hash, &head).map_err(show)?;
    checker.equal("TH", transcript.as_slice());
    let reply_key = schedule::reply_key(suite, &session_password, shared.expose(), &transcript).map_err(show)?;
    checker.equal("reply_key_iv", reply_key.expose());
    checker.equal("reply_plain", &grant.encode().map_err(show)?);
    Ok(())
}

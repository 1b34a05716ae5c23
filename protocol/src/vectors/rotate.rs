//! Vectors of kind `rotate`.

use super::{Checker, Result, show};
use crate::{
    kem::{self, TerminalKey},
    management::{envelope as management, rotate as management_rotate},
    message::{Envelope, Note, NoteMessage, Uid},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule,
    suite::Suite,
    terminal::{envelope::Sender, rotate as terminal},
};

pub(super) fn run(checker: &mut Checker<'_>, suite: &dyn Suite, id: SuiteId, kem_id: KemId) -> Result<()> {
    let (unique_key, management_key) = (checker.secret("K_u")?, checker.secret("A_u")?);
    let seed = checker.bytes_or_empty("t_mlkem_seed")?;
    let key = || TerminalKey::from_seed(kem_id, &checker.kem_secret("t_x25519")?, &seed).map_err(show);
    let (ephemeral, share) = key()?;
    let (again, _) = key()?;
    // Realm, user and epoch are in none of the inputs: they are read off the envelope.
    let expected = checker.expected("envelope")?;
    let header = Envelope::decode(&expected).map_err(show)?.header;
    let Uid::UserId(user_id) = header.uid else { return Err("the vector's uid is not plain".into()) };
    let realm: Realm = header.realm.parse()?;

    // The peer's share is an input where it cannot be made from a seed.
    let m_share = checker.expected("m_share")?;
    let shared = again.agree(&m_share).map_err(show)?;
    if kem_id == KemId::X25519 {
        let (own, secret) = kem::respond(kem_id, &share, &checker.secret("m_x25519")?).map_err(show)?;
        checker.that("the management server's share differs", own == m_share);
        checker.that("the shared secrets differ", secret.expose() == shared.expose());
    }

    let sender = Sender {
        realm: &realm,
        user_id,
        uid: Uid::UserId(user_id),
        epoch: header.epoch,
        unique_key: &unique_key,
        management_key: &management_key,
        suite: id,
        kem: kem_id,
        counter: checker.number("counter")?,
        time_ms: checker.number("time_ms")?,
    };
    let (envelope, awaiting) =
        terminal::start_with(suite, &sender, checker.array("nonce")?, ephemeral, &share).map_err(show)?;
    checker.equal("envelope", &envelope);
    checker.size("envelope", envelope.len());

    // What the note says is in none of the inputs: it is opened with the terminal's keys.
    let decoded = Envelope::decode(&envelope).map_err(show)?;
    let master = schedule::master_secret(suite, &unique_key, user_id, decoded.header_bytes).map_err(show)?;
    let envelope_hash = schedule::hash(suite, &envelope).map_err(show)?;
    let expected_note = checker.expected("note")?;
    let note_key = schedule::note_key(suite, &master, &envelope_hash).map_err(show)?;
    let message = NoteMessage::decode(&expected_note).map_err(show)?;
    let plain = note_key.open(suite, &schedule::note_aad(&envelope_hash), message.ciphertext).map_err(show)?;
    let note = Note::decode(&plain).map_err(show)?;

    let policy = management::Policy { realm: &realm, suites: &[id], kems: &[kem_id] };
    let candidate = management::Candidate { user_id, management_key: &management_key, known: true };
    let clock = management::Clock { now_ms: note.server_time_ms, window_ms: u64::MAX, not_before_ms: 0 };
    let floor = management::Floor { hash_len: suite.hash_len(), suite: id, kem: kem_id };
    let refused = |refusal: Box<management::Refusal>| show(refusal.reason());
    let (made, keys) = management_rotate::receive(&envelope, &policy)
        .and_then(|received| received.open::<management::RotateInner>(suite, &unique_key, candidate))
        .map_err(show)?
        .meets_floor(&floor)
        .map_err(refused)?
        .counted(management::Counted::Fresh, &clock)
        .map_err(refused)?
        .decided(true)
        .map_err(refused)?
        .rotate_with(suite, &m_share, shared.expose(), note.server_time_ms, note.epoch)
        .map_err(show)?;
    checker.equal("note", &made);
    checker.size("note", made.len());
    checker.equal("K_u_next", keys.unique_key.expose());
    checker.equal("A_u_next", keys.management_key.expose());
    let rotated = awaiting.receive(suite, &made).map_err(show)?;
    checker.that("K_u differs at the terminal", rotated.keys.unique_key.ct_eq(keys.unique_key.expose()));
    checker.that("A_u differs at the terminal", rotated.keys.management_key.ct_eq(keys.management_key.expose()));

    checker.equal("header", decoded.header_bytes);
    checker.equal("MS", master.as_slice());
    checker.equal("m_share", &m_share);
    checker.equal("ss", shared.expose());
    Ok(())
}

//! Vectors of kind `rotate`.

use super::{Checker, Result, show};
use crate::{
    kem::TerminalKey,
    management::{envelope as management, rotate as management_rotate},
    message::{Envelope, Header, Note, NoteMessage, Uid},
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
    // The published vector has neither realm, user nor epoch among its inputs:
    // they are read off its envelope.
    let expected = checker.expected("envelope").unwrap_or_default();
    let header = Envelope::decode(&expected).map(|envelope| envelope.header);
    let (realm, user_id, epoch) = match (checker.text("realm"), header) {
        (Ok(realm), _) => {
            (realm.parse()?, checker.text("user_id")?.as_bytes().to_vec(), checker.number("epoch")? as u32)
        }
        (Err(_), Ok(Header { realm, uid: Uid::UserId(user_id), epoch, .. })) => {
            (realm.parse()?, user_id.to_vec(), epoch)
        }
        (Err(error), _) => return Err(error),
    };
    let (realm, user_id): (Realm, &[u8]) = (realm, &user_id);
    let management_seed = checker.kem_secret("m_x25519")?;
    let (m_share, shared) = checker.agree("m_share", kem_id, &again, &share, &management_seed)?;

    let sender = Sender {
        realm: &realm,
        user_id,
        uid: Uid::UserId(user_id),
        epoch,
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

    // Nor what the note says: it is opened with the terminal's keys.
    let decoded = Envelope::decode(&envelope).map_err(show)?;
    let master = schedule::master_secret(suite, &unique_key, user_id, decoded.header_bytes).map_err(show)?;
    let envelope_hash = schedule::hash(suite, &envelope).map_err(show)?;
    let (now_ms, next_epoch) = match checker.number("server_time_ms") {
        Ok(time) => (time, epoch + 1),
        Err(_) => {
            let expected_note = checker.expected("note")?;
            let note_key = schedule::note_key(suite, &master, &envelope_hash).map_err(show)?;
            let message = NoteMessage::decode(&expected_note).map_err(show)?;
            let plain = note_key.open(suite, &schedule::note_aad(&envelope_hash), message.ciphertext).map_err(show)?;
            let note = Note::decode(&plain).map_err(show)?;
            (note.server_time_ms, note.epoch)
        }
    };

    let policy = management::Policy { realm: &realm, suites: &[id], kems: &[kem_id] };
    let candidate = management::Candidate { user_id, management_key: &management_key, known: true };
    let clock = management::Clock { now_ms, window_ms: u64::MAX, not_before_ms: 0 };
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
        .rotate_with(suite, &m_share, shared.expose(), now_ms, next_epoch)
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
    Ok(())
}

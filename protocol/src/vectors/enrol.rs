//! Vectors of kind `enrol`.

use super::{Checker, Result, show};
use crate::{
    enrolment_code::EnrolmentCode,
    kem::{self, TerminalKey},
    management::enrol as management,
    message::{Enrol1, Enrol2, Enrol3, EnrolBox},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule::{self, enrolment::Secrets},
    suite::Suite,
    terminal::enrol as terminal,
};

pub(super) fn run(checker: &mut Checker<'_>, suite: &dyn Suite, id: SuiteId, kem_id: KemId) -> Result<()> {
    let code = EnrolmentCode::new(checker.array("code")?);
    let code_text = checker.text("code_text")?.to_owned();
    checker.that("code_text differs", code.expose() == code_text);
    checker.equal("eid", &code.id());
    checker.equal("psk", code.psk().expose());
    let (terminal_seed, management_seed) = (checker.kem_secret("t_x25519")?, checker.kem_secret("m_x25519")?);

    // The parties' states. The realm is in E1, the box's content in E2.
    let (expected_e1, expected_e2) = (output(checker, "E1")?, output(checker, "E2")?);
    let realm: Realm = Enrol1::decode(&expected_e1).map_err(show)?.realm.parse()?;
    let nonce = checker.array("n_t")?;
    let (e1, awaiting) = terminal::start(suite, id, &realm, &code, kem_id, &nonce, &terminal_seed).map_err(show)?;
    checker.equal("E1", &e1);
    let details = box_of(suite, &code, &e1, &expected_e2, kem_id, checker)?;
    let verified = management::receive(&e1, &realm, &[id], &[kem_id])
        .and_then(|request| request.verify(suite, &code.psk(), true))
        .map_err(show)?;
    let (e2, pending) =
        verified.offer(suite, &code.psk(), &details, &checker.array("n_m")?, &management_seed).map_err(show)?;
    checker.equal("E2", &e2);
    let (offered, done) = awaiting.receive(suite, &e2).map_err(show)?;
    checker.equal("E3", &offered.confirm);
    checker.that("the terminal's details differ", offered.details == details);
    let e4 = pending.confirm(&Enrol3::decode(&offered.confirm).map_err(show)?).map_err(show)?;
    checker.equal("E4", &e4);
    done.receive(&e4).map_err(show)?;
    checker.equal("K_u", offered.unique_key.expose());
    checker.equal("A_u", offered.management_key.expose());
    checker.that("K_u differs at the management server", pending.unique_key.ct_eq(offered.unique_key.expose()));
    checker.that("A_u differs at the management server", pending.management_key.ct_eq(offered.management_key.expose()));
    for (name, message) in [("E1", &e1), ("E2", &e2), ("E3", &offered.confirm), ("E4", &e4)] {
        checker.size(name, message.len());
    }

    // The same step by step.
    let request = Enrol1::decode(&e1).map_err(show)?;
    let (share, shared) = kem::respond(kem_id, request.share, &management_seed).map_err(show)?;
    checker.equal("m_share", &share);
    checker.equal("ss", shared.expose());
    let hash = schedule::hash(suite, &e1).map_err(show)?;
    let offer = Enrol2::decode(&e2).map_err(show)?;
    let secrets = Secrets::derive(suite, &code.psk(), shared.expose(), &hash, offer.body).map_err(show)?;
    checker.equal("th", secrets.transcript().as_slice());
    Ok(())
}

/// The vectors do not list what E2's box says: it is opened with the terminal's keys.
fn box_of(
    suite: &dyn Suite,
    code: &EnrolmentCode,
    e1: &[u8],
    e2: &[u8],
    kem: KemId,
    checker: &Checker<'_>,
) -> Result<EnrolBox> {
    let e2 = Enrol2::decode(e2).map_err(show)?;
    let (key, _) = TerminalKey::generate(kem, &checker.kem_secret("t_x25519")?).map_err(show)?;
    let shared = key.agree(e2.share).map_err(show)?;
    let hash = schedule::hash(suite, e1).map_err(show)?;
    let secrets = Secrets::derive(suite, &code.psk(), shared.expose(), &hash, e2.body).map_err(show)?;
    let key = secrets.box_key(suite).map_err(show)?;
    EnrolBox::decode(&key.open(suite, e2.body, e2.ciphertext).map_err(show)?).map_err(show)
}

fn output(checker: &Checker<'_>, name: &str) -> Result<Vec<u8>> {
    let value =
        checker.vector.outputs.get(name).and_then(|value| value.as_str()).ok_or(format!("{name} is missing"))?;
    data_encoding::HEXLOWER.decode(value.as_bytes()).map_err(show)
}

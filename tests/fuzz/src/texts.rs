//! What people type and files hold: enrolment codes, names, numbers of suites,
//! scopes, and files of test vectors.

use claviger_protocol::{Realm, ServiceId, Suite, SuiteId, enrolment_code::EnrolmentCode, message::Scope, vectors};

use super::material::suite;

/// Hands `data` to each parser of text. What one takes is shown and read back.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(code) = EnrolmentCode::parse(text) {
        let shown = code.expose();
        let again = EnrolmentCode::parse(&shown).unwrap();
        assert_eq!((again.expose(), again.id()), (shown, code.id()));
    }
    if let Ok(realm) = text.parse::<Realm>() {
        assert_eq!(realm.as_str(), text);
    }
    if let Ok(service) = text.parse::<ServiceId>() {
        assert_eq!(service.as_str(), text);
    }
    if let Ok(id) = text.parse::<SuiteId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(scope) = Scope::new(text.split(',')) {
        assert!(scope.names().eq(text.split(',')));
    }
    if let Ok(file) = vectors::parse(text) {
        for vector in file.vectors.iter().take(2) {
            // Any outcome will do, as long as there is one.
            let _ = vectors::check(vector, |id| SuiteId::ALL.contains(&id).then(|| suite(id) as &dyn Suite));
        }
    }
}

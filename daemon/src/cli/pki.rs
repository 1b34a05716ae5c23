//! `clavigerd pki`: files only, no daemon.

use time::OffsetDateTime;

use super::{
    args::{PkiCommand, SubjectCommand},
    failure::Failure,
    output::{Lines, Output},
};
use crate::pki::{self, Earlier, Issued, PkiError, Request, Subject};

pub(super) fn pki(command: &PkiCommand, output: &Output) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc();
    let issued = match command {
        PkiCommand::Init { directory, realm } => pki::authority::init(directory, realm, now)?,
        PkiCommand::Issue { directory, subject } => {
            let (subject, names) = match subject {
                SubjectCommand::Manager { names } => (Subject::Manager, names),
                SubjectCommand::Service { id, names } => (Subject::Service(id.clone()), names),
                SubjectCommand::Server { name, names } => (Subject::Server(name.clone()), names),
            };
            let earlier = match (names.renew, names.force) {
                (true, _) => Earlier::Renew,
                (false, true) => Earlier::Replace,
                (false, false) => Earlier::Keep,
            };
            let request = Request { subject, dns: names.dns.clone(), ip: names.ip.clone(), days: names.days, earlier };
            pki::authority::issue(directory, &request, now)?
        }
    };
    output.answer(&issued, show)
}

fn show(issued: &Issued, out: &mut Lines) {
    out.fields([
        ("certificate", Some(issued.certificate.display().to_string())),
        ("private key", Some(issued.private_key.display().to_string())),
        ("expires", Some(issued.expires.clone())),
        ("key pin", Some(issued.key_pin.clone())),
    ]);
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        let word = match &error {
            PkiError::Exists { .. } => "exists",
            PkiError::NoAuthority { .. } => "no-authority",
            PkiError::Invalid(_) => "invalid",
            _ => "failed",
        };
        Self::Refused { word: word.to_owned(), detail: error.to_string() }
    }
}

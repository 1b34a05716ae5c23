//! `clavigerd user`

use std::io::{self, BufRead, IsTerminal, Write};

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::json;

use super::{
    args::{Common, UserCommand},
    daemon::{block_on, client},
    failure::Failure,
    output::{Lines, Output},
};
use crate::{
    admin::AdminClient,
    management::model::{NewUser, User, UserState},
};

pub(super) fn user(command: &UserCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    let client = client(common)?;
    match command {
        UserCommand::Add { id, name, email, groups } => {
            let new = NewUser { id: id.clone(), name: name.clone(), email: email.clone(), groups: groups.clone() };
            let user = block_on(async { Ok(client.add_user(&new).await?) })?;
            output.answer(&user, |user, out| {
                out.line(format!("added {}; next: clavigerd user enrol-code {}", user.id, user.id));
            })
        }
        UserCommand::Show { id } => output.answer(&block_on(async { Ok(client.user(id).await?) })?, show),
        UserCommand::List => {
            let users = block_on(all(&client))?;
            output.answer(&json!({ "users": users }), |_, out| list(&users, out))
        }
        UserCommand::Suspend { id, reason } => {
            let user = block_on(async { Ok(client.suspend_user(id, reason.clone()).await?) })?;
            output.answer(&user, |user, out| out.line(format!("suspended {}", user.id)))
        }
        UserCommand::Resume { id } => {
            let user = block_on(async { Ok(client.resume_user(id).await?) })?;
            output.answer(&user, |user, out| out.line(format!("resumed {}: {}", user.id, word(user.state))))
        }
        UserCommand::Delete { id, yes } => {
            if !yes {
                confirm(id)?;
            }
            block_on(async { Ok(client.delete_user(id).await?) })?;
            output.answer(&json!({ "deleted": id }), |_, out| out.line(format!("deleted {id}")))
        }
        UserCommand::EnrolCode { id, valid, qr } => {
            let code = block_on(async { Ok(client.enrolment_code(id, *valid).await?) })?;
            let drawing = if *qr { Some(draw(&code.link)?) } else { None };
            output.answer(&code, |code, out| {
                out.line(format!("Enrolment code for {}, until {}, for one terminal:", code.user, code.expires));
                out.line("");
                out.line(format!("    {}", code.code));
                out.line("");
                out.line("or the link, which names the server, too (`claviger enrol` takes either):");
                out.line("");
                out.line(format!("    {}", code.link));
                if let Some(drawing) = drawing {
                    out.line("");
                    drawing.lines().for_each(|line| out.line(line));
                }
            })
        }
        UserCommand::Confirm { id, digits } => {
            let user = block_on(async { Ok(client.confirm_enrolment(id, digits.concat().replace(' ', "")).await?) })?;
            output.answer(&user, |user, out| {
                out.line(format!("confirmed; the terminal of {} goes on by itself", user.id));
            })
        }
        UserCommand::RequireRotation { id } => {
            let user = block_on(async { Ok(client.require_rotation(id).await?) })?;
            output.answer(&user, |user, out| {
                out.line(format!("the terminal of {} rotates its keys after its next sign-on", user.id));
            })
        }
    }
}

/// A QR code for a terminal window, dark on light whatever its colours.
fn draw(link: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L)
        .map_err(|error| Failure::failed(format!("the link does not fit into a QR code: {error}")))?;
    let drawing = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(drawing)
}

async fn all(client: &AdminClient) -> Result<Vec<User>, Failure> {
    let mut users = Vec::new();
    let mut after = None;
    loop {
        let page = client.users(after.as_deref(), 1000).await?;
        users.extend(page.users);
        match page.next {
            // A cursor that does not move would have us ask for ever.
            Some(next) if after.as_ref() != Some(&next) => after = Some(next),
            _ => return Ok(users),
        }
    }
}

fn confirm(id: &str) -> Result<(), Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage("deleting a user needs --yes where nobody can be asked".to_owned()));
    }
    write!(io::stderr(), "Delete {id:?} and all keys, for good? [y/N] ")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Refused { word: "cancelled".to_owned(), detail: format!("{id} was not deleted") }),
    }
}

fn show(user: &User, out: &mut Lines) {
    let groups = user.groups.join(", ");
    out.fields([
        ("id", Some(user.id.clone())),
        ("state", Some(word(user.state).to_owned())),
        ("reason", user.reason.clone()),
        ("name", user.name.clone()),
        ("email", user.email.clone()),
        ("groups", (!groups.is_empty()).then_some(groups)),
        ("epoch", user.epoch.map(|epoch| epoch.to_string())),
        ("created", Some(user.created.clone())),
        ("enrolled", user.enrolled.clone()),
        ("keys made", user.keys_made.clone()),
        ("rotation", user.rotation_required.then(|| "required after the next sign-on".to_owned())),
        ("code until", user.code_expires.clone()),
    ]);
}

fn list(users: &[User], out: &mut Lines) {
    out.table(
        ["ID", "STATE", "NAME", "EMAIL", "GROUPS"],
        users.iter().map(|user| {
            [
                user.id.clone(),
                word(user.state).to_owned(),
                user.name.clone().unwrap_or_default(),
                user.email.clone().unwrap_or_default(),
                user.groups.join(","),
            ]
        }),
    );
}

fn word(state: UserState) -> &'static str {
    match state {
        UserState::New => "new",
        UserState::Active => "active",
        UserState::Suspended => "suspended",
    }
}

//! The error codes that clients can get, compared with the list that other implementations read too.

use std::{collections::BTreeMap, iter::successors};

use collab_gateway::auth::Denial;
use document::Code;
use serde_json::Value;

/// One code after the other. The matches are whole, so that a new code is thought of here and in the list.
fn next(code: Code) -> Option<Code> {
    match code {
        Code::BadRequest => Some(Code::OpInvalid),
        Code::OpInvalid => Some(Code::ReadOnly),
        Code::ReadOnly => Some(Code::DocumentTooLarge),
        Code::DocumentTooLarge => Some(Code::RateLimited),
        Code::RateLimited => Some(Code::Overloaded),
        Code::Overloaded => Some(Code::StoreUnavailable),
        Code::StoreUnavailable => Some(Code::SeqGap),
        Code::SeqGap => Some(Code::VersionTooOld),
        Code::VersionTooOld => Some(Code::VersionAhead),
        Code::VersionAhead => Some(Code::AccessDenied),
        Code::AccessDenied => Some(Code::JoinFailed),
        Code::JoinFailed => Some(Code::NotJoined),
        Code::NotJoined => Some(Code::ClientReplaced),
        Code::ClientReplaced => Some(Code::NotDurableYet),
        Code::NotDurableYet => None,
    }
}

fn next_denial(denial: Denial) -> Option<Denial> {
    match denial {
        Denial::TokenRequired => Some(Denial::TokenInvalid),
        Denial::TokenInvalid => Some(Denial::TokenExpired),
        Denial::TokenExpired => Some(Denial::UserNotFound),
        Denial::UserNotFound => None,
    }
}

#[test]
fn error_codes_are_those_of_the_list() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/errors.json");
    let list: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let listed = |part: &str| list[part].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut codes: Vec<_> = successors(Some(Code::BadRequest), |code| next(*code)).map(protocol::code_name).collect();
    codes.sort_unstable();
    let mut expected = listed("events");
    expected.sort_unstable();
    similar_asserts::assert_eq!(codes, expected);
    let denials: BTreeMap<_, _> = successors(Some(Denial::TokenRequired), |denial| next_denial(*denial))
        .map(|denial| (denial.code().to_owned(), denial.message().to_owned()))
        .collect();
    let expected: BTreeMap<String, String> = serde_json::from_value(list["connect"].clone()).unwrap();
    similar_asserts::assert_eq!(denials, expected);
}

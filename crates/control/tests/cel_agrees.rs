//! The rules that the API server checks, evaluated without one, against [`validate_in_cluster`]: what the server refuses,
//! the operator and `scadles plan` call a mistake of the same field.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

mod cel;

use std::collections::BTreeSet;

use scadles_api::ScadlesJob;
use scadles_control::validate_in_cluster;
use serde_json::Value;

use cel::{base, cases, rules_of_the_definition, typed, without_indices};

/// Paths of the mistakes of an object.
fn mistakes(object: &Value) -> Vec<String> {
    let checked = validate_in_cluster(&ScadlesJob::from(&typed(object)));
    let mistakes = checked.err();
    mistakes.iter().flatten().map(|mistake| mistake.path.clone()).collect()
}

#[test]
fn the_base_of_all_cases_has_no_mistake() {
    assert_eq!(mistakes(&base()), Vec::<String>::new());
}

#[test]
fn every_rule_of_the_definition_has_a_case_and_every_case_a_rule() {
    let rules: BTreeSet<_> = rules_of_the_definition().into_iter().collect();
    let covered: BTreeSet<_> =
        cases().iter().map(|case| (case.at.to_owned(), case.message.to_owned())).collect();
    let missing: Vec<_> = rules.difference(&covered).collect();
    assert!(missing.is_empty(), "no case in crates/control/tests/cel for {missing:#?}");
    let unknown: Vec<_> = covered.difference(&rules).collect();
    assert!(unknown.is_empty(), "the definition has no such rule: {unknown:#?}");
}

#[test]
fn a_rule_accepts_the_good_object_and_alone_refuses_the_bad_one() {
    for case in cases() {
        let accepted = case.accepted.refusals_without_a_server();
        assert_eq!(accepted, [], "{:#}", case.accepted.new);
        let refused = case.refused.refusals_without_a_server();
        let refused: Vec<_> =
            refused.iter().map(|(path, message)| (without_indices(path), message.as_str())).collect();
        assert_eq!(refused, [(case.at.to_owned(), case.message)], "{:#}", case.refused.new);
    }
}

/// Further mistakes within the same field are fine: a cluster asks more of it than the rule does.
#[test]
fn validate_finds_the_same_field_wrong_and_no_other() {
    for case in cases() {
        let Some(field) = case.field else { continue };
        assert_eq!(
            mistakes(&case.accepted.new),
            Vec::<String>::new(),
            "{}: {:#}",
            case.message,
            case.accepted.new
        );
        let found = mistakes(&case.refused.new);
        let told = format!("{}: {found:?} in {:#}", case.message, case.refused.new);
        assert!(found.iter().any(|path| path == field), "{told}");
        assert!(found.iter().all(|path| path.starts_with(field)), "{told}");
    }
}

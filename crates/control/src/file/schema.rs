//! The strict schema of job files: generated from the types, unknown fields refused.
//!
//! Strictness is the file's alone: a stored object of a later version may carry fields that this one does not know.

use std::sync::LazyLock;

use jsonschema::Validator;
use scadles_api::ScadlesJob;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema and what checks it.
pub(super) struct Strict {
    pub(super) schema: Value,
    pub(super) validator: Validator,
}

/// Made once: the types do not change while a program runs.
pub(super) static STRICT: LazyLock<Option<Strict>> = LazyLock::new(|| {
    let schema = strict_schema();
    // A schema that does not compile is a defect that a test finds; serde alone still reads files.
    let validator = jsonschema::validator_for(&schema).ok()?;
    Some(Strict { schema, validator })
});

fn strict_schema() -> Value {
    // Inlined, the place of an error in the schema leads straight to the names that are known there.
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<ScadlesJob>().to_value();
    tighten(&mut schema);
    schema
}

fn tighten(node: &mut Value) {
    match node {
        Value::Object(members) => {
            drop_null_alternative(members);
            constants_to_enum(members);
            bound_integers(members);
            if members.contains_key("properties") {
                members.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            members.values_mut().for_each(tighten);
        }
        Value::Array(items) => items.iter_mut().for_each(tighten),
        _ => {}
    }
}

/// Members without a value are left out before the check, so `null` never needs to be allowed.
fn drop_null_alternative(members: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(options)) = members.get_mut("enum") {
        options.retain(|option| !option.is_null());
    }
    let Some(Value::Array(alternatives)) = members.get_mut("anyOf") else { return };
    alternatives.retain(|alternative| alternative != &json!({"type": "null"}));
    if let [Value::Object(only)] = alternatives.as_slice() {
        let only = only.clone();
        members.remove("anyOf");
        for (name, value) in only {
            members.entry(name).or_insert(value);
        }
        drop_null_alternative(members);
    }
}

/// Documented enum values come as `oneOf` of constants; an `enum` says the same and gives one error with all values.
fn constants_to_enum(members: &mut Map<String, Value>) {
    let Some(Value::Array(alternatives)) = members.get("oneOf") else { return };
    let constants: Option<Vec<Value>> =
        alternatives.iter().map(|alternative| alternative.get("const").cloned()).collect();
    if let Some(constants) = constants {
        members.remove("oneOf");
        members.insert("enum".to_owned(), Value::Array(constants));
    }
}

/// The width of integers, which the generated schema only names.
fn bound_integers(members: &mut Map<String, Value>) {
    let most = match members.get("format").and_then(Value::as_str) {
        Some("uint32") => u64::from(u32::MAX),
        Some("uint64") => u64::MAX,
        _ => return,
    };
    members.entry("maximum").or_insert(most.into());
}

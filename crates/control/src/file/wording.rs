//! Schema errors in the words of the job file.

use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;

use super::schema::STRICT;
use crate::{mistake::Findings, text::nearest};

/// Longest value that is shown whole.
const LONGEST_SHOWN: usize = 60;

/// Notes every mistake of form.
pub(super) fn find_mistakes(value: &Value, found: &mut Findings) {
    let Some(strict) = STRICT.as_ref() else { return };
    for error in strict.validator.iter_errors(value) {
        tell(&error, &strict.schema, found);
    }
}

fn tell(error: &ValidationError<'_>, schema: &Value, found: &mut Findings) {
    let path = field_path(error.instance_path().as_str());
    let shown = shown(error.instance());
    // The keyword is the last step of the schema's path; what surrounds it describes the field.
    let keyword_path = error.schema_path().as_str();
    let parent = keyword_path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let field = schema.pointer(parent).unwrap_or(&Value::Null);
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                unknown_field(&path, name, field, schema, found);
            }
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let described = describe(field.pointer(&format!("/properties/{name}")).unwrap_or(&Value::Null));
            found.add(join(&path, name), "", "is missing", format!("give {described}"));
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let allowed = options.join(", ");
            let given = error.instance().as_str().unwrap_or_default();
            let remedy = match nearest(given, options.iter().copied()) {
                Some(name) => format!("did you mean {name}?"),
                None => "write one of them, with the same capitals".to_owned(),
            };
            found.add(path, shown, format!("allowed is {allowed}"), remedy);
        }
        ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => {
            found.add(path, shown, format!("needs {}", describe(field)), "give a number within the bounds");
        }
        _ => {
            let described = describe(field);
            let remedy = format!("write {described}");
            found.add(path, shown, format!("needs {described}"), remedy);
        }
    }
}

fn unknown_field(path: &str, name: &str, field: &Value, schema: &Value, found: &mut Findings) {
    let known: Vec<&str> = field
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let elsewhere = homes_of(name, schema);
    let remedy = match (nearest(name, known.iter().copied()), elsewhere.as_slice()) {
        (Some(near), _) => format!("did you mean {near}? Known here: {}", known.join(", ")),
        (None, [home]) => format!("move it to {home}; known here: {}", known.join(", ")),
        (None, _) => format!("remove it; known here: {}", known.join(", ")),
    };
    found.add(join(path, name), "", "is not a field of the job", remedy);
}

/// All paths of the job at which a field of this name is known.
fn homes_of(name: &str, schema: &Value) -> Vec<String> {
    fn walk(node: &Value, path: &str, name: &str, homes: &mut Vec<String>) {
        let properties = node.get("properties").and_then(Value::as_object);
        for (member, child) in properties.into_iter().flatten() {
            let child_path = join(path, member);
            if member == name {
                homes.push(child_path.clone());
            }
            walk(child, &child_path, name, homes);
        }
        if let Some(items) = node.get("items") {
            walk(items, &format!("{path}[]"), name, homes);
        }
    }
    let mut homes = Vec::new();
    walk(schema, "", name, &mut homes);
    homes
}

/// What a field takes, in words.
fn describe(field: &Value) -> String {
    if let Some(options) = field.get("enum").and_then(Value::as_array) {
        let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
        return format!("one of {}", options.join(", "));
    }
    // The only choice of types in a job is the byte size.
    if field.get("anyOf").is_some() {
        return "a number of bytes such as 64Mi".to_owned();
    }
    let bound = |name: &str| field.get(name).map(ToString::to_string);
    match field.get("type").and_then(Value::as_str) {
        Some("integer") => match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => format!("an integer from {least} to {most}"),
            _ => "an integer".to_owned(),
        },
        Some("number") => "a number".to_owned(),
        Some("string") => "a text".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => match field.get("minItems").filter(|least| Some(*least) == field.get("maxItems")) {
            Some(count) => format!("a list of {count} entries"),
            None => "a list".to_owned(),
        },
        Some("object") => {
            let names: Vec<&String> = field
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
                .collect();
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            if names.is_empty() { "a map".to_owned() } else { format!("a map with {}", names.join(", ")) }
        }
        _ => "another value".to_owned(),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `/spec/devices/named/2/name` as `spec.devices.named[2].name`.
fn field_path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, step| {
        if step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty() {
            format!("{path}[{step}]")
        } else {
            join(&path, &step.replace("~1", "/").replace("~0", "~"))
        }
    })
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(_) => return "a map".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST_SHOWN {
        return text;
    }
    text.chars().take(LONGEST_SHOWN).chain(std::iter::once('…')).collect()
}

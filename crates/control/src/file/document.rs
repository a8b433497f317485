//! YAML as it is written: repeated keys and numbers that JSON has not are still there to be told.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::mistake::Findings;

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Document>),
    Map(Vec<(String, Document)>),
}

impl Document {
    /// The text of a member.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let Self::Map(members) = self else { return None };
        members.iter().find(|(key, _)| key == name).and_then(|(_, member)| match member {
            Self::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The JSON value. Members without a value are left out, as if they were not written; repeated keys and numbers that
    /// are not finite are mistakes.
    pub(super) fn into_json(self, path: &str, found: &mut Findings) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Unsigned(number) => Value::Number(number.into()),
            Self::Signed(number) => Value::Number(number.into()),
            Self::Float(number) => float(number, path, found),
            Self::Text(text) => Value::String(text),
            Self::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| item.into_json(&format!("{path}[{index}]"), found))
                .collect(),
            Self::Map(members) => map(members, path, found),
        }
    }
}

fn map(members: Vec<(String, Document)>, path: &str, found: &mut Findings) -> Value {
    let mut out = Map::new();
    let mut seen = std::collections::BTreeSet::new();
    for (name, member) in members {
        let member_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if !seen.insert(name.clone()) {
            found.add(member_path, "", "the field is given more than once", "keep one of them");
            continue;
        }
        let value = member.into_json(&member_path, found);
        if !value.is_null() {
            out.insert(name, value);
        }
    }
    Value::Object(out)
}

/// Whole floats become integers, so that `6e4` is a number of samples.
fn float(number: f64, path: &str, found: &mut Findings) -> Value {
    let beyond_u64 = 18_446_744_073_709_551_616.0;
    let beyond_i64 = 9_223_372_036_854_775_808.0;
    if number.fract() == 0.0 && (0.0..beyond_u64).contains(&number) {
        return Value::Number((number as u64).into());
    }
    if number.fract() == 0.0 && (-beyond_i64..0.0).contains(&number) {
        return Value::Number((number as i64).into());
    }
    if let Some(number) = Number::from_f64(number) {
        return Value::Number(number);
    }
    found.add(path, number, "is not a finite number", "give a finite number");
    // Goes on as a number, so that its type is not told as a second mistake.
    Value::Number(1.into())
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("plain YAML without tags")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }

    /// What an empty file is.
    fn visit_none<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Document, E> {
        Ok(Document::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Document, E> {
        Ok(Document::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Document, E> {
        Ok(Document::Signed(number))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Document, E> {
        Ok(Document::Float(number as f64))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Document, E> {
        Ok(Document::Float(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Document, E> {
        Ok(Document::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Document, E> {
        Ok(Document::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Document, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element()? {
            out.push(item);
        }
        Ok(Document::List(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Document, A::Error> {
        let mut out = Vec::new();
        while let Some((name, member)) = members.next_entry::<Key, Document>()? {
            out.push((name.0, member));
        }
        Ok(Document::Map(out))
    }
}

/// A key; numbers and flags are taken as written, so that they are told as unknown fields.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Document::deserialize(deserializer)? {
            Document::Text(text) => text,
            Document::Null => "null".to_owned(),
            Document::Bool(flag) => flag.to_string(),
            Document::Unsigned(number) => number.to_string(),
            Document::Signed(number) => number.to_string(),
            Document::Float(number) => number.to_string(),
            Document::List(_) | Document::Map(_) => {
                return Err(serde::de::Error::custom("the name of a field cannot be a list or a map"));
            }
        };
        Ok(Self(text))
    }
}

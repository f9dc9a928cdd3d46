//! How a structure is written.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::super::names;
use super::super::schema::{Base, Field, Struct};
use super::condition::{condition, negate};
use super::{MessageCode, is_option, scalar_name};

impl MessageCode<'_> {
    /// The body of `Structure::write`.
    pub(super) fn write_body(&self, part: &Struct) -> Result<String> {
        let (flexible, _) = self.flexible(part.versions);
        let mut body = String::new();
        for field in &part.fields {
            let condition = condition(field.versions, part.versions);
            let refusal = self.refusal(field);
            if field.tag.is_some() {
                if let (Some(condition), false) = (condition, field.is_ignorable) {
                    write!(body, "if {} {{\n{refusal}}}\n", negate(&condition))?;
                }
                continue;
            }
            let value = self.write_value(field, flexible)?;
            match condition {
                None => body.push_str(&value),
                Some(condition) if field.is_ignorable => write!(body, "if {condition} {{\n{value}}}\n")?,
                Some(condition) => {
                    write!(body, "if {condition} {{\n{value}}} else {{\n{refusal}}}\n")?;
                }
            }
        }
        let tags = self.write_tags(part)?;
        match flexible {
            "true" => body.push_str(&tags),
            "false" => {}
            _ => write!(body, "if flexible {{\n{tags}}}\n")?,
        }
        body.push_str("Ok(())\n");
        Ok(body)
    }

    fn write_tags(&self, part: &Struct) -> Result<String> {
        let mut tagged: Vec<&Field> = part.fields.iter().filter(|field| field.tag.is_some()).collect();
        tagged.sort_by_key(|field| field.tag);
        if tagged.is_empty() {
            return Ok("s.tag_count([]);\n".to_owned());
        }
        let mut present = Vec::new();
        let mut writes = String::new();
        for (index, field) in tagged.iter().enumerate() {
            let is_set = self.is_set(field);
            let guard = condition(field.versions, part.versions.and(self.flexible_versions()));
            present.push(guard.map(|guard| format!("{guard} && {is_set}")).unwrap_or(is_set));
            let (tag, name) = (field.tag.context("tagged")?, names::field(&field.name));
            write!(writes, "if present[{index}] {{\ns.tagged({tag}, &self.{name}, version)?;\n}}\n")?;
        }
        Ok(format!("let present = [{}];\ns.tag_count(present);\n{writes}", present.join(", ")))
    }

    fn write_value(&self, field: &Field, flexible: &str) -> Result<String> {
        let name = names::field(&field.name);
        let Some(nullable) = field.nullable else {
            let by_option = matches!(field.base, Base::Records) && !field.is_array;
            let value = if by_option { format!("self.{name}.as_ref()") } else { format!("self.{name}") };
            return Ok(self.write_call(field, "", flexible, &value, !by_option));
        };
        let as_nullable =
            self.write_call(field, "nullable_", flexible, &format!("self.{name}.as_ref()"), false);
        Ok(match condition(nullable, field.versions) {
            None => as_nullable,
            Some(condition) if matches!(field.base, Base::Records) => {
                let plain = self.write_call(field, "", flexible, &format!("self.{name}.as_ref()"), false);
                format!("if {condition} {{\n{as_nullable}}} else {{\n{plain}}}\n")
            }
            Some(condition) => {
                let value = format!("EncodeError::unless_null(&self.{name}, {:?})?", field.name);
                let plain = self.write_call(field, "", flexible, &value, false);
                format!("if {condition} {{\n{as_nullable}}} else {{\n{plain}}}\n")
            }
        })
    }

    fn write_call(&self, field: &Field, nullable: &str, flexible: &str, value: &str, borrow: bool) -> String {
        let by = if borrow { "&" } else { "" };
        if field.is_array {
            return format!("s.{nullable}array({by}{value}, {flexible}, version)?;\n");
        }
        match &field.base {
            Base::String => format!("s.{nullable}string({by}{value}, {flexible})?;\n"),
            Base::Bytes => format!("s.{nullable}bytes({by}{value}, {flexible})?;\n"),
            Base::Records => format!("s.{nullable}records({value}, {flexible})?;\n"),
            Base::Struct(_) if !nullable.is_empty() => format!("s.nullable_struct({value}, version)?;\n"),
            Base::Struct(_) => format!("{value}.write(s, version)?;\n"),
            scalar => format!("s.{}({value});\n", scalar_name(scalar)),
        }
    }

    fn refusal(&self, field: &Field) -> String {
        format!("EncodeError::unless_default({}, {:?}, version)?;\n", self.is_set(field), field.name)
    }

    /// An expression: the field does not hold its default.
    fn is_set(&self, field: &Field) -> String {
        let value = format!("self.{}", names::field(&field.name));
        if is_option(field) {
            let by_default_null =
                field.default.as_deref() == Some("null") || matches!(field.base, Base::Records);
            return match (&field.base, field.is_array) {
                _ if by_default_null => format!("{value}.is_some()"),
                (Base::Struct(_), false) => format!("{value} != Some(Default::default())"),
                _ => format!("{value}.as_ref().is_none_or(|all| !all.is_empty())"),
            };
        }
        if field.is_array {
            return format!("!{value}.is_empty()");
        }
        match &field.base {
            Base::Bool if field.default.as_deref() == Some("true") => format!("!{value}"),
            Base::Bool => value,
            Base::String | Base::Bytes => format!("!{value}.is_empty()"),
            _ => format!("{value} != {}", self.default_value(field).0),
        }
    }
}

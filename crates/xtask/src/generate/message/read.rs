//! How a structure is read.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::super::names;
use super::super::schema::{Base, Field, Struct};
use super::condition::condition;
use super::{MessageCode, is_option, scalar_name};

impl MessageCode<'_> {
    /// The body of `Structure::read`.
    pub(super) fn read_body(&self, part: &Struct) -> Result<String> {
        let (flexible, _) = self.flexible(part.versions);
        let tagged: Vec<&Field> = part.fields.iter().filter(|field| field.tag.is_some()).collect();
        let mut body = String::new();
        let has_tags = flexible != "false";
        let binding = match (has_tags, tagged.is_empty()) {
            (true, false) => "let mut this = Self {\n",
            (true, true) => "let this = Self {\n",
            (false, _) => "Ok(Self {\n",
        };
        body.push_str(binding);
        for field in &part.fields {
            let name = names::field(&field.name);
            let default = self.default_value(field).0;
            let value = match condition(field.versions, part.versions) {
                _ if field.tag.is_some() => default,
                None => self.read_value(field, flexible),
                Some(condition) => {
                    format!("if {condition} {{ {} }} else {{ {default} }}", self.read_value(field, flexible))
                }
            };
            writeln!(body, "{name}: {value},")?;
        }
        if !has_tags {
            ensure!(tagged.is_empty(), "{} has tags in no flexible version", part.name);
            body.push_str("})\n");
            return Ok(body);
        }
        body.push_str("};\n");
        let mut tags = String::new();
        if tagged.is_empty() {
            tags.push_str("d.no_tagged_fields()?;\n");
        } else {
            tags.push_str("d.tagged_fields(|d, tag| {\nmatch tag {\n");
            for field in tagged {
                let guard = condition(field.versions, part.versions.and(self.flexible_versions()));
                let guard = guard.map(|text| format!(" if {text}")).unwrap_or_default();
                let (tag, name) = (field.tag.context("tagged")?, names::field(&field.name));
                let value = match field.base {
                    Base::Struct(_) if is_option(field) && !field.is_array => {
                        "Value::get(d, true, version)?".to_owned()
                    }
                    _ => self.read_value(field, "true"),
                };
                writeln!(tags, "{tag}{guard} => this.{name} = {value},")?;
            }
            tags.push_str("_ => return Ok(false),\n}\nOk(true)\n})?;\n");
        }
        if flexible == "true" {
            body.push_str(&tags);
        } else {
            write!(body, "if flexible {{\n{tags}}}\n")?;
        }
        body.push_str("Ok(this)\n");
        Ok(body)
    }

    fn read_value(&self, field: &Field, flexible: &str) -> String {
        let Some(nullable) = field.nullable else {
            let plain = self.read_call(field, "", flexible);
            return if matches!(field.base, Base::Records) { format!("Some({plain})") } else { plain };
        };
        match condition(nullable, field.versions) {
            None => self.read_call(field, "nullable_", flexible),
            Some(condition) => format!(
                "if {condition} {{ {} }} else {{ Some({}) }}",
                self.read_call(field, "nullable_", flexible),
                self.read_call(field, "", flexible)
            ),
        }
    }

    fn read_call(&self, field: &Field, nullable: &str, flexible: &str) -> String {
        if field.is_array {
            return format!("d.{nullable}array({flexible}, version)?");
        }
        match &field.base {
            Base::String => format!("d.{nullable}string({flexible})?"),
            Base::Bytes => format!("d.{nullable}bytes({flexible})?"),
            Base::Records => format!("d.{nullable}records({flexible})?"),
            Base::Struct(_) if !nullable.is_empty() => "d.nullable_struct(version)?".to_owned(),
            Base::Struct(name) => format!("{}::read(d, version)?", self.rust_name(name)),
            scalar => format!("d.{}()?", scalar_name(scalar)),
        }
    }
}

//! How few bytes a structure can have: what bounds the length of an array by the bytes that are left.

use anyhow::{Context as _, Result, ensure};

use super::super::schema::{Base, Struct};
use super::MessageCode;

impl MessageCode<'_> {
    /// In the version in which it is shortest.
    pub(super) fn size_min(&self, part: &Struct) -> Result<usize> {
        let sizes =
            (part.versions.first..=part.versions.last).map(|version| self.struct_size(part, version, 0));
        sizes.collect::<Result<Vec<_>>>()?.into_iter().min().context("no version")
    }

    fn struct_size(&self, part: &Struct, version: i16, depth: usize) -> Result<usize> {
        ensure!(depth < 16, "{} contains itself", part.name);
        let is_flexible = self.flexible_versions().contains(version);
        let mut size = usize::from(is_flexible);
        for field in &part.fields {
            if field.tag.is_some() || !field.versions.contains(version) {
                continue;
            }
            let is_null = field.nullable.is_some_and(|nullable| nullable.contains(version));
            size += match &field.base {
                _ if field.is_array => {
                    if is_flexible {
                        1
                    } else {
                        4
                    }
                }
                Base::Bool | Base::Int8 => 1,
                Base::Int16 | Base::Uint16 => 2,
                Base::Int32 | Base::Uint32 => 4,
                Base::Int64 | Base::Float64 => 8,
                Base::Uuid => 16,
                Base::String => {
                    if is_flexible {
                        1
                    } else {
                        2
                    }
                }
                Base::Bytes | Base::Records => {
                    if is_flexible {
                        1
                    } else {
                        4
                    }
                }
                Base::Struct(_) if is_null => 1,
                Base::Struct(name) => {
                    let part = self.message.structs.iter().find(|part| part.name == *name);
                    self.struct_size(part.with_context(|| format!("no struct {name}"))?, version, depth + 1)?
                }
            };
        }
        Ok(size)
    }
}

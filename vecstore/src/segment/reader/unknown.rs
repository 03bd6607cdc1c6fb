//! Content that only later versions know, and how merges treat it.

use super::Segment;
use crate::format::footer::{FOOTER_LEN, Layout};
use crate::format::section::{MergeRule, Section, Tag, Unit};
use crate::format::{COMPAT_LOST, COMPAT_UNMERGEABLE, VERSION_MINOR};
use crate::segment::check::range_of;

impl Segment {
    /// Sections that this version does not know.
    pub fn unknown_sections(&self) -> impl Iterator<Item = &Section> {
        self.layout.sections.iter().filter(|line| !line.is_known())
    }

    /// The bytes of a section; empty if there is no such section.
    pub fn section_bytes(&self, tag: Tag) -> &[u8] {
        let line = self.layout.sections.iter().find(|line| line.tag == tag);
        let range = line.and_then(|line| range_of(line, self.map.len()));
        range.map_or(&[], |range| self.slice(&range))
    }

    /// The number of units in this segment: one file, its entries, or its rows.
    pub fn count_of(&self, unit: Unit) -> usize {
        match unit {
            Unit::File => 1,
            Unit::Entry => self.entry_count(),
            Unit::Row => self.row_count(),
        }
    }

    /// Bytes that a section has per unit that it describes.
    pub fn width_of(&self, line: &Section) -> usize {
        let count = line.unit().map_or(0, |unit| self.count_of(unit));
        self.section_bytes(line.tag).len().checked_div(count).unwrap_or_default()
    }

    /// True if the file has content that this version ignores and a later one reads.
    pub fn says_more(&self) -> bool {
        let Layout { footer, sections } = &self.layout;
        footer.ignored != [0; 96]
            || footer.len as usize > FOOTER_LEN
            || footer.version_minor > VERSION_MINOR
            || footer.compat & !COMPAT_LOST != 0
            || sections.iter().any(|line| line.ignored != [0; 16] || !line.is_known())
    }

    /// Why merges leave the file alone: the content that only a later version knows how to merge.
    pub fn refuses_merge(&self) -> Option<String> {
        let unknown = self.layout.footer.compat & COMPAT_UNMERGEABLE;
        if unknown != 0 {
            return Some(format!("compat flags {unknown:#x}"));
        }
        let refuses = |line: &&Section| line.rule() == MergeRule::Refuse;
        let section = self.unknown_sections().find(refuses).map(|line| format!("section {}", line.name()));
        section.or_else(|| self.unknown_attribute())
    }
}

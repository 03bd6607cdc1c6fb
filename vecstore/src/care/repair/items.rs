//! The entries of a file that is rewritten from the remains of another.

use std::borrow::Cow;
use std::collections::HashSet;

use super::remains::{Content, Origin, Remains, Remnant};
use crate::base::{DType, Error, Result};
use crate::format::COMPAT_LOST;
use crate::format::footer::Footer;
use crate::format::records::Kill;
use crate::format::settings;
use crate::segment::{EncodedSegment, Segment, SegmentBuilder};
use crate::types::{AttributeType, Kind};

/// An entry of the new file.
pub(super) struct Item<'a> {
    pub origin: Origin,
    pub key: Cow<'a, [u8]>,
    pub kind: Kind,
    pub content: Option<Content<'a>>,
}

impl Item<'_> {
    pub fn row_count(&self) -> u64 {
        self.content.as_ref().map_or(0, Content::row_count)
    }
}

/// Lays out a whole file with other kills. Also returns whether it has everything, even content that only a
/// later version of the program reads. `segment` may be without rows and payloads.
pub(super) fn with_kills<'a>(
    segment: &Segment,
    remains: &'a Remains,
    mut identity: Footer,
    kills: Vec<Kill>,
) -> Result<(EncodedSegment<'a>, bool)> {
    let item = |index| {
        let Remnant { key, kind, content } = remains.entry(index);
        let (commit, entry) = segment.origin(index)?;
        let row = segment.address_of_entry(index, segment.row_span(index).ok()?.start).row;
        let origin = Origin { commit, entry, row };
        Some(Item { origin, key: Cow::Borrowed(key?), kind: kind?, content: Some(content?) })
    };
    let items: Option<Vec<Item<'_>>> = (0..remains.entry_count()).map(item).collect();
    let items = items.ok_or(Error::internal("a whole segment that is not intact"))?;
    let dtype = DType::from_code(identity.dtype).unwrap_or(DType::F32);
    let settings = settings::encode(&segment.settings()?)?;
    let (builder, attributes_lost) = lay_out(Some(remains), &items, kills, |_| Ok(None))?;
    let is_all = attributes_lost == 0 && remains.unknown_sections.is_empty();
    if !is_all {
        identity.compat |= COMPAT_LOST;
    }
    Ok((builder.finish(identity, dtype, settings)?, is_all))
}

/// Lays out entries in order, in runs that keep their addresses. Also returns how many entries may have lost
/// attributes: an attribute is not kept if its type is not the one that `older` segments have for it.
pub(super) fn lay_out<'a>(
    remains: Option<&'a Remains>,
    items: &[Item<'a>],
    kills: Vec<Kill>,
    older: impl Fn(&str) -> Result<Option<AttributeType>>,
) -> Result<(SegmentBuilder<'a>, u64)> {
    let (mut builder, mut attributes_lost) = (SegmentBuilder::new(0), 0);
    let mut unfit: HashSet<&str> = HashSet::new();
    for column in remains.map_or(&[][..], Remains::columns) {
        if older(&column.name)?.is_some_and(|kind| Some(kind) != column.kind) {
            unfit.insert(&column.name);
        }
    }
    let mut expected: Option<Origin> = None;
    for item in items {
        let rows = item.row_count();
        let mut origin = item.origin;
        // A tombstone has no rows: its row is the end of the rows before it, so that rows ascend within a
        // commit. A tombstone without an old entry is numbered after the entries before it.
        if let (None, Some(expected)) = (&item.content, expected.filter(|next| next.commit == origin.commit))
        {
            (origin.entry, origin.row) = (origin.entry.max(expected.entry), expected.row);
        }
        if expected != Some(origin) {
            builder.begin_run(origin.commit, origin.entry, origin.row);
        }
        expected = Some(Origin { entry: origin.entry + 1, row: origin.row.saturating_add(rows), ..origin });
        let is_deletion = item.kind == Kind::Tombstone;
        let payload =
            item.content.as_ref().filter(|_| !is_deletion).map_or(&[][..], |content| content.payload);
        builder.push(&item.key, item.kind, rows, payload);
        if let (Some(content), Some(remains)) = (&item.content, remains) {
            let scale = |bytes: &[u8]| bytes.try_into().map_or(0.0, f32::from_le_bytes);
            let scales: Vec<f32> = content.scales.chunks(4).map(scale).collect();
            builder.add_stored_rows(&remains.rows, content.row_bytes.clone(), &scales);
            if !is_deletion {
                let (attributes, mut is_all) = remains.attributes(content.index);
                for (column, value) in attributes {
                    match unfit.contains(&*column.name) {
                        true => is_all = false,
                        false => builder.add_attribute(&column.name, &value)?,
                    }
                }
                attributes_lost += u64::from(!is_all);
            }
        }
    }
    kills.into_iter().for_each(|kill| builder.kill(kill));
    Ok((builder, attributes_lost))
}

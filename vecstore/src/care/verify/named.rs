//! Checks that the files that versions list exist.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::OnDisk;
use super::{Seen, VerifyReport};
use crate::base::Result;
use crate::care::liveness::{WrongKills, wrong_kills};
use crate::care::repair::refuses_version;
use crate::segment::SegmentName;
use crate::state::{Body, Manifest, SEGMENTS, SegmentRecord, View, versions};
use crate::vfs::Vfs;

/// Missing files of one version that are reported one by one; further ones are only counted. A damaged
/// version may list any number of files.
const MOST_OF_ONE: usize = 1000;

/// Checks that the files that versions list exist. Versions may be made and removed meanwhile. Faults of a
/// version itself are reported with the bitmaps.
pub(super) fn check_named(vfs: &dyn Vfs, dir: &Path, store: &Body, seen: &Seen, report: &mut VerifyReport) {
    // A file that is reported already, by the manifest's check or for its bytes, is not reported again.
    let mut told: HashSet<PathBuf> = report.faults.iter().map(|fault| fault.path.clone()).collect();
    let path_of = |record: &SegmentRecord| dir.join(SEGMENTS).join(record.name().to_string());
    let names = versions::names(vfs, dir).unwrap_or_else(|error| {
        report.fault(&dir.join(versions::VERSIONS), "file", error);
        Vec::new()
    });
    for name in names {
        let Ok(version) = versions::read(vfs, dir, &name) else { continue };
        let path = dir.join(versions::VERSIONS).join(&name);
        if let Some(why) = refuses_version(store, &version.body, None) {
            report.told(&path, "manifest", why.to_owned());
            continue;
        }
        let mut wrong = version.body.segments.clone();
        wrong.retain(|record| match seen.opened.get(&record.name()) {
            _ if told.contains(&path_of(record)) => false,
            Some(segment) => SegmentRecord::of(segment) != *record,
            // A file that exists after all came after the listing.
            None => vfs.metadata(&path_of(record)).is_err(),
        });
        if wrong.is_empty() {
            // If the store begins with the version's files, they were checked with the store.
            let told = match version.body.begins(store) {
                true => Ok(Vec::new()),
                false => what_is_wrong(vfs, &version, seen),
            };
            let told = told.unwrap_or_else(|error| vec![error.to_string()]);
            // The version may have been removed, and another one made under its name.
            if !told.is_empty() && versions::read(vfs, dir, &name).is_ok_and(|now| now == version) {
                told.into_iter().for_each(|wrong| report.told(&path, "manifest", wrong));
            }
            continue;
        }
        // The version may have been removed since it was read, and its files with it.
        let Ok(now) = versions::read(vfs, dir, &name) else { continue };
        let listed: HashMap<SegmentName, &SegmentRecord> =
            now.body.segments.iter().map(|record| (record.name(), record)).collect();
        wrong.retain(|record| listed.get(&record.name()).is_some_and(|now| *now == record));
        let untold = wrong.split_off(wrong.len().min(MOST_OF_ONE));
        for record in wrong {
            let path = path_of(&record);
            let detail = match seen.opened.contains_key(&record.name()) {
                true => format!("the version \"{name}\" lists another file of this name"),
                false => format!("the version \"{name}\" lists it, and it is missing"),
            };
            report.told(&path, "file", detail);
            told.insert(path);
        }
        if !untold.is_empty() {
            let detail =
                format!("of the files it lists, {} more are missing, or others of their names", untold.len());
            report.told(&path, "manifest", detail);
        }
    }
}

/// Faults of a version's files taken together; each file by itself is as listed.
fn what_is_wrong(vfs: &dyn Vfs, version: &Manifest, seen: &Seen) -> Result<Vec<String>> {
    let mut view = View::empty(version);
    for record in &version.body.segments {
        let name = record.name();
        match seen.opened.get(&name) {
            Some(segment) if !seen.faulty.contains(&name) => view.add(Arc::clone(segment), Some(record))?,
            _ => return Ok(Vec::new()),
        }
    }
    let wrong = wrong_kills(&view, &mut OnDisk::new(vfs, &view, seen))?;
    Ok(wrong.into_values().flat_map(WrongKills::told).map(|(wrong, _)| wrong).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::care::verify;
    use crate::handle::Store;
    use crate::types::StoreConfig;
    use crate::vfs::RealFs;

    #[test]
    fn missing_files_of_a_version_are_only_counted_beyond_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photos.vecs");
        Store::create(&path, StoreConfig::new(2)).unwrap().close().unwrap();
        let faults_of = |missing: u64| {
            let name = format!("all-{missing}");
            let mut manifest = Manifest::read(&RealFs, &path).unwrap();
            manifest.body.segments = (1..=missing)
                .map(|at| SegmentRecord {
                    first: at,
                    last: at,
                    generation: 0,
                    footer_crc: 7,
                    file_len: 8192,
                    link_out: manifest.body.epochs[0].id,
                    ..SegmentRecord::default()
                })
                .collect();
            versions::write(&RealFs, &path, &name, &manifest).unwrap();
            let report = verify(&path).unwrap();
            std::fs::remove_file(path.join(versions::VERSIONS).join(name)).unwrap();
            report.faults
        };
        let few = faults_of(MOST_OF_ONE as u64);
        assert_eq!(few.len(), MOST_OF_ONE);
        assert!(few.iter().all(|fault| fault.detail.ends_with("lists it, and it is missing")), "{few:?}");
        let many = faults_of(MOST_OF_ONE as u64 + 234);
        assert_eq!(many.len(), MOST_OF_ONE + 1);
        let last = many.last().unwrap();
        assert!(last.path.ends_with("versions/all-1234"), "{last}");
        assert_eq!(last.detail, "of the files it lists, 234 more are missing, or others of their names");
    }
}

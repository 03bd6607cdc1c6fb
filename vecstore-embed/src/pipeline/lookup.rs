//! First stage: which files are inputs, and which of those the store lacks, or holds as they were before they
//! changed.
//!
//! Inputs come in chunks: neighbours in one folder. A chunk in which there is something to do is claimed
//! before it is worked on; one that another run has claimed is left for later, and looked at again when it is
//! free. So several runs share the work without doing anything twice, and what a dead one had claimed is
//! taken over.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::{io, mem};

use vecstore::MAX_KEY_LEN;

use super::in_store::Lookup;
use super::sharing::{ChunkClaim, Claims, Group};
use crate::base::{FirstFew, Result};
use crate::keys::Record;
use crate::source::{Accepts, Found, Input, Kinds, Shard, Source};

/// Keys looked up at a time: enough that a lookup is one sorted merge, few enough to hold and to start
/// quickly.
const LOOKED_UP: usize = 1000;

/// An input that the store lacks, or holds as it was.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Job {
    pub(crate) input: Input,
    /// What the store remembers of the input, if it has changed since.
    pub(crate) known: Option<Record>,
    /// What to remember of it, once it was read.
    pub(crate) record: Option<Record>,
    /// Keeps others away from it. To be dropped when what became of the job is in the store, or when it is
    /// given up.
    pub(crate) claim: Option<Arc<ChunkClaim>>,
}

/// What the walk saw besides the jobs.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// Inputs the store accounts for.
    pub(crate) already: u64,
    /// Files that changed since they were embedded, of those given as jobs.
    pub(crate) changed: u64,
    /// Files that are no inputs.
    pub(crate) ignored: Kinds,
    pub(crate) skipped: u64,
    /// Files and folders left out by options.
    pub(crate) excluded: u64,
    /// Pictures in folders that have too few of them.
    pub(crate) too_few: u64,
    pub(crate) unreadable: FirstFew,
    /// Pictures outside every root.
    pub(crate) outside: FirstFew,
    /// The walk came to its end.
    pub(crate) complete: bool,
}

/// What to do with what a walk comes across.
pub(crate) struct Feed<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) accepts: Accepts,
    pub(crate) shard: Option<Shard>,
    /// Inputs per chunk.
    pub(crate) chunk: usize,
    /// Chunks are the inputs in the order they come in, not the neighbours in a folder.
    pub(crate) in_order: bool,
    /// Without it every chunk is this run's.
    pub(crate) claims: Option<Arc<Claims>>,
    /// Asked between chunks.
    pub(crate) going: &'a dyn Fn() -> bool,
    pub(crate) lookup: &'a mut dyn Lookup,
    /// Told how many inputs other runs have stored since this one counted.
    pub(crate) others: &'a dyn Fn(u64),
    pub(crate) fed: Fed,
    /// Chunks that others have claimed, and the folder or tar file they are of.
    deferred: Vec<(u64, PathBuf)>,
    /// Only these chunks, when the walk goes through something again.
    only: Option<HashSet<u64>>,
    group: Group,
}

/// Where the jobs go.
pub(crate) type Sink<'a> = dyn FnMut(Job) -> ControlFlow<()> + 'a;

/// What the store lacks of an input.
enum Wanted {
    Nothing,
    All,
    Newer(Record),
}

impl<'a> Feed<'a> {
    pub(crate) fn new(
        source: &'a dyn Source,
        accepts: Accepts,
        going: &'a dyn Fn() -> bool,
        lookup: &'a mut dyn Lookup,
    ) -> Self {
        Feed {
            source,
            accepts,
            shard: None,
            chunk: usize::MAX,
            in_order: false,
            claims: None,
            going,
            lookup,
            others: &|_| (),
            fed: Fed::default(),
            deferred: Vec::new(),
            only: None,
            group: Group::default(),
        }
    }

    /// Walks, and gives every input that is missing to `sink`, until the end or until `sink` breaks.
    pub(crate) fn walk(&mut self, found: impl Iterator<Item = Found>, sink: &mut Sink<'_>) -> Result<()> {
        self.fed.complete = false;
        for found in found {
            let full = self.take(found);
            if !(self.going)() || full && self.flush(sink, true)?.is_break() {
                return Ok(());
            }
        }
        self.fed.complete = (self.going)() && self.flush(sink, false)?.is_continue();
        Ok(())
    }

    /// Chunks that others had, and that are free by now: from here on only these are looked at, in walks
    /// through what was walked before. Gives the folders or tar files they are of.
    pub(crate) fn free(&mut self) -> Result<HashSet<PathBuf>, io::Error> {
        let (mut chunks, mut units) = (HashSet::new(), HashSet::new());
        let Some(claims) = &self.claims else { return Ok(units) };
        for (chunk, unit) in mem::take(&mut self.deferred) {
            if claims.is_taken(chunk)? {
                self.deferred.push((chunk, unit));
            } else {
                chunks.insert(chunk);
                units.insert(unit);
            }
        }
        self.only = Some(chunks);
        Ok(units)
    }

    /// True when there are chunks that others have.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Takes something that was found in. True when it is time to look up what was gathered.
    fn take(&mut self, found: Found) -> bool {
        let input = match found {
            Found::Input(input) if (1..=MAX_KEY_LEN).contains(&input.key.len()) => input,
            Found::Input(input) => {
                let length = input.key.len();
                let reason = format!("its key has {length} bytes, and 1 to {MAX_KEY_LEN} are possible");
                return self.take(Found::Unreadable(input.path, io::Error::other(reason)));
            }
            // What is no input was counted the first time.
            _ if self.only.is_some() => return false,
            other => {
                self.aside(other);
                return false;
            }
        };
        if self.shard.is_some_and(|shard| !shard.holds(&input.key)) {
            return false;
        }
        let full = self.group.inputs.len() >= LOOKED_UP;
        full & self.group.push(input, self.chunk, self.in_order)
    }

    /// Counts what is no input with a key.
    fn aside(&mut self, found: Found) {
        let fed = &mut self.fed;
        match found {
            Found::Skipped(_) => fed.skipped += 1,
            Found::Ignored(path) => fed.ignored.add(&path),
            Found::Excluded(_) => fed.excluded += 1,
            Found::TooFew(_, inputs) => fed.too_few += inputs,
            Found::Unreadable(path, error) => fed.unreadable.push(&path, error.to_string()),
            Found::Outside(input) | Found::Input(input) => {
                let accepts = self.accepts;
                let begins = || self.source.open(&input).and_then(|content| accepts.begins(content));
                match if input.by_content { begins() } else { Ok(true) } {
                    Ok(true) => fed.outside.push(&input.path, "outside every root of the store"),
                    Ok(false) => fed.ignored.add(&input.path),
                    Err(error) => fed.unreadable.push(&input.path, error.to_string()),
                }
            }
        }
    }

    /// Looks up what was gathered, and hands on what is missing of it. The last chunk stays when it has only
    /// begun.
    fn flush(&mut self, sink: &mut Sink<'_>, begun: bool) -> Result<ControlFlow<()>> {
        let group = self.group.split(begun);
        let seen = self.lookup.refresh()?;
        let wanted = self.wanted(&group.inputs)?;
        let ends = group.chunks.iter().skip(1).map(|chunk| chunk.2).chain([group.inputs.len()]);
        let chunks: Vec<(u64, PathBuf, usize)> = group
            .chunks
            .iter()
            .zip(ends)
            .map(|((id, unit, from), to)| (*id, unit.clone(), to - from))
            .collect();
        let mut inputs = group.inputs.into_iter();
        let mut wanted = wanted.into_iter();
        for (id, unit, count) in chunks {
            let inputs: Vec<Input> = inputs.by_ref().take(count).collect();
            let mut wanted: Vec<Wanted> = wanted.by_ref().take(count).collect();
            if self.only.as_ref().is_some_and(|only| !only.contains(&id)) {
                continue;
            }
            let nothing = wanted.iter().all(|wanted| matches!(wanted, Wanted::Nothing));
            let mut claim = None;
            if let Some(claims) = self.claims.as_ref().filter(|_| !nothing) {
                match claims.take(id) {
                    Ok(Some(taken)) => claim = Some(Arc::new(taken)),
                    Ok(None) => {
                        self.deferred.push((id, unit));
                        continue;
                    }
                    // Then the chunk is not shared: the store keeps one of what two runs embed.
                    Err(error) => log::warn!("cannot claim a chunk of {}: {error}", unit.display()),
                }
                // The run that had it until a moment ago may have finished it.
                if self.lookup.refresh()? != seen {
                    wanted = self.wanted(&inputs)?;
                }
            }
            let stored = inputs.iter().zip(&wanted).filter(|(_, wanted)| matches!(wanted, Wanted::Nothing));
            let stored: Vec<&[u8]> = stored.map(|(input, _)| input.key()).collect();
            self.fed.already += stored.len() as u64;
            (self.others)(self.lookup.gained(&stored)?);
            for (input, wanted) in inputs.into_iter().zip(wanted) {
                let known = match wanted {
                    Wanted::Nothing => continue,
                    Wanted::All => None,
                    Wanted::Newer(known) => Some(known),
                };
                self.fed.changed += u64::from(known.is_some());
                let job = Job { input, known, record: None, claim: claim.clone() };
                if sink(job).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn wanted(&mut self, inputs: &[Input]) -> Result<Vec<Wanted>> {
        let keys: Vec<&[u8]> = inputs.iter().map(Input::key).collect();
        let mut missing = self.lookup.missing(&keys)?.into_iter().peekable();
        let mut wanted = Vec::with_capacity(inputs.len());
        for (at, input) in inputs.iter().enumerate() {
            wanted.push(match missing.next_if_eq(&at) {
                Some(_) => Wanted::All,
                None => match self.lookup.record(&input.key)? {
                    Some(record) if self.source.stamp(input).is_some_and(|stamp| stamp != record.stamp) => {
                        Wanted::Newer(record)
                    }
                    _ => Wanted::Nothing,
                },
            });
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::keys::{RootArg, Roots};
    use crate::source::Files;
    use std::path::Path;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

    fn walk(dir: &Path, roots: &Roots, stored: &[&str]) -> (Vec<String>, Fed) {
        let mut stored = Stored(stored.iter().map(|key| key.as_bytes().to_vec()).collect(), 1);
        let mut jobs = Vec::new();
        let (going, files) = (|| true, inputs(dir, roots));
        let mut feed = Feed::new(&files, Accepts::pictures(), &going, &mut stored);
        feed.chunk = 10;
        feed.walk(files.walk().unwrap(), &mut |job| {
            let key = String::from_utf8_lossy(job.input.key());
            jobs.push(format!("{key}{}", if job.input.by_content { "?" } else { "" }));
            ControlFlow::Continue(())
        })
        .unwrap();
        (jobs, feed.fed)
    }

    fn inputs(dir: &Path, roots: &Roots) -> Files {
        Files::new(dir).with_recursive(true).bound(
            dir.to_owned(),
            roots.clone(),
            Accepts::pictures(),
            Vec::new(),
        )
    }

    /// Keys, and the number of the last commit.
    struct Stored(HashSet<Vec<u8>>, u64);

    impl Lookup for Stored {
        fn refresh(&mut self) -> Result<u64> {
            Ok(self.1)
        }

        fn missing(&mut self, keys: &[&[u8]]) -> Result<Vec<usize>> {
            Ok((0..keys.len()).filter(|at| !self.0.contains(keys[*at])).collect())
        }

        fn record(&mut self, _key: &[u8]) -> Result<Option<Record>> {
            Ok(None)
        }

        fn gained(&mut self, _keys: &[&[u8]]) -> Result<u64> {
            Ok(0)
        }
    }

    fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    fn rooted(dir: &Path) -> Roots {
        let mut roots = Roots::default();
        roots.point(&RootArg::new(".", dir).unwrap()).unwrap();
        roots
    }

    #[test]
    fn gives_only_what_is_missing() {
        let (_keep, dir) = folder(&[("a.jpg", b""), ("b.jpg", b""), ("c/d", PNG), ("c/e.txt", b"")]);
        let (jobs, fed) = walk(&dir, &rooted(&dir), &["a.jpg"]);
        assert_eq!(jobs, ["b.jpg", "c/d?", "c/e.txt?"]);
        assert_eq!(fed.already, 1);
    }

    #[test]
    fn looks_up_more_than_one_chunk() {
        let names: Vec<String> = (0..LOOKED_UP * 2 + 7).map(|at| format!("{at:05}.jpg")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let (_keep, dir) = folder(&files);
        let stored: Vec<&str> = names.iter().map(String::as_str).step_by(3).collect();
        let (jobs, fed) = walk(&dir, &rooted(&dir), &stored);
        let expected: Vec<&String> = (0..names.len()).filter(|at| at % 3 != 0).map(|at| &names[at]).collect();
        assert_eq!(jobs.iter().collect::<Vec<_>>(), expected);
        assert_eq!(fed.already, stored.len() as u64);
    }

    #[test]
    fn pictures_outside_the_roots_are_counted_and_other_files_are_not() {
        let (_keep, dir) =
            folder(&[("in/a.jpg", b""), ("out/b.jpg", b""), ("out/c", PNG), ("out/d.txt", b"text")]);
        let (jobs, fed) = walk(&dir, &rooted(&dir.join("in")), &[]);
        assert_eq!(jobs, ["a.jpg"]);
        assert_eq!((fed.outside.count(), fed.ignored.count()), (2, 1));
        assert_eq!(fed.outside.first()[1].path, dir.join("out/c"));
    }

    #[test]
    fn a_chunk_that_another_run_has_is_left_until_it_is_free() {
        let names: Vec<String> = (0..25).map(|at| format!("{}/{at:02}.jpg", at / 10)).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let (_keep, dir) = folder(&files);
        let roots = rooted(&dir);
        let beside = tempfile::tempdir().unwrap();
        let file = beside.path().join("claims");
        let (mine, others) = (Claims::open(&file).unwrap(), Claims::open(&file).unwrap());
        let going = || true;
        let walk = |claims: &Arc<Claims>, most: usize| {
            let (mut stored, files) = (Stored(HashSet::new(), 1), inputs(&dir, &roots));
            let mut feed = Feed::new(&files, Accepts::pictures(), &going, &mut stored);
            (feed.chunk, feed.claims) = (4, Some(Arc::clone(claims)));
            let mut jobs = Vec::new();
            let sink = &mut |job: Job| {
                jobs.push(job);
                if jobs.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            feed.walk(files.walk().unwrap(), sink).unwrap();
            let units = feed.free().unwrap();
            (jobs, units.len(), feed.deferred.len())
        };
        // The other run has 0/00 to 0/09 and 1/10 to 1/13: of the folders 0 and 1, 3 + 1 chunks.
        let (theirs, ..) = walk(&others, 11);
        assert_eq!(theirs.len(), 11);
        let (jobs, units, taken) = walk(&mine, usize::MAX);
        assert_eq!(jobs.first().map(|job| job.input.key()), Some(&b"1/14.jpg"[..]));
        assert_eq!((jobs.len(), units, taken), (11, 0, 4));
        drop((theirs, jobs));
        let (jobs, _, taken) = walk(&mine, usize::MAX);
        assert_eq!((jobs.len(), taken), (25, 0), "what is given back, or was a dead run's, is free");
    }
}

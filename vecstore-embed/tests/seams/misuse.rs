//! Tasks and sources of a program's own that break the rules, or are met at an awkward moment.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::{fs, iter};

use vecstore::{Kind, Reader};
use vecstore_embed::backend::Signature;
use vecstore_embed::source::{Accepts, Content, Found, Input, Walk};
use vecstore_embed::task::{Bucket, Halt, Items, Loaded};
use vecstore_embed::{
    Embedder, Files, Observer, Outcome, Rejected, Result, Run, Source, Task, verify_sample,
};

use crate::common::{Letters, Lines, Table, embedder, vector};

/// What comes of a text instead of its lines.
type Halts = fn(&mut dyn Items) -> std::result::Result<(), Halt>;

/// Lines, but for what a test makes of them.
#[derive(Default)]
struct Odd {
    buckets: Option<Vec<Bucket>>,
    halt: Option<Halts>,
}

impl Task for Odd {
    fn accepts(&self) -> Accepts {
        Lines.accepts()
    }

    fn buckets(&self, signature: &Signature) -> Result<Vec<Bucket>> {
        self.buckets.clone().map_or_else(|| Lines.buckets(signature), Ok)
    }

    fn load<'a>(&'a self, content: Content<'a>) -> std::result::Result<Box<dyn Loaded + 'a>, Rejected> {
        match self.halt {
            Some(halt) => Ok(Box::new(Halting(halt))),
            None => Lines.load(content),
        }
    }

    fn canonical(&self) -> String {
        "odd".to_owned()
    }
}

struct Halting(Halts);

impl Loaded for Halting {
    fn items(self: Box<Self>, items: &mut dyn Items) -> std::result::Result<(), Halt> {
        (self.0)(items)
    }
}

/// Says the same inputs each time.
struct Said(Vec<&'static str>);

impl Source for Said {
    fn walk(&self) -> Result<Walk<'_>> {
        Ok(Box::new(self.0.iter().map(|key| Found::Input(Input::new(key.as_bytes())))))
    }

    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(io::Cursor::new(input.key().to_vec())))
    }
}

fn odd(task: Odd) -> Embedder {
    let encoder = Letters::boxed(|_, _| Ok(()));
    Embedder::custom("odd", "1", task, vec![encoder]).unwrap().workers(2).build()
}

#[test]
fn a_task_that_breaks_the_rules_ends_the_work_with_an_error() {
    let bucket = |shapes| Bucket { shapes, items: None };
    let shapes = |shapes: Vec<Vec<usize>>| Odd { buckets: Some(vec![bucket(shapes)]), halt: None };
    let unknown: fn(&mut dyn Items) -> _ = |items| items.add(7, &mut |_| Ok(())).map(drop);
    for (task, said) in [
        (Odd { buckets: Some(Vec::new()), halt: None }, "buckets of the task"),
        (shapes(vec![]), "buckets of the task"),
        (shapes(vec![vec![4]]), "buckets of the task"),
        (shapes(vec![vec![4], vec![0]]), "buckets of the task"),
        (shapes(vec![vec![4], vec![usize::MAX, 3]]), "buckets of the task"),
        (Odd { halt: Some(unknown), buckets: None }, "bucket of an item"),
        (Odd { halt: Some(|_| Err(Halt::Stopped)), buckets: None }, "stopped of itself"),
    ] {
        let (dir, odd) = (tempfile::tempdir().unwrap(), odd(task));
        let all = odd.embed_all(&[b"one", b"two"].map(|text| text.to_vec())).unwrap_err().to_string();
        assert!(all.contains(said), "{all}");
        let run = Run::new(Table::of(&[("a", "one"), ("b", "two")]), dir.path().join("s")).run(&odd);
        assert!(run.unwrap_err().to_string().contains(said), "{said}");
    }
}

#[test]
fn a_key_that_comes_again_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = Said(vec!["twice", "once", "twice", "twice"]);
    let summary = Run::new(source, dir.path().join("s")).run(&odd(Odd::default())).unwrap();
    assert_eq!((summary.embedded, summary.rows, summary.rejected), (2, 2, 0), "{summary:?}");
    let source = Said(vec!["a\ttab", "fine", "a\ttab"]);
    let summary = Run::new(source, dir.path().join("t")).run(&odd(Odd::default())).unwrap();
    assert_eq!((summary.embedded, summary.rejected, summary.rejections.count()), (1, 1, 1), "{summary:?}");
    assert_eq!(summary.classes.into_values().sum::<u64>(), 1);
}

#[test]
fn what_cannot_be_stored_is_said_in_the_words_of_the_store_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let nameless: fn(&mut dyn Items) -> _ = |items| {
        items.about().attribute("", 1);
        Ok(())
    };
    let run = Run::new(Said(vec!["a"]), &store);
    let summary = run.run(&odd(Odd { halt: Some(nameless), buckets: None })).unwrap();
    let reason = &summary.rejections.first()[0].reason;
    assert!(summary.rejected == 1 && reason.contains("attribute") && !reason.contains("range"), "{reason}");

    let long: &'static str = String::from_iter(iter::repeat_n('k', 70_000)).leak();
    let summary = Run::new(Said(vec!["", "b", long]), &store).run(&odd(Odd::default())).unwrap();
    assert_eq!((summary.embedded, summary.unread.count()), (1, 2), "{summary:?}");
    assert!(summary.unread.first()[1].reason.contains("its key has 70000 bytes"), "{summary:?}");
}

#[test]
fn an_embedder_answers_while_it_streams_and_while_a_run_tells_of_its_progress() {
    struct Asking(Embedder, Mutex<Vec<Vec<f32>>>);
    impl Observer for Asking {
        fn settled(&self, key: &[u8], _: &Outcome) {
            self.1.lock().unwrap().push(self.0.embed(key).unwrap());
        }
    }
    let table = Table::default();
    (0..300).for_each(|at| table.set(&format!("{at:03}"), &format!("text {at}"), 1));
    let embedder = embedder(Letters::boxed(|_, _| Ok(()))).build();
    let answers = embedder.stream(table.clone()).map(|found| {
        let (key, _) = found.unwrap();
        (embedder.embed(&key).unwrap(), vector(std::str::from_utf8(&key).unwrap()))
    });
    assert_eq!(answers.filter(|(found, expected)| found == expected).count(), 300);

    let dir = tempfile::tempdir().unwrap();
    let asking = Arc::new(Asking(embedder.clone(), Mutex::default()));
    let run = Run::new(table, dir.path().join("s")).with_observer(Arc::clone(&asking) as Arc<dyn Observer>);
    assert_eq!(run.run(&embedder).unwrap().embedded, 300);
    assert_eq!(asking.1.lock().unwrap().len(), 300);
}

#[test]
fn a_stream_of_files_has_those_of_its_task_and_tells_of_those_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.txt", "b.jpg", "c.txt"] {
        fs::write(dir.path().join(name), "a line\nanother").unwrap();
    }
    let embedder = odd(Odd::default());
    let keys = |files: Files| {
        let mut keys: Vec<(String, bool)> = embedder
            .stream(files)
            .map(|found| found.unwrap())
            .map(|(key, outcome)| {
                let read = matches!(outcome, Outcome::Embedded(embedded) if embedded.rows().len() == 2);
                (String::from_utf8(key).unwrap(), read)
            })
            .collect();
        keys.sort();
        keys
    };
    let expected = |keys: &[(&str, bool)]| -> Vec<(String, bool)> {
        keys.iter().map(|(key, read)| ((*key).to_owned(), *read)).collect()
    };
    assert_eq!(keys(Files::new(dir.path())), expected(&[("a.txt", true), ("c.txt", true)]));
    let missing = dir.path().join("missing.tar");
    let found = keys(Files::new(dir.path()).with_tars([missing.clone()]));
    assert_eq!(found, expected(&[(missing.to_str().unwrap(), false)]));
}

#[test]
fn a_sample_of_entries_of_several_rows_is_compared_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let (texts, store) = (dir.path().join("texts"), dir.path().join("s"));
    fs::create_dir(&texts).unwrap();
    fs::write(texts.join("a.txt"), "one\ntwo\nthree").unwrap();
    fs::write(texts.join("b.txt"), "alone").unwrap();
    let embedder = odd(Odd::default());
    assert_eq!(Run::new(Files::new(&texts), &store).run(&embedder).unwrap().rows, 4);
    let reader = Reader::open(&store).unwrap();
    assert!(reader.snapshot().iter().all(|entry| entry.unwrap().kind() == Kind::Rows));
    let sampled = verify_sample(&reader, &embedder, 5, 1, 0.999).unwrap();
    assert_eq!((sampled.checked, sampled.same), (2, 2), "{sampled:?}");
}

#[test]
fn one_input_of_many_items_is_encoded_in_whole_batches() {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&batches);
    let encoder = Letters::boxed(move |_, first| {
        kept.lock().unwrap().push(first.len());
        Ok(())
    });
    assert_eq!(embedder(encoder).build().embed_all(&[&b"a\nb\nc\nd\ne\nf"[..]]).unwrap().len(), 1);
    assert_eq!(*batches.lock().unwrap(), [3, 3]);
}

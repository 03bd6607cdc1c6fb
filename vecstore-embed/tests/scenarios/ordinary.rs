//! Runs that nothing happens to.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use vecstore::{DType, Reader};
use vecstore_embed::{Embedder, Ended, Error, Model, Observer, Plan, Progress};

use crate::common::{Place, RunOn, Strips, contents, flat, keys, on, tiny, tree, write_picture};

#[test]
fn a_run_embeds_everything_once_and_another_finds_nothing_to_do() {
    let place = Place::new();
    let (photos, store) = (place.photos(11), place.join("photos.vecs"));
    let model = tiny();
    let run = tree(&photos, &store);
    let summary = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((summary.found, summary.embedded, summary.commits), (11, 11, 3));
    assert!(summary.is_complete());
    assert_eq!(contents(&store).len(), 11);

    let before = Reader::open(&store).unwrap().snapshot().last_commit();
    let again = run.run_on(&model, Strips::before(|_| panic!("the model is not needed"))).unwrap();
    assert_eq!((again.found, again.already, again.embedded, again.commits), (11, 11, 0, 0));
    assert!(again.is_complete());
    assert_eq!(Reader::open(&store).unwrap().snapshot().last_commit(), before);

    write_picture(&photos.join("c/new.webp"), 99);
    let third = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((third.already, third.embedded), (11, 1));
    assert!(keys(&store).contains(&"c/new.webp".to_owned()));
}

#[test]
fn pictures_are_known_by_content_and_other_files_are_left_alone() {
    let place = Place::new();
    let (photos, store) = (place.join("photos"), place.join("photos.vecs"));
    write_picture(&photos.join("0.png"), 0);
    fs::rename(photos.join("0.png"), photos.join("no-extension")).unwrap();
    write_picture(&photos.join("1.gif"), 1);
    fs::rename(photos.join("1.gif"), photos.join("called.jpg")).unwrap();
    fs::write(photos.join("notes.txt"), "not a picture").unwrap();
    symlink(photos.join("called.jpg"), photos.join("link.jpg")).unwrap();
    let model = tiny();
    let run = flat(&photos, &store);
    let summary = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((summary.found, summary.embedded, summary.ignored.count(), summary.skipped), (2, 2, 1, 1));
    assert_eq!(keys(&store), ["called.jpg", "no-extension"]);
    let again = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((again.found, again.already, again.ignored.count(), again.skipped), (2, 2, 1, 1));
}

#[test]
fn the_only_picture_may_be_one_without_an_extension() {
    let place = Place::new();
    let (photos, store) = (place.join("photos"), place.join("photos.vecs"));
    write_picture(&photos.join("0.png"), 0);
    fs::rename(photos.join("0.png"), photos.join("IMG_0001")).unwrap();
    let watcher = Arc::new(Watcher::default());
    let run = flat(&photos, &store).with_observer(Arc::clone(&watcher) as Arc<dyn Observer>);
    let summary = run.run_on(&tiny(), Strips::boxed()).unwrap();
    assert_eq!((summary.found, summary.embedded, summary.left), (1, 1, 0));
    // It was counted beforehand, as the rest are.
    let (plans, progress) = &*watcher.0.lock().unwrap();
    assert_eq!((plans[0].to_do, progress[0].to_do, progress[0].done()), (1, 1, 1));
}

#[test]
fn a_folder_without_pictures_makes_no_store() {
    let place = Place::new();
    let (photos, store) = (place.join("photos"), place.join("photos.vecs"));
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("notes.txt"), "not a picture").unwrap();
    let summary = flat(&photos, &store).run(&Embedder::builder(&Model::builtin().unwrap()).build()).unwrap();
    assert_eq!((summary.found, summary.ignored.count(), summary.ended), (0, 1, Ended::Finished));
    assert!(!store.exists());
}

#[test]
fn a_store_inside_its_folder_is_not_taken_for_pictures() {
    let place = Place::new();
    let photos = place.photos(3);
    let store = photos.join("a/photos.vecs");
    let model = tiny();
    let run = tree(&photos, &store);
    assert_eq!(run.run_on(&model, Strips::boxed()).unwrap().found, 3);
    // Something in the store that looks like an input.
    write_picture(&store.join("quarantine/1.png"), 1);
    let again = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((again.found, again.already, again.ignored.count()), (3, 3, 0));
    let inside = flat(store.join("quarantine"), &store).run_on(&model, Strips::boxed()).unwrap_err();
    assert!(matches!(inside, Error::FolderInStore { .. }), "{inside}");
}

#[derive(Default)]
struct Watcher(Mutex<(Vec<Plan>, Vec<Progress>)>);

impl Observer for Watcher {
    fn planned(&self, plan: &Plan) {
        self.0.lock().unwrap().0.push(plan.clone());
    }

    fn progress(&self, progress: &Progress) {
        self.0.lock().unwrap().1.push(*progress);
    }
}

#[test]
fn the_forecast_covers_what_the_store_grows_by_and_not_much_more() {
    let place = Place::new();
    let (photos, store) = (place.photos(100), place.join("photos.vecs"));
    let watcher = Arc::new(Watcher::default());
    let run = tree(&photos, &store).with_observer(Arc::clone(&watcher) as Arc<dyn Observer>);
    let embedder = on(&Model::builtin().unwrap(), Strips::wide(512)).batch(32).build();
    run.run(&embedder).unwrap();
    let (plans, progress) = &*watcher.0.lock().unwrap();
    let [plan] = &plans[..] else { panic!("planned once") };
    assert_eq!((plan.found, plan.already, plan.to_do), (100, 0, 100));
    // What the file system gave, in its blocks, which is what runs out.
    let taken = |dir: PathBuf| -> u64 {
        let blocks = fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().blocks());
        blocks.sum::<u64>() * 512
    };
    let bytes = taken(store.join("segments")) + taken(store);
    assert!(plan.forecast.needed >= bytes && plan.forecast.needed < bytes * 2, "{plan:?}: {bytes}");
    assert!(plan.forecast.free.is_some());
    // Progress is told per commit, and only grows.
    assert_eq!(progress.iter().map(|progress| progress.done()).collect::<Vec<_>>(), [32, 64, 96, 100]);
}

#[test]
fn the_element_type_is_chosen_once() {
    for dtype in [DType::F16, DType::BF16, DType::I8] {
        let place = Place::new();
        let (photos, store) = (place.photos(2), place.join("photos.vecs"));
        let model = tiny();
        let run = tree(&photos, &store);
        run.clone().with_dtype(dtype).run_on(&model, Strips::boxed()).unwrap();
        assert_eq!(Reader::open(&store).unwrap().snapshot().dtype(), dtype);
        write_picture(&photos.join("more.png"), 5);
        // Not asked for again, it stays what it is.
        assert_eq!(run.run_on(&model, Strips::boxed()).unwrap().embedded, 1);
        let error = run.with_dtype(DType::F32).run_on(&model, Strips::boxed()).unwrap_err();
        assert!(matches!(error, Error::WrongDType { .. }), "{error}");
    }
}

#[test]
fn two_runs_at_once_store_each_picture_once() {
    let place = Place::new();
    let (photos, store) = (place.photos(60), place.join("photos.vecs"));
    let model = tiny();
    // The store is there, so that both begin at the same place.
    write_picture(&photos.join("first.png"), 7);
    flat(&photos, &store).run_on(&model, Strips::boxed()).unwrap();
    let run = tree(&photos, &store);
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(|| run.run_on(&model, Strips::boxed()).unwrap());
        [run.run_on(&model, Strips::boxed()).unwrap(), other.join().unwrap()]
    });
    assert_eq!(both[0].embedded + both[1].embedded, 60);
    assert!(both.iter().all(|summary| summary.is_complete() && summary.found == 61), "{both:?}");
    assert_eq!(contents(&store).len(), 61);
}

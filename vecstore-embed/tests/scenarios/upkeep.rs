//! What is done with entries later: prune, retry, verify.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use vecstore_embed::{Files, Model, Run, Summary};

use crate::command::{json, program, run, said};
use crate::common::{Place, RunOn, Stored, Strips, contents, keys, tree, write_picture};

fn embed(run: &Run) -> Summary {
    run.run_on(&Model::builtin().unwrap(), Strips::boxed()).unwrap()
}

fn of_store(name: &str, store: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args([name, "--store"]).arg(store).args(more);
    command
}

#[test]
fn entries_of_files_that_are_gone_are_reported_and_removed_only_when_that_is_safe() {
    let place = Place::new();
    let (photos, store) = (place.photos(30), place.join("photos.vecs"));
    let run = tree(&photos, &store);
    assert_eq!(embed(&run).gone.first.count(), 0);

    fs::remove_file(photos.join("a/000.png")).unwrap();
    fs::remove_file(photos.join("a/002.png")).unwrap();
    let reported = embed(&run);
    assert_eq!((reported.gone.first.count(), reported.gone.pruned), (2, 0), "{reported:?}");
    assert_eq!(contents(&store).len(), 30, "nothing is removed unasked");
    // A run over another part of the folder has nothing to say about them.
    assert_eq!(embed(&tree(photos.join("b"), &store)).gone.first.count(), 0);
    // They are gone also where a run does not look.
    let files = || Files::new(&photos).with_recursive(true);
    let filtered = Run::new(files().with_min_inputs(100), &store).with_prune(true, false);
    assert_eq!(embed(&filtered).gone.pruned, 2);
    assert_eq!(contents_without_tombstones(&store), 28);

    // A drive that is not there, but the folder it is mounted at.
    let away = photos.with_extension("away");
    fs::rename(&photos, &away).unwrap();
    fs::create_dir(&photos).unwrap();
    let many = embed(&run.clone().with_prune(true, false));
    let refused = many.gone.refused.unwrap();
    assert!(refused.contains("28 of 28 files are gone"), "{refused}");
    assert_eq!(many.gone.pruned, 0);
    fs::remove_dir(&photos).unwrap();
    let nowhere = run.clone().with_prune(true, true).run_on(&Model::builtin().unwrap(), Strips::boxed());
    assert!(nowhere.unwrap_err().to_string().contains("there is no such folder"));
    fs::rename(&away, &photos).unwrap();

    // A folder that cannot be read hides files that are there.
    std::os::unix::fs::symlink("loop", photos.join("loop.png")).unwrap();
    fs::remove_file(photos.join("a/004.png")).unwrap();
    let unseen = embed(&Run::new(files().with_follow_links(true), &store).with_prune(true, true));
    assert!(unseen.gone.refused.unwrap().contains("did not see everything"));
    assert_eq!(unseen.gone.pruned, 0);

    fs::remove_dir_all(photos.join("b")).unwrap();
    let meant = embed(&run.clone().with_prune(true, true));
    assert_eq!(meant.gone.pruned, 16, "{:?}", meant.gone);
    assert_eq!(contents_without_tombstones(&store), 12);
    assert_eq!(embed(&run).gone.first.count(), 0);
}

/// Deleted keys leave a mark until they are merged away.
fn contents_without_tombstones(store: &Path) -> u64 {
    let totals = vecstore::Reader::open(store).unwrap().snapshot().totals();
    totals.entries
}

#[test]
fn prune_on_the_command_line_says_what_it_did() {
    let place = Place::new();
    let (photos, store) = (place.photos(12), place.join("photos.vecs"));
    assert_eq!(said(run(&photos, &store, &["--quiet"])).code, 0);
    fs::remove_file(photos.join("a/000.png")).unwrap();
    fs::remove_file(photos.join("a/002.png")).unwrap();
    let reported = said(run(&photos, &store, &[]));
    assert!(reported.code == 0 && reported.out.contains("gone from the folder (--prune"), "{}", reported.out);
    let refused = said(run(&photos, &store, &["--prune"]));
    assert!(
        refused.code == 1
            && refused.out.contains("nothing was pruned: 2 of 12 files")
            && refused.out.contains("(--yes)"),
        "{}",
        refused.out
    );
    let pruned = said(run(&photos, &store, &["--prune", "--yes"]));
    assert!(pruned.code == 0 && pruned.out.contains("2 entries removed"), "{}", pruned.out);
    assert_eq!(contents_without_tombstones(&store), 10);
}

#[test]
fn rejected_inputs_get_another_chance_by_their_class() {
    let place = Place::new();
    let (photos, store) = (place.photos(3), place.join("photos.vecs"));
    fs::write(photos.join("a/text.jpg"), "Dear diary").unwrap();
    write_picture(&photos.join("a/large.png"), 9);
    image::RgbImage::new(100, 100).save(photos.join("a/large.png")).unwrap();
    let limited = json(run(&photos, &store, &["--quiet", "--json", "--max-pixels=2000"]));
    assert_eq!((&limited["embedded"], &limited["rejected"]), (&Value::from(3), &Value::from(2)), "{limited}");
    let status = said(of_store("status", &store, &["--rejected"])).out;
    assert!(
        status.contains("a/large.png: [size] too large") && status.contains("a/text.jpg: [decode]"),
        "{status}"
    );

    assert_eq!(json(of_store("retry", &store, &["--json", "--dry-run"]))["rejected"], 2);
    assert_eq!(json(of_store("retry", &store, &["--json", "--class=model"]))["rejected"], 0);
    assert_eq!(json(of_store("retry", &store, &["--json", "--class=size"]))["forgotten"], 1);
    let wrong = said(of_store("retry", &store, &["--class=bad"]));
    assert!(wrong.code == 2 && wrong.err.contains("decode, size or model"), "{}", wrong.err);
    let again = json(run(&photos, &store, &["--quiet", "--json"]));
    assert_eq!((&again["embedded"], &again["already"]), (&Value::from(1), &Value::from(4)), "{again}");
}

#[test]
fn verify_finds_a_vector_that_is_not_its_pictures() {
    let place = Place::new();
    let (photos, store) = (place.photos(6), place.join("photos.vecs"));
    assert_eq!(said(run(&photos, &store, &["--quiet"])).code, 0);
    let verify = |more: &[&str]| {
        let mut command = program(&[&"verify", &"--json", &"--store", &store]);
        command.args(more);
        said(command)
    };
    let sound = verify(&["--sample=4", "--seed=1"]);
    let told: Value = serde_json::from_str(&sound.out).unwrap();
    assert_eq!((sound.code, &told["checked"], &told["same"]), (0, &4.into(), &4.into()), "{told}");

    // One that changed is no fault, one whose vector belongs to another picture is.
    write_picture(&photos.join("b/001.png"), 55);
    let Stored::Vector(other) = contents(&store)["a/000.png"].clone() else { panic!() };
    let opened = vecstore::Store::open(&store).unwrap();
    let payload = opened.snapshot().get("a/002.png").unwrap().unwrap().payload().to_vec();
    let mut batch = opened.batch();
    batch.entry("a/002.png").converted(&other).payload(&payload).push().unwrap();
    opened.append(&mut batch, vecstore::OnDuplicate::Replace).unwrap();
    opened.close().unwrap();
    let spoiled = verify(&[]);
    let told: Value = serde_json::from_str(&spoiled.out).unwrap();
    assert_eq!(spoiled.code, 1, "{told}");
    assert_eq!(
        (&told["checked"], &told["same"], &told["skipped"]),
        (&6.into(), &4.into(), &1.into()),
        "{told}"
    );
    assert_eq!(told["different_first"][0]["key"], "a/002.png");
    assert!(keys(&store).len() == 6);
}

#[test]
fn a_store_that_is_not_there_is_a_mistake_for_every_command() {
    let place = Place::new();
    let nowhere = place.join("mistyped.vecs");
    for name in ["status", "stop", "logs", "retry", "verify"] {
        let said = said(of_store(name, &nowhere, &[]));
        let remedy = "there is no store here; `vecstore-embed run` creates one; check the name";
        assert!(
            said.code == 1 && said.err.contains("mistyped.vecs: ") && said.err.contains(remedy),
            "{name}: {}",
            said.err
        );
    }
    assert_eq!(fs::read_dir(&place.path).unwrap().count(), 0, "nothing is made");
}

#[test]
fn numbers_are_written_for_prometheus() {
    let place = Place::new();
    let (photos, store, file) = (place.photos(4), place.join("photos.vecs"), place.join("run.prom"));
    let metrics = format!("--metrics={}", file.display());
    assert_eq!(said(run(&photos, &store, &["--quiet", &metrics])).code, 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("outcome=\"embedded\"} 4") && text.contains("phase=\"ended\"} 1"), "{text}");
    let nowhere = format!("--metrics={}", place.join("no/run.prom").display());
    let refused = said(run(&photos, &store, &["--quiet", &nowhere]));
    assert!(
        refused.code == 1 && refused.err.contains("expected a file that can be written"),
        "{}",
        refused.err
    );
}

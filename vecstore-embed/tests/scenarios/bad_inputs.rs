//! What people give a run by mistake: each with its message, and nothing lost.

use std::fs;
use std::path::Path;

use vecstore::{Fingerprint, Reader, Store, StoreConfig};
use vecstore_embed::{DecodeLimits, Error};

use crate::common::{Place, RunOn, Stored, Strips, contents, flat, on, picture, tiny, tree, write_picture};

#[test]
fn bad_content_is_rejected_with_a_reason_and_stops_nothing() {
    let place = Place::new();
    let (photos, store) = (place.join("photos"), place.join("photos.vecs"));
    for at in 0..5 {
        write_picture(&photos.join(format!("good{at}.png")), at);
    }
    fs::write(photos.join("empty.jpg"), "").unwrap();
    fs::write(photos.join("text.jpg"), "Dear diary").unwrap();
    picture(9).save(photos.join("whole.jpg")).unwrap();
    let whole = fs::read(photos.join("whole.jpg")).unwrap();
    fs::write(photos.join("cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    image::RgbImage::new(1, 1).save(photos.join("dot.png")).unwrap();
    image::GrayImage::new(300, 200).save(photos.join("large.png")).unwrap();
    let bomb = [
        &b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"[..],
        &20_000u32.to_le_bytes(),
        &20_000u32.to_le_bytes(),
        b"\x01\0\x18\0",
    ];
    let mut bomb = bomb.concat();
    bomb.resize(100, 0);
    fs::write(photos.join("bomb.bmp"), bomb).unwrap();
    fs::write(photos.join("long.png"), vec![0; 70_000]).unwrap();

    let model = tiny();
    let run = flat(&photos, &store);
    let limited = || on(&model, Strips::boxed()).limits(DecodeLimits::new(50_000)).max_content_bytes(60_000);
    let summary = run.run(&limited().build()).unwrap();
    assert!(summary.is_complete());
    assert_eq!((summary.found, summary.embedded, summary.rejected), (13, 7, 6));
    assert_eq!(summary.rejections.count(), 6);
    let contents = contents(&store);
    for (key, reason) in [
        ("empty.jpg", "empty"),
        ("text.jpg", "not a picture"),
        ("cut.jpg", "truncated"),
        ("large.png", "300x200 is 60000 pixels, the limit is 50000"),
        ("bomb.bmp", "20000x20000 is 400000000 pixels"),
        ("long.png", "70000 bytes, more than the limit of 60000"),
    ] {
        let Stored::Rejected(found) = &contents[key] else { panic!("{key}") };
        assert!(found.contains(reason), "{key}: {found}");
    }
    assert!(matches!(contents["dot.png"], Stored::Vector(_)));

    // Rejected is accounted for: it is not tried again.
    assert_eq!(run.run_on(&model, Strips::boxed()).unwrap().already, 13);
}

#[test]
fn a_picture_of_twenty_thousand_squared_is_too_large_by_default() {
    let place = Place::new();
    let (photos, store) = (place.join("photos"), place.join("photos.vecs"));
    fs::create_dir(&photos).unwrap();
    let header = b"IHDR\0\0\x4e\x20\0\0\x4e\x20\x08\x02\0\0\0";
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for chunk in [&header[..], b"IDAT", b"IEND"] {
        png.extend((chunk.len() as u32 - 4).to_be_bytes());
        png.extend(chunk);
        png.extend(crc(chunk).to_be_bytes());
    }
    fs::write(photos.join("large.png"), png).unwrap();
    let summary = flat(&photos, &store).run_on(&tiny(), Strips::boxed()).unwrap();
    assert_eq!(summary.rejected, 1);
    let reason = &summary.rejections.first()[0].reason;
    assert!(reason.contains("20000x20000 is 400000000 pixels, the limit is 200000000"), "{reason}");
}

/// CRC-32 as PNG wants it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn a_folder_that_cannot_be_one_is_an_error_and_makes_no_store() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    let run = |folder: &Path| flat(folder, &store).run_on(&tiny(), Strips::boxed());
    let missing = run(&place.join("nowhere")).unwrap_err();
    assert!(matches!(missing, Error::FolderMissing { .. }), "{missing}");
    let file = run(&photos.join("a/000.png")).unwrap_err();
    assert!(matches!(file, Error::NotAFolder { .. }), "{file}");
    assert!(!store.exists());
}

#[test]
fn a_store_that_is_a_file_is_an_error_and_stays_a_file() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    fs::write(&store, "precious").unwrap();
    let error = flat(&photos, &store).run_on(&tiny(), Strips::boxed()).unwrap_err();
    assert!(
        matches!(&error, Error::Store(error) if matches!(**error, vecstore::Error::NotAStore { .. })),
        "{error}"
    );
    assert_eq!(fs::read(&store).unwrap(), b"precious");
}

#[test]
fn a_store_of_another_model_is_refused_with_both_named() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    let other = Fingerprint::new([1; 32], "another CLIP");
    Store::create(&store, StoreConfig::new(8).fingerprint(other)).unwrap().close().unwrap();
    let model = tiny();
    let error = flat(&photos, &store).run_on(&model, Strips::boxed()).unwrap_err();
    let Error::Store(refused) = &error else { panic!("{error}") };
    assert!(matches!(**refused, vecstore::Error::FingerprintMismatch { .. }), "{refused}");
    let text = error.to_string();
    assert!(text.contains("another CLIP") && text.contains(model.fingerprint().description()), "{text}");
    let searched =
        on(&model, Strips::boxed()).build().check_query(&Reader::open(&store).unwrap()).unwrap_err();
    assert_eq!(searched.to_string(), text);
}

#[test]
fn a_store_of_another_dimension_is_refused_and_does_not_become_this_models() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    Store::create(&store, StoreConfig::new(64)).unwrap().close().unwrap();
    let model = tiny();
    let error = tree(&photos, &store).run_on(&model, Strips::boxed()).unwrap_err();
    assert!(matches!(error, Error::WrongDimension { expected: 64, found: 8, .. }), "{error}");
    let snapshot = Reader::open(&store).unwrap().snapshot();
    assert!(snapshot.fingerprint().is_none() && snapshot.settings().is_empty());
}

#[test]
fn a_store_without_a_model_takes_the_first_one() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    Store::create(&store, StoreConfig::new(8)).unwrap().close().unwrap();
    let model = tiny();
    tree(&photos, &store).run_on(&model, Strips::boxed()).unwrap();
    let snapshot = Reader::open(&store).unwrap().snapshot();
    assert_eq!(snapshot.fingerprint(), Some(model.fingerprint()));
    assert_eq!(contents(&store).len(), 2);
}

#[test]
fn a_query_that_is_no_picture_is_an_error() {
    let place = Place::new();
    let model = tiny();
    let embedder = on(&model, Strips::boxed()).build();
    fs::write(place.join("text.jpg"), "Dear diary").unwrap();
    let text = embedder.embed_file(&place.join("text.jpg")).unwrap_err();
    assert!(matches!(text, Error::BadPicture { .. }), "{text}");
    let missing = embedder.embed_file(&place.join("nowhere")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
}

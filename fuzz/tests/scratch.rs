use std::panic::{AssertUnwindSafe, catch_unwind};
#[test]
fn all_bytes() {
    let mut fails = 0;
    let mut count = 0u64;
    std::panic::set_hook(Box::new(|info| {
        println!("{info}");
    }));
    for seed in std::fs::read_dir(vecstore_fuzz::folder("segment")).unwrap() {
        let seed = seed.unwrap().path();
        if !seed.to_string_lossy().ends_with(".npy") {
            continue;
        }
        let good = std::fs::read(&seed).unwrap();
        let end = good.len() - 1024;
        for at in 1 + 4096..end {
            for change in [1u8, 2, 0x80, 0xFF] {
                let mut bytes = good.clone();
                bytes[at] ^= change;
                count += 1;
                if catch_unwind(AssertUnwindSafe(|| vecstore_fuzz::segment(&bytes))).is_err() {
                    fails += 1;
                    println!("{} at {at} ^ {change}", seed.display());
                    std::fs::write(format!("/tmp/wt-verify-fail-{fails}"), &bytes).unwrap();
                }
            }
        }
    }
    println!("{count} tried");
    assert_eq!(fails, 0);
}

#[test]
fn several_bytes() {
    let mut fails = 0;
    let mut state = 987654321u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % limit.max(1)
    };
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(vecstore_fuzz::folder("segment"))
        .unwrap()
        .map(|seed| std::fs::read(seed.unwrap().path()).unwrap())
        .collect();
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed().as_secs() < 380 {
        let mut bytes = seeds[below(seeds.len())].clone();
        if bytes.len() < 5300 {
            continue;
        }
        let end = bytes.len() - if below(4) == 0 { 0 } else { 1024 };
        for _ in 0..1 + below(4) {
            let at = 4097 + below(end - 4097);
            match below(4) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = below(4) as u8,
                2 => bytes[at] = 255,
                _ => {
                    let from = 4097 + below(end - 4097 - 8);
                    let piece: Vec<u8> = bytes[from..from + 8].to_vec();
                    let at = (at - 1) / 8 * 8 + 1;
                    if at + 8 <= bytes.len() {
                        bytes[at..at + 8].copy_from_slice(&piece);
                    }
                }
            }
        }
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| vecstore_fuzz::segment(&bytes))).is_err() {
            fails += 1;
            std::fs::write(format!("/tmp/wt-verify-fail-{fails}"), &bytes).unwrap();
            println!("fail {fails}");
            if fails > 5 {
                break;
            }
        }
    }
    println!("{count} tried");
    assert_eq!(fails, 0);
}
#[test]
fn again() {
    for n in 1..=4 { vecstore_fuzz::segment(&std::fs::read(format!("/tmp/wt-verify-fail-{n}")).unwrap()); }
}

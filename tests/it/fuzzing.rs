//! The checks of the fuzz targets, over real models and damaged ones: so that they compile, and hold, wherever tests run.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "../fuzz/model_text.rs"]
mod model_text;

#[test]
fn model_files_with_changed_bytes_are_refused_or_scored_alike() {
    let mut rng = StdRng::seed_from_u64(20_261_125);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/tests/fixtures");
    let mut models = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let real = std::fs::read(&path).unwrap();
        if real.len() > 200_000 {
            continue;
        }
        models += 1;
        model_text::check(&real);
        for _ in 0..40 {
            let mut damaged = real.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                match rng.random_range(0..4) {
                    0 => damaged[at] ^= 1 << rng.random_range(0..8),
                    1 => damaged[at] = b"0123456789-.e \n="[rng.random_range(0..16)],
                    2 => damaged.truncate(at.max(1)),
                    _ => damaged.insert(at, b"0123456789"[rng.random_range(0..10)]),
                }
            }
            model_text::check(&damaged);
        }
    }
    assert!(models > 0, "there are models to begin with");
}

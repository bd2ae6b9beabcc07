//! Code that tl2cgen generates from a model, compiled and loaded: the alternative way to be faster than LightGBM.
//!
//! Needs tl2cgen and treelite from PyPI and a C compiler: `make bench-tools` puts them into `.build/venv-bench`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use weir::error::{Context, Error, Result};

/// A value, or a missing value if `missing` is -1: tl2cgen's `union Entry`.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Entry {
    missing: c_int,
    value: f64,
}

/// A loaded library; never unloaded.
pub struct Generated {
    predict: unsafe extern "C" fn(*mut Entry, c_int, *mut f64),
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

impl Generated {
    /// Generates and compiles; `None` if tl2cgen is not installed.
    pub fn compile(text: &str) -> Result<Option<Self>> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".build/venv-bench/bin/python");
        if !python.exists() {
            return Ok(None);
        }
        let failed = || "tl2cgen failed".to_owned();
        // A path of its own: for a path that is loaded already, the loader returns the old library.
        static COMPILED: AtomicUsize = AtomicUsize::new(0);
        let number = COMPILED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weir-bench-scoring-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).environment(failed)?;
        let model = folder.join("model.txt");
        std::fs::write(&model, text).environment(failed)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/scoring/generate.py");
        let mut run = Command::new(python);
        run.arg(script).arg(&model).arg(&folder).stdout(Stdio::null()).stderr(Stdio::null());
        if !run.status().environment(failed)?.success() {
            return Err(Error::environment("tl2cgen could not compile the model"));
        }
        let path = CString::new(folder.join("predictor.so").as_os_str().as_bytes()).internal(failed)?;
        const NOW: c_int = 2;
        // SAFETY: the library was made just now and has no initialisers; `predict` has the signature that header.h declares.
        let loaded = unsafe {
            let library = dlopen(path.as_ptr(), NOW);
            if library.is_null() {
                return Err(Error::environment("the generated library cannot be loaded"));
            }
            let predict = dlsym(library, c"predict".as_ptr());
            if predict.is_null() {
                return Err(Error::environment("the generated library has no `predict`"));
            }
            Self {
                predict: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Entry, c_int, *mut f64)>(predict),
            }
        };
        std::fs::remove_dir_all(&folder).environment(failed)?;
        Ok(Some(loaded))
    }

    /// Scores rows that [`entries`] made.
    pub fn score(&self, entries: &mut [Entry], features: usize, scores: &mut [f64]) {
        for (row, score) in entries.chunks_exact_mut(features).zip(scores) {
            *score = 0.0;
            // SAFETY: a row has as many entries as the model has features, and there is room for one result.
            unsafe { (self.predict)(row.as_mut_ptr(), 0, score) };
        }
    }
}

/// The first `rows` rows, row by row, as tl2cgen wants them; NaN is missing. Not counted in tl2cgen's time.
pub fn entries(columns: &[Vec<f64>], rows: usize) -> Vec<Entry> {
    let entry = |value: f64| if value.is_nan() { Entry { missing: -1 } } else { Entry { value } };
    (0..rows).flat_map(|row| columns.iter().map(move |column| entry(column[row]))).collect()
}

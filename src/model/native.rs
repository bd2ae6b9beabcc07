//! The one place that calls LightGBM's C interface: loading a checked text, predicting a batch, training.
//!
//! LightGBM is the reference for every score and one of the evaluators. A booster's prediction writes to its own fields, so
//! a booster serves one thread at a time: [`NativePool`] keeps as many as have run at once.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Mutex, PoisonError};

use lightgbm3_sys as sys;

use crate::error::{Context, Error, Result};

/// Parameters of every prediction. One thread: parallelism comes from plan partitions.
const PREDICT_PARAMETERS: &CStr = c"num_threads=1 verbosity=-1";

/// Boosters of one model text.
pub(super) struct NativePool {
    text: CString,
    features: usize,
    outputs: usize,
    idle: Mutex<Vec<Booster>>,
}

impl NativePool {
    /// Loads `text`, which [`super::text`] must have accepted.
    pub fn new(text: &str, features: usize, outputs: usize) -> Result<Self> {
        let text = CString::new(text).map_err(|_| Error::internal("a checked model text holds a zero byte"))?;
        let first = Booster::load(&text)?;
        first.check_parameters()?;
        Ok(Self { text, features, outputs, idle: Mutex::new(vec![first]) })
    }

    /// Scores `scores.len() / outputs` rows, which are stored back to back in `values`.
    pub fn predict(&self, values: &[f64], scores: &mut [f64]) -> Result<()> {
        let rows = scores.len() / self.outputs;
        if values.len() != rows * self.features || scores.len() != rows * self.outputs {
            return Err(Error::internal("a prediction buffer has the wrong size"));
        }
        if rows == 0 {
            return Ok(());
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut booster = match idle {
            Some(booster) => booster,
            None => Booster::load(&self.text)?,
        };
        let result = booster.predict(values, self.features, scores);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(booster);
        result
    }
}

/// An owned LightGBM booster.
struct Booster(sys::BoosterHandle);

// SAFETY: a booster is a heap object without ties to the thread that made it (LightGBM keeps only its log level and
// last error per thread); it is used by one thread at a time because every use takes it by `&mut`.
unsafe impl Send for Booster {}

impl Booster {
    fn load(text: &CStr) -> Result<Self> {
        quieten()?;
        let mut iterations = 0;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `text` ends in a zero byte and the out pointers are valid; the text was checked.
        check(unsafe { sys::LGBM_BoosterLoadModelFromString(text.as_ptr(), &raw mut iterations, &raw mut handle) })
            .map_err(|error| Error::config("LightGBM refuses the model").with_source(error))?;
        Ok(Self(handle))
    }

    /// Checks the training parameters as LightGBM's Python package reads them; its loading fails if they are not JSON.
    fn check_parameters(&self) -> Result<()> {
        let text = read_text(|room, size, start| {
            // SAFETY: the handle is live, the buffer has as many bytes as it is said to have, and the text reader has
            // checked that every parameter has the form that LightGBM takes for granted.
            unsafe { sys::LGBM_BoosterGetLoadedParam(self.0, room, size, start) }
        });
        let refused = || {
            Error::config("LightGBM refuses the model")
                .with_detail("The parameters that it was trained with are damaged.")
        };
        let text = text.map_err(|error| refused().with_source(error))?;
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text)
            .map_err(|error| refused().with_source(error))?;
        Ok(())
    }

    fn train(dataset: &Dataset, parameters: &CStr, iterations: usize) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the dataset outlives the booster's training, which ends in this function.
        check(unsafe { sys::LGBM_BoosterCreate(dataset.0, parameters.as_ptr(), &raw mut handle) })?;
        let booster = Self(handle);
        for _ in 0..iterations {
            let mut finished = 0;
            // SAFETY: the handle is a live booster.
            check(unsafe { sys::LGBM_BoosterUpdateOneIter(booster.0, &raw mut finished) })?;
            if finished != 0 {
                break;
            }
        }
        Ok(booster)
    }

    fn predict(&mut self, values: &[f64], features: usize, scores: &mut [f64]) -> Result<()> {
        let rows = values.len() / features;
        let size = |n: usize| i32::try_from(n).map_err(|_| Error::internal("a batch is too large for LightGBM"));
        let (rows, columns) = (size(rows)?, size(features)?);
        let mut written = 0;
        // SAFETY: `values` holds rows x columns doubles and `scores` rows x outputs, as the caller checked; the
        // forest check ties LightGBM's outputs per row to ours.
        check(unsafe {
            sys::LGBM_BoosterPredictForMat(
                self.0,
                values.as_ptr().cast::<c_void>(),
                sys::C_API_DTYPE_FLOAT64 as i32,
                rows,
                columns,
                1,
                sys::C_API_PREDICT_NORMAL as i32,
                0,
                -1,
                PREDICT_PARAMETERS.as_ptr(),
                &raw mut written,
                scores.as_mut_ptr(),
            )
        })?;
        if usize::try_from(written).ok() == Some(scores.len()) {
            return Ok(());
        }
        Err(Error::internal(format!("LightGBM wrote {written} scores instead of {}", scores.len())))
    }

    /// The model as text.
    fn text(&self) -> Result<String> {
        read_text(|room, size, start| {
            // SAFETY: the handle is live and the buffer has as many bytes as it is said to have.
            unsafe { sys::LGBM_BoosterSaveModelToString(self.0, 0, -1, 0, room, size, start) }
        })
    }
}

impl Drop for Booster {
    fn drop(&mut self) {
        // SAFETY: the handle is live and is not used again.
        unsafe { sys::LGBM_BoosterFree(self.0) };
    }
}

/// An owned LightGBM dataset.
struct Dataset(sys::DatasetHandle);

impl Drop for Dataset {
    fn drop(&mut self) {
        // SAFETY: the handle is live and is not used again.
        unsafe { sys::LGBM_DatasetFree(self.0) };
    }
}

/// Training data: row-major values, a label per row, and the features' names.
pub(super) struct TrainingSet<'a> {
    pub values: &'a [f64],
    pub labels: &'a [f32],
    pub names: &'a [String],
}

impl TrainingSet<'_> {
    fn dataset(&self, parameters: &CStr) -> Result<Dataset> {
        let size = |n: usize| i32::try_from(n).map_err(|_| Error::sql("the training set is too large"));
        let (rows, columns) = (size(self.labels.len())?, size(self.names.len())?);
        if self.values.len() != self.labels.len() * self.names.len() {
            return Err(Error::internal("the training set's values and labels do not match"));
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: `values` holds rows x columns doubles.
        check(unsafe {
            sys::LGBM_DatasetCreateFromMat(
                self.values.as_ptr().cast::<c_void>(),
                sys::C_API_DTYPE_FLOAT64 as i32,
                rows,
                columns,
                1,
                parameters.as_ptr(),
                std::ptr::null_mut(),
                &raw mut handle,
            )
        })?;
        let dataset = Dataset(handle);
        let label = self.labels.as_ptr().cast::<c_void>();
        // SAFETY: `labels` holds `rows` floats.
        check(unsafe {
            sys::LGBM_DatasetSetField(dataset.0, c"label".as_ptr(), label, rows, sys::C_API_DTYPE_FLOAT32 as i32)
        })?;
        let names = self.names.iter().map(|name| c_string(name)).collect::<Result<Vec<_>>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the pointers are live C strings, one per column.
        check(unsafe { sys::LGBM_DatasetSetFeatureNames(dataset.0, pointers.as_mut_ptr(), columns) })?;
        Ok(dataset)
    }

    /// Trains `iterations` rounds with parameters in LightGBM's form (`key=value …`); returns the model as text.
    pub fn train(&self, parameters: &str, iterations: usize) -> Result<String> {
        quieten()?;
        let parameters = c_string(parameters)?;
        let dataset = self.dataset(&parameters)?;
        Booster::train(&dataset, &parameters, iterations)?.text()
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::sql(format!("`{}` holds a zero byte", text.escape_default())))
}

/// Suppresses LightGBM's messages on standard output for this thread.
fn quieten() -> Result<()> {
    extern "C" fn ignore(_message: *const c_char) {}
    // SAFETY: the callback is a plain function that lives as long as the program.
    check(unsafe { sys::LGBM_RegisterLogCallback(Some(ignore)) })
}

/// Converts LightGBM's status to a result with its message.
fn check(status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: LightGBM returns a zero-terminated buffer of this thread.
    let message = unsafe { CStr::from_ptr(sys::LGBM_GetLastError()) };
    Err(Error::internal(format!("LightGBM failed: {}", message.to_string_lossy().trim())))
}

/// A text that LightGBM writes into a buffer; the first call returns its size.
fn read_text(mut write: impl FnMut(i64, &mut i64, *mut c_char) -> i32) -> Result<String> {
    let mut size = 0_i64;
    let mut buffer: Vec<u8> = Vec::new();
    for _ in 0..2 {
        buffer.resize(usize::try_from(size).unwrap_or(0), 0);
        let (room, start) = (size, buffer.as_mut_ptr().cast::<c_char>());
        check(write(room, &mut size, start))?;
    }
    let text = CStr::from_bytes_until_nul(&buffer).map_err(|_| Error::internal("LightGBM's text has no end"))?;
    text.to_str().map(str::to_owned).map_err(|_| Error::internal("LightGBM's text is not UTF-8"))
}

/// The parameters that LightGBM reports as known, each with its aliases.
pub(super) fn known_parameters() -> Result<BTreeMap<String, Vec<String>>> {
    let text = read_text(|room, size, start| {
        // SAFETY: the buffer has as many bytes as it is said to have.
        unsafe { sys::LGBM_DumpParamAliases(room, size, start) }
    })?;
    serde_json::from_str(&text).internal(|| "LightGBM's parameters are not JSON".to_owned())
}

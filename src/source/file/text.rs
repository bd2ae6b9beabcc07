//! The bytes of a text file; for a compressed file, its decompressed bytes.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read from a compressed file at a time.
const BUFFER: usize = 256 << 10;

/// An open text file. Gzip and Zstandard are recognised by their first bytes, whatever the file's name.
pub(super) enum Text {
    Plain(File),
    Compressed(Box<Decompressed>),
}

/// The contents of a compressed file, read from front to back.
pub(super) struct Decompressed {
    path: PathBuf,
    decoder: Box<dyn Read + Send>,
    /// The decompressed bytes from `at` on.
    buffer: Vec<u8>,
    at: u64,
}

impl Text {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        Ok(match decoder(&mut file)? {
            None => Self::Plain(file),
            Some(decoder) => {
                let path = path.to_owned();
                Self::Compressed(Box::new(Decompressed { path, decoder, buffer: Vec::new(), at: 0 }))
            }
        })
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self, Self::Compressed(_))
    }

    /// `length` bytes from `start` on; fewer if the file ends before.
    pub(super) fn bytes(&mut self, start: u64, length: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(file) => {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(start))?;
                file.take(length).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::Compressed(file) => file.bytes(start, length),
        }
    }
}

impl Decompressed {
    fn bytes(&mut self, start: u64, length: u64) -> io::Result<Vec<u8>> {
        if start < self.at {
            let mut file = File::open(&self.path)?;
            let again = decoder(&mut file)?;
            self.decoder = again.ok_or_else(|| io::Error::other("the file is no longer compressed"))?;
            (self.buffer, self.at) = (Vec::new(), 0);
        }
        loop {
            let passed = usize::try_from(start - self.at).unwrap_or(usize::MAX).min(self.buffer.len());
            self.buffer.drain(..passed);
            self.at += passed as u64;
            let wanted = length.saturating_add(start - self.at) - (self.buffer.len() as u64).min(length);
            if self.at == start && self.buffer.len() as u64 >= length {
                break;
            }
            let read = (&mut self.decoder).take(wanted.min(BUFFER as u64)).read_to_end(&mut self.buffer)?;
            if read == 0 {
                break;
            }
        }
        let available = if self.at == start { &self.buffer[..] } else { &[] };
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(available.len());
        Ok(available[..length].to_vec())
    }
}

/// A decoder for a compressed file, positioned at its beginning; `None` if the file is not compressed.
fn decoder(file: &mut File) -> io::Result<Option<Box<dyn Read + Send>>> {
    let mut first = Vec::new();
    (&mut *file).take(4).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(0))?;
    let file = || file.try_clone().map(|file| BufReader::with_capacity(BUFFER, file));
    Ok(match first[..] {
        [0x1f, 0x8b, ..] => Some(Box::new(flate2::read::MultiGzDecoder::new(file()?))),
        [0x28, 0xb5, 0x2f, 0xfd] => Some(Box::new(zstd::stream::read::Decoder::with_buffer(file()?)?)),
        _ => None,
    })
}

//! Answers of earlier reports, so that the same addresses of a large file are not looked up again.
//!
//! One file for each module, found by its build ID: `symbols/ab/cdef…` below the cache's folder; where it has none, by a
//! number made of what follows. It says which files the names came from, by path, inode, length and time of change, and is used only if those are the very files that
//! would be asked now. A cache is safe to delete, and what is wrong in it is no more than a look-up that is made again.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustc_hash::{FxBuildHasher, FxHashMap};
use sampler_unwind::BuildId;
use serde::{Deserialize, Serialize};

use super::{NameSource, Symbol};

/// The first bytes of each file, the last of which is the version of what follows; it changes whenever names may come
/// out otherwise than before.
const MAGIC: [u8; 8] = *b"\x8fSAMSY\n\x01";

/// Magic and checksum.
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u32>();

/// How large a file is at most, in bytes: some million frames.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// How large all are together, in bytes. Those that were not used for longest go first.
const CACHE_BYTES_MAX: u64 = 256 << 20;

/// How many files there are at most.
const FILES_MAX: usize = 1 << 16;

/// Where those are that belong to modules without a build ID.
const NO_BUILD_ID: &str = "none";

/// How long a build ID may be, in hexadecimal digits. Linkers make up to 64.
const HEX_MAX: usize = 128;

/// After this it is asked again for what had no name or line: where it could come from may have been installed.
const NOTHING_EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder with answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolCache {
    folder: PathBuf,
    bytes_max: u64,
}

/// What answers depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CacheKey {
    build_id: Option<Vec<u8>>,
    files: Vec<FileState>,
    sampler_version: String,
}

/// A file, and what changes when it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// What is known of a module's addresses.
pub(super) type Answers = FxHashMap<u64, Vec<Symbol>>;

/// The content of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    key: CacheKey,
    written_unix_s: u64,
    texts: Vec<String>,
    answers: Vec<(u64, Vec<StoredSymbol>)>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StoredSymbol {
    /// Positions in the texts.
    function: u32,
    file: Option<u32>,
    line: Option<u32>,
    inlined: bool,
    source: NameSource,
}

impl CacheKey {
    /// The key of what `files` say about the module `build_id`; `None` where there is no file, or one that cannot be asked
    /// for its state.
    pub(super) fn new<'p>(
        build_id: Option<&BuildId>,
        files: impl IntoIterator<Item = &'p Path>,
    ) -> Option<Self> {
        let state = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some(FileState {
                path: path.to_owned(),
                device: file.dev(),
                inode: file.ino(),
                bytes: file.len(),
                changed_s: file.mtime(),
                changed_ns: file.mtime_nsec(),
            })
        };
        let files: Vec<FileState> = files.into_iter().map(state).collect::<Option<_>>()?;
        (!files.is_empty()).then(|| Self {
            build_id: build_id.map(|build_id| build_id.0.clone()),
            files,
            sampler_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

impl SymbolCache {
    /// The cache in `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            bytes_max: CACHE_BYTES_MAX,
        }
    }

    /// What was answered before, if it came from the same files.
    pub(super) fn load(&self, key: &CacheKey) -> Answers {
        self.read(key).unwrap_or_default()
    }

    /// Keeps `answers`. Where that is not possible, the next report takes as long as this one.
    pub(super) fn store(&self, key: &CacheKey, answers: &Answers) {
        if let Some(path) = self.path(key) {
            let _not_kept = self.write(&path, key, answers);
        }
    }

    /// Makes room, if there is too much in it.
    pub(super) fn trim(&self) {
        // What is too much stays until the next time.
        let _untrimmed = self.remove_unused();
    }

    fn path(&self, key: &CacheKey) -> Option<PathBuf> {
        let Some(build_id) = &key.build_id else {
            let files = postcard::to_stdvec(&key.files).ok()?;
            let number = FxBuildHasher.hash_one(files);
            return Some(
                self.symbols()
                    .join(NO_BUILD_ID)
                    .join(format!("{number:016x}")),
            );
        };
        let hex = BuildId(build_id.clone()).to_string();
        let (first, rest) = hex.split_at_checked(2)?;
        (!rest.is_empty() && hex.len() <= HEX_MAX).then(|| self.symbols().join(first).join(rest))
    }

    fn symbols(&self) -> PathBuf {
        self.folder.join("symbols")
    }

    fn read(&self, key: &CacheKey) -> Option<Answers> {
        let path = self.path(key)?;
        // A pipe in its place would be waited for.
        fs::symlink_metadata(&path)
            .ok()
            .filter(|file| file.is_file())?;
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .ok()?;
        let now = SystemTime::now();
        let answers = decode(&bytes, key, now)?;
        // When it was used last.
        let _same_time = file.set_times(FileTimes::new().set_modified(now));
        Some(answers)
    }

    fn write(&self, path: &Path, key: &CacheKey, answers: &Answers) -> io::Result<()> {
        let folder = path.parent().unwrap_or(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let content = encode(key, answers, SystemTime::now()).map_err(io::Error::other)?;
        if content.len() as u64 > FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&content)?;
        file.persist(path)?;
        Ok(())
    }

    /// Removes what was not used for longest, until the rest takes three quarters of what it may.
    fn remove_unused(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for folder in fs::read_dir(self.symbols())?.flatten() {
            for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let Ok(metadata) = file.metadata() else {
                    continue;
                };
                files.push((metadata.mtime(), metadata.len(), file.path()));
            }
        }
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = files.len();
        if bytes <= self.bytes_max && count <= FILES_MAX {
            return Ok(());
        }
        files.sort_unstable();
        for (_, file_bytes, path) in files {
            if bytes <= self.bytes_max / 4 * 3 && count <= FILES_MAX / 4 * 3 {
                break;
            }
            // Another report may have removed it.
            let _gone = fs::remove_file(path);
            bytes -= file_bytes;
            count -= 1;
        }
        Ok(())
    }
}

fn encode(key: &CacheKey, answers: &Answers, now: SystemTime) -> postcard::Result<Vec<u8>> {
    let mut texts = Texts::default();
    let mut stored: Vec<_> = answers
        .iter()
        .map(|(&address, symbols)| {
            let symbols = symbols.iter().map(|symbol| StoredSymbol {
                function: texts.position(&symbol.function),
                file: symbol.file.as_deref().map(|file| texts.position(file)),
                line: symbol.line,
                inlined: symbol.inlined,
                source: symbol.source,
            });
            (address, symbols.collect())
        })
        .collect();
    stored.sort_unstable_by_key(|&(address, _): &(u64, Vec<StoredSymbol>)| address);
    let stored = Stored {
        key: key.clone(),
        written_unix_s: unix_s(now),
        texts: texts.texts,
        answers: stored,
    };
    let content = postcard::to_stdvec(&stored)?;
    let crc = crc32fast::hash(&content).to_le_bytes();
    Ok([MAGIC.as_slice(), &crc, &content].concat())
}

/// `None` for what is damaged, of another version, or an answer to another question.
fn decode(bytes: &[u8], key: &CacheKey, now: SystemTime) -> Option<Answers> {
    let (header, content) = bytes.split_at_checked(HEADER_BYTES)?;
    let crc = header.strip_prefix(MAGIC.as_slice())?;
    if crc != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let stored: Stored = postcard::from_bytes(content).ok()?;
    if stored.key != *key {
        return None;
    }
    let age_s = unix_s(now).checked_sub(stored.written_unix_s);
    let is_fresh = age_s.is_some_and(|age_s| age_s < NOTHING_EXPIRES.as_secs());
    let text = |position: u32| stored.texts.get(usize::try_from(position).ok()?).cloned();
    let mut answers = Answers::default();
    for (address, symbols) in &stored.answers {
        let symbols: Option<Vec<Symbol>> = symbols
            .iter()
            .map(|symbol| {
                Some(Symbol {
                    function: text(symbol.function)?,
                    file: match symbol.file {
                        Some(file) => Some(text(file)?),
                        None => None,
                    },
                    line: symbol.line,
                    inlined: symbol.inlined,
                    source: symbol.source,
                })
            })
            .collect();
        let symbols = symbols?;
        if is_fresh || symbols.iter().any(|symbol| symbol.line.is_some()) {
            answers.insert(*address, symbols);
        }
    }
    Some(answers)
}

fn unix_s(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Texts, each once.
#[derive(Debug, Default)]
struct Texts {
    texts: Vec<String>,
    positions: FxHashMap<String, u32>,
}

impl Texts {
    fn position(&mut self, text: &str) -> u32 {
        if let Some(&position) = self.positions.get(text) {
            return position;
        }
        // As many texts as do not fit in memory would be needed for more.
        let position = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.to_owned());
        self.positions.insert(text.to_owned(), position);
        position
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NameFile, NameTable};
    use super::*;
    use proptest::prelude::*;

    fn key(build_id: &[u8], files: &[&Path]) -> CacheKey {
        CacheKey::new(Some(&BuildId(build_id.to_vec())), files.iter().copied()).unwrap()
    }

    fn symbol(function: &str, line: Option<u32>) -> Symbol {
        Symbol {
            function: function.to_owned(),
            file: line.map(|_| "a.c".to_owned()),
            line,
            inlined: false,
            source: NameSource {
                table: NameTable::Symtab,
                file: NameFile::Module,
            },
        }
    }

    fn answers() -> Answers {
        let both = vec![symbol("inner", Some(7)), symbol("outer", Some(9))];
        [
            (0x10, both),
            (0x20, vec![symbol("outer", None)]),
            (0x30, Vec::new()),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn answers_come_back_as_long_as_the_files_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, "1").unwrap();
        let cache = SymbolCache::new(folder.path().join("cache"));
        let before = key(&[1, 2, 3], &[&file]);
        assert!(cache.load(&before).is_empty());
        cache.store(&before, &answers());
        assert_eq!(cache.load(&before), answers());
        fs::write(&file, "22").unwrap();
        assert!(cache.load(&key(&[1, 2, 3], &[&file])).is_empty());
        assert!(cache.load(&key(&[1, 2, 4], &[Path::new("/")])).is_empty());
        // Of a file that takes another's place.
        let other = key(&[1, 2, 4], &[Path::new("/")]);
        let (from, to) = (cache.path(&before).unwrap(), cache.path(&other).unwrap());
        fs::copy(from, to).unwrap();
        assert!(cache.load(&other).is_empty());
    }

    #[test]
    fn a_module_without_a_build_id_is_told_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| fs::write(file, "1").unwrap());
        let [a, b] = files
            .each_ref()
            .map(|file| CacheKey::new(None, [file.as_path()]).unwrap());
        let cache = SymbolCache::new(folder.path().join("cache"));
        cache.store(&a, &answers());
        assert_eq!(cache.load(&a), answers());
        assert!(cache.load(&b).is_empty());
        assert_eq!(CacheKey::new(None, []), None);
    }

    #[test]
    fn what_had_no_name_or_line_is_asked_again_after_a_day() {
        let key = key(&[1, 2, 3], &[Path::new("/")]);
        let now = SystemTime::now();
        let bytes = encode(&key, &answers(), now).unwrap();
        assert_eq!(
            decode(&bytes, &key, now + NOTHING_EXPIRES / 2),
            Some(answers())
        );
        let later = decode(&bytes, &key, now + NOTHING_EXPIRES).unwrap();
        assert_eq!(later.keys().collect::<Vec<_>>(), [&0x10]);
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = SymbolCache::new(folder.path().to_owned());
        let keys: Vec<CacheKey> = (0..8).map(|id| key(&[id, id], &[Path::new("/")])).collect();
        for (key, age) in keys.iter().zip(0..) {
            cache.store(key, &answers());
            let file = File::options()
                .write(true)
                .open(cache.path(key).unwrap())
                .unwrap();
            let used = SystemTime::now() - Duration::from_secs(1000 - age);
            file.set_times(FileTimes::new().set_modified(used)).unwrap();
        }
        let bytes = fs::metadata(cache.path(&keys[0]).unwrap()).unwrap().len();
        cache.bytes_max = bytes * 8;
        // The first is used again.
        assert_eq!(cache.load(&keys[0]).len(), 3);
        cache.store(&key(&[9, 9], &[Path::new("/")]), &answers());
        cache.trim();
        let left: Vec<bool> = keys.iter().map(|key| !cache.load(key).is_empty()).collect();
        assert_eq!(left, [true, false, false, false, true, true, true, true]);
    }

    #[test]
    fn a_pipe_in_the_cache_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = SymbolCache::new(folder.path().to_owned());
        let key = key(&[1, 2, 3], &[Path::new("/")]);
        cache.store(&key, &answers());
        let path = cache.path(&key).unwrap();
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(cache.load(&key).is_empty());
    }

    proptest! {
        #[test]
        fn damage_is_no_answer(at in 0..400usize, byte: u8) {
            let key = key(&[1, 2, 3], &[Path::new("/")]);
            let now = SystemTime::now();
            let mut bytes = encode(&key, &answers(), now).unwrap();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert_eq!(decode(&bytes, &key, now), None);
            prop_assert_eq!(decode(&bytes[..at], &key, now), None);
        }

        #[test]
        fn any_content_ends_in_a_result(content in prop::collection::vec(any::<u8>(), 0..100)) {
            let key = key(&[1, 2, 3], &[Path::new("/")]);
            let crc = crc32fast::hash(&content).to_le_bytes();
            let bytes = [MAGIC.as_slice(), &crc, &content].concat();
            prop_assert_eq!(decode(&bytes, &key, SystemTime::now()), None);
        }
    }
}

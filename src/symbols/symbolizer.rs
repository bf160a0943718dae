//! Names from files: the implementation of [`Symbolize`] behind `sampler report`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampler_platforms::linux::shortened_file::shortened_files;
use sampler_unwind::{ElfImage, ImageBytes};

use super::cache::{CacheKey, SymbolCache};
use super::debuginfod::{Debuginfod, DebuginfodSettings};
use super::dwarf::{self, DwarfFiles};
use super::elf::Elf;
use super::files::{ElfOnDisk, ModuleFiles, SymbolPaths, has_build_id, module_name};
use super::functions::{CodeFunctions, symbols_at};
use super::mini_debug_info::mini_debug_info;
use super::pack::{PackSummary, PackWriter, SymbolPack};
use super::stand_ins::StandIns;
use super::symbol_table::FunctionSymbols;
use super::{NameFile, NameSource, NameTable, Symbol, Symbolize, go};
use crate::profile::ModuleInfo;

/// Names addresses by the files that a recording names, where they are still what ran.
///
/// Files are opened when a module is asked for and closed before the call returns: ask once per module, with all
/// addresses.
#[derive(Debug, Default)]
pub struct FileSymbolizer {
    paths: SymbolPaths,
    /// Functions that were inlined are left out.
    without_inlined: bool,
    cache: Option<SymbolCache>,
    has_trimmed_cache: bool,
    debuginfod: Option<Debuginfod>,
    /// Its folder is in `paths`.
    pack: Option<SymbolPack>,
    notes: Vec<String>,
}

/// The files of a module on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleSources {
    /// The file that ran.
    pub main: Option<PathBuf>,
    /// Its separate debug file.
    pub debug: Option<PathBuf>,
    /// Whether one of them has source lines.
    pub has_debug_info: bool,
}

impl FileSymbolizer {
    /// Looks for files where `paths` says.
    pub fn new(paths: SymbolPaths) -> Self {
        Self {
            paths,
            ..Self::default()
        }
    }

    /// Keeps answers in `cache`, and takes those of earlier reports from there.
    pub fn with_cache(self, cache: Option<SymbolCache>) -> Self {
        Self { cache, ..self }
    }

    /// Asks servers for debug files that are not here.
    pub fn with_debuginfod(self, settings: Option<DebuginfodSettings>) -> Self {
        let debuginfod = settings.map(Debuginfod::new);
        Self { debuginfod, ..self }
    }

    /// Looks for files in `pack` first. What comes from there is kept in no cache: its files go away.
    pub fn with_pack(mut self, pack: SymbolPack) -> Self {
        pack.add_to(&mut self.paths);
        self.cache = None;
        self.pack = Some(pack);
        self
    }

    /// Whether functions that the compiler inlined are named too.
    pub fn with_inlined(self, inlined: bool) -> Self {
        Self {
            without_inlined: !inlined,
            ..self
        }
    }
}

impl FileSymbolizer {
    /// Which files of `module` are here.
    pub fn sources(&mut self, module: &ModuleInfo) -> ModuleSources {
        if module.image.is_some() {
            return ModuleSources::default();
        }
        let files = self.find_files(module);
        let path = |file: &Option<ElfOnDisk>| file.as_ref().map(|file| file.path.clone());
        ModuleSources {
            main: path(&files.main),
            debug: path(&files.debug),
            has_debug_info: files.has_debug_info(),
        }
    }

    /// Writes what is needed to name code of `modules` elsewhere.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn pack(&mut self, modules: &[ModuleInfo], out: impl Write) -> io::Result<PackSummary> {
        let mut writer = PackWriter::create(out)?;
        for module in modules {
            let files = self.find_files(module);
            if files.main.is_none() && files.debug.is_none() {
                writer.note(module, "no file of it is here");
            }
            writer.add(module, &files)?;
            writer.add_shared(&self.paths, &files)?;
            writer.add_split(module, &self.paths, &files)?;
        }
        let mut summary = writer.finish()?;
        summary.notes.splice(0..0, self.notes.iter().cloned());
        Ok(summary)
    }
}

impl Symbolize for FileSymbolizer {
    fn symbolize(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let mut unique = addresses.to_vec();
        unique.sort_unstable();
        unique.dedup();
        let symbols = match &module.image {
            Some(image) if !module.path.starts_with('/') => {
                self.name_by_image(module, image, &unique)
            }
            _ => self.name_by_files(module, &unique),
        };
        addresses
            .iter()
            .map(|address| {
                let index = unique.binary_search(address).ok();
                let symbols = index
                    .and_then(|index| symbols.get(index))
                    .map_or(&[][..], Vec::as_slice);
                let skipped = if self.without_inlined {
                    symbols.len().saturating_sub(1)
                } else {
                    0
                };
                symbols[skipped..].to_vec()
            })
            .collect()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

impl FileSymbolizer {
    /// Names the `addresses`, in ascending order, by an image that the recording holds.
    fn name_by_image(
        &mut self,
        module: &ModuleInfo,
        image: &[u8],
        addresses: &[u64],
    ) -> Vec<Vec<Symbol>> {
        let elf = match Elf::parse(image) {
            Ok(elf) => elf,
            Err(error) => {
                self.note(module, &error);
                return Vec::new();
            }
        };
        let file = NameFile::Recording;
        let bytes = ImageBytes::new(Arc::new(image.to_vec()));
        let unwinding = ElfImage::parse_memory(bytes).ok();
        let stand_ins = unwinding
            .as_ref()
            .map(|image| StandIns::new(module_name(module), file, image, elf));
        let mut tables = FunctionSymbols::default();
        self.add_tables(module, &[(elf, file)], None, &mut tables);
        join(addresses, &mut tables, &[], stand_ins.as_ref())
    }

    /// The files of `module`, from servers too.
    pub(super) fn find_files(&mut self, module: &ModuleInfo) -> ModuleFiles {
        let mut files = self.paths.find(module);
        let main = files.main.as_ref();
        let build_id = module.build_id.clone().or_else(|| main?.build_id());
        if let (Some(debuginfod), Some(build_id)) = (&mut self.debuginfod, build_id)
            && files.debug.is_none()
            && !files.has_debug_info()
        {
            let is_right = |path: &Path| has_build_id(path, &build_id);
            let mut notes = Vec::new();
            if let Some(path) = debuginfod.find(&build_id, is_right, &mut notes) {
                files.set_debug(&path, &build_id);
            }
            if files.debug.is_some() {
                // Whatever was wrong with others is made good.
                files.refused.clear();
            }
            files.refused.append(&mut notes);
        }
        let path = |file: &Option<ElfOnDisk>| file.as_ref().map(|file| file.path.clone());
        tracing::debug!(module = ?module.path, main = ?path(&files.main), debug = ?path(&files.debug), "files with names");
        files.refused.drain(..).for_each(|note| self.add_note(note));
        files
    }

    /// Names the `addresses`, in ascending order, by the files of `module`, or by what they said before.
    fn name_by_files(&mut self, module: &ModuleInfo, addresses: &[u64]) -> Vec<Vec<Symbol>> {
        let files = self.find_files(module);
        let key = self.cache.as_ref().and_then(|_| cache_key(module, &files));
        let (Some(cache), Some(key)) = (self.cache.clone(), key) else {
            return self.ask_files(module, &files, addresses);
        };
        let mut answers = cache.load(&key);
        let is_new = |address: &u64| !answers.contains_key(address);
        let unknown: Vec<u64> = addresses.iter().copied().filter(is_new).collect();
        if !unknown.is_empty() {
            let notes = self.notes.len();
            let symbols = self.ask_files(module, &files, &unknown);
            answers.extend(unknown.into_iter().zip(symbols));
            // What is wrong with a file is to be told each time.
            if self.notes.len() == notes {
                cache.store(&key, &answers);
                if !std::mem::replace(&mut self.has_trimmed_cache, true) {
                    cache.trim();
                }
            }
        }
        let take = |address: &u64| answers.remove(address).unwrap_or_default();
        addresses.iter().map(take).collect()
    }

    /// Names the `addresses`, in ascending order, by `files`, and tells if one of them lost its end meanwhile.
    fn ask_files(
        &mut self,
        module: &ModuleInfo,
        files: &ModuleFiles,
        addresses: &[u64],
    ) -> Vec<Vec<Symbol>> {
        let shortened = shortened_files();
        let symbols = self.ask_whole_files(module, files, addresses);
        if shortened_files() > shortened {
            self.note(
                module,
                &"a file became shorter while it was read: names may be missing",
            );
        }
        symbols
    }

    fn ask_whole_files(
        &mut self,
        module: &ModuleInfo,
        files: &ModuleFiles,
        addresses: &[u64],
    ) -> Vec<Vec<Symbol>> {
        let functions = self.ask_for_lines(module, files, addresses);
        let mut elfs: Vec<(Elf<'_>, NameFile)> = [&files.main, &files.debug]
            .into_iter()
            .flatten()
            .filter_map(|file| Some((file.elf().ok()?, file.found)))
            .collect();
        // What the recording kept of a file that was not at its path, behind the file itself if it was found elsewhere.
        let kept = module
            .image
            .as_deref()
            .and_then(|image| Elf::parse(image).ok());
        elfs.extend(kept.map(|elf| (elf, NameFile::Recording)));
        let unpacked = self.unpack_mini_debug_info(module, &elfs);
        let mini = unpacked.as_ref().map(|(bytes, file)| (&bytes[..], *file));
        let mut tables = FunctionSymbols::default();
        self.add_tables(module, &elfs, mini, &mut tables);
        let stand_ins = files.main.as_ref().and_then(|main| {
            let (image, elf) = (main.image()?, main.elf().ok()?);
            Some(StandIns::new(module_name(module), main.found, image, elf))
        });
        join(addresses, &mut tables, &functions, stand_ins.as_ref())
    }

    /// Asks Go's own table and DWARF, which know lines and what was inlined; one answer for each of `addresses`.
    fn ask_for_lines(
        &mut self,
        module: &ModuleInfo,
        files: &ModuleFiles,
        addresses: &[u64],
    ) -> Vec<Option<CodeFunctions>> {
        let go = files
            .main
            .as_ref()
            .and_then(|main| go::look_up(main.image()?, main.found, addresses));
        let Some(go) = go else {
            return self.ask_dwarf(module, files, addresses);
        };
        let by_go = |index: &usize| go.functions.get(*index).is_some_and(Option::is_some);
        let (rest, rest_addresses): (Vec<usize>, Vec<u64>) = addresses
            .iter()
            .enumerate()
            .filter(|(index, _)| !(go.is_complete && by_go(index)))
            .map(|(index, address)| (index, *address))
            .unzip();
        let mut functions = go.functions;
        let by_dwarf = self.ask_dwarf(module, files, &rest_addresses);
        for (index, found) in rest.into_iter().zip(by_dwarf) {
            if let (Some(place), Some(found)) = (functions.get_mut(index), found)
                && (place.is_none() || found.name.is_some())
            {
                *place = Some(found);
            }
        }
        functions
    }

    /// Adds the first `.symtab` among `elfs` that holds functions, else the one in `mini_debug_info`, and every
    /// `.dynsym`.
    fn add_tables<'data>(
        &mut self,
        module: &ModuleInfo,
        elfs: &[(Elf<'data>, NameFile)],
        mini_debug_info: Option<(&'data [u8], NameFile)>,
        tables: &mut FunctionSymbols<'data>,
    ) {
        let mini = mini_debug_info.and_then(|(bytes, file)| match Elf::parse(bytes) {
            Ok(elf) => Some((elf, file, NameTable::MiniDebugInfo)),
            Err(error) => {
                self.note(module, &error);
                None
            }
        });
        let whole = elfs
            .iter()
            .map(|(elf, file)| (elf, *file, NameTable::Symtab));
        let mini = mini.iter().map(|(elf, file, table)| (elf, *file, *table));
        for (elf, file, table) in whole.chain(mini) {
            match tables.add_symbol_table(elf, NameSource { table, file }) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => self.note(module, &error),
            }
        }
        for (elf, file) in elfs {
            if let Err(error) = tables.add_dynamic_symbols(elf, *file) {
                self.note(module, &error);
            }
        }
    }

    /// MiniDebugInfo is what a file has instead of a `.symtab`.
    fn unpack_mini_debug_info(
        &mut self,
        module: &ModuleInfo,
        elfs: &[(Elf<'_>, NameFile)],
    ) -> Option<(Vec<u8>, NameFile)> {
        let has_symbols =
            |elf: &Elf<'_>| elf.symbol_table().is_ok_and(|symbols| !symbols.is_empty());
        if elfs.iter().any(|(elf, _)| has_symbols(elf)) {
            return None;
        }
        let packed = |(elf, file): &(Elf<'_>, _)| Some((mini_debug_info(elf)?, *file));
        match elfs.iter().find_map(packed)? {
            (Ok(unpacked), file) => Some((unpacked, file)),
            (Err(error), _) => {
                self.note(module, &format!(".gnu_debugdata: {error}"));
                None
            }
        }
    }

    /// Asks the DWARF of the debug file, or else of the file itself.
    fn ask_dwarf(
        &mut self,
        module: &ModuleInfo,
        files: &ModuleFiles,
        addresses: &[u64],
    ) -> Vec<Option<CodeFunctions>> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let Some(file) = files
            .with_dwarf()
            .filter(|file| self.is_plausible(module, file))
        else {
            return Vec::new();
        };
        let dwarf_files = DwarfFiles {
            file,
            main: files.main.as_ref(),
            paths: &self.paths,
        };
        match dwarf::look_up(dwarf_files, addresses) {
            Ok(answer) => {
                for note in &answer.notes {
                    self.note(module, note);
                }
                if answer.damaged > 0 {
                    self.note(
                        module,
                        &format!(
                            "its debug information is damaged: no lines for {} of {} addresses",
                            answer.damaged,
                            addresses.len()
                        ),
                    );
                }
                answer.functions
            }
            Err(error) => {
                self.note(module, &error);
                Vec::new()
            }
        }
    }

    fn is_plausible(&mut self, module: &ModuleInfo, file: &ElfOnDisk) -> bool {
        match file.elf().ok().and_then(|elf| elf.overstated_section()) {
            Some(section) => {
                self.note(
                    module,
                    &format!(
                        "its debug information is not used: {section} states a size it cannot have"
                    ),
                );
                false
            }
            None => true,
        }
    }

    fn note(&mut self, module: &ModuleInfo, what: &dyn std::fmt::Display) {
        self.add_note(format!("{}: {what}", module_name(module)));
    }

    /// Two modules can share a debug file, and one can be asked for twice.
    fn add_note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// What answers about `module` depend on; `None` for one that cannot be told from others.
fn cache_key(module: &ModuleInfo, files: &ModuleFiles) -> Option<CacheKey> {
    let paths = [&files.main, &files.debug].into_iter().flatten();
    CacheKey::new(
        module.build_id.as_ref(),
        paths.map(|file| file.path.as_path()),
    )
}

/// Brings together what the symbol tables and other sources say about each of `addresses`.
fn join(
    addresses: &[u64],
    tables: &mut FunctionSymbols<'_>,
    functions: &[Option<CodeFunctions>],
    stand_ins: Option<&StandIns<'_>>,
) -> Vec<Vec<Symbol>> {
    addresses
        .iter()
        .zip(tables.names_at(addresses))
        .enumerate()
        .map(|(index, (address, named))| {
            let code = functions.get(index).and_then(Option::as_ref);
            let is_named = named.is_some() || code.is_some_and(|code| code.name.is_some());
            let named = named.or_else(|| match is_named {
                true => None,
                false => stand_ins?.name_at(*address),
            });
            symbols_at(named.as_ref(), code)
        })
        .collect()
}

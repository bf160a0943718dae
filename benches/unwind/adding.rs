//! What it costs to take in a module while recording: the Rust compiler's library, with more than 100 MB of code.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sampler_platforms::MappedFile;
use sampler_unwind::{
    Arch, Avma, ElfImage, ImageBytes, LoadBias, Module, Modules, Registers, SliceMemory, Stack,
    Unwinder,
};

/// Prints the median of `rounds`: to map and parse the file, and to find the rule for one address in it.
pub(crate) fn adding(rounds: usize) {
    let path = compiler_library();
    let name = path.file_name().unwrap_or_default().display();
    let mut adding = Vec::new();
    let mut first_rule = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let file = File::open(&path).expect("the compiler's library can be read");
        let bytes = MappedFile::map(&file).expect("it can be mapped");
        let image = ElfImage::parse(ImageBytes::new(Arc::new(bytes))).expect("it is an ELF file");
        adding.push(began.elapsed());
        first_rule.push(first_rule_in(image));
    }
    println!(
        "\n{name}: added in {:.1} µs, the rule for its first address in {:.1} µs (medians of {rounds})",
        micros(adding),
        micros(first_rule)
    );
}

/// The library of the `rustc` that is in use.
fn compiler_library() -> PathBuf {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .expect("rustc has built this bench");
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let libraries = fs::read_dir(PathBuf::from(sysroot).join("lib")).expect("it has libraries");
    libraries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("librustc_driver"))
        })
        .expect("the compiler is one of them")
}

/// Walks from the middle of its code; there is no stack to go on with.
fn first_rule_in(image: ElfImage) -> Duration {
    let code = image
        .segments()
        .iter()
        .find(|segment| segment.executable)
        .expect("it has code")
        .svma
        .clone();
    let whole = Avma(0)..Avma(code.end.0);
    let module = Module {
        avma: whole.clone(),
        bias: LoadBias(0),
        image: Arc::new(image),
    };
    let modules = Modules::new(vec![module], vec![whole]);
    let middle = Avma(code.start.0 + (code.end.0 - code.start.0) / 2);
    let start = Registers::at(&Arch::X86_64, middle, Avma(1 << 40));
    let memory = SliceMemory::new(Avma(0), &[]);
    let (mut unwinder, mut stack) = (Unwinder::new(), Stack::empty());
    let began = Instant::now();
    unwinder.walk(&modules, &start, &memory, &mut stack);
    began.elapsed()
}

fn micros(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    median.as_secs_f64() * 1e6
}

//! The command `sampler`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sampler::cli::run(std::env::args_os()).into()
}

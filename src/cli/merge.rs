//! `sampler merge`: one recording of several.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;

use super::export_args::MergeOptions;
use super::options::Output;
use crate::recording::{RecordingFile, merge};

/// Merges recordings.
///
/// # Errors
/// When one of them cannot be read, or the new one not be written: then there is none.
pub fn run(options: &MergeOptions) -> anyhow::Result<()> {
    let path = match &options.output {
        Output::Stdout => Path::new("-"),
        Output::File(path) => path,
    };
    // Each is opened twice: they are put in order by when they began.
    let open = |position: usize| {
        let path = &options.inputs[position];
        File::open(path).map(BufReader::new)
    };
    let output = RecordingFile::create(path)?;
    match merge(options.inputs.len(), open, output) {
        Ok(output) => Ok(output.finish()?),
        Err(error) => {
            let which = error
                .input()
                .and_then(|position| options.inputs.get(position));
            let which = which.map(|path| path.display().to_string());
            Err(error).with_context(|| match which {
                Some(which) => format!("cannot merge {which}"),
                None => "cannot merge".to_owned(),
            })
        }
    }
}

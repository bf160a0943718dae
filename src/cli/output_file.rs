//! Files that are written for the user: they are the user's, also where sudo runs us.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use sampler_platforms::linux::privileges::{self, Owner};

/// Creates `path`, or empties what is there.
///
/// # Errors
/// What the kernel answers.
pub fn create(path: &Path) -> io::Result<File> {
    privileges::with_rights_to_write(|| {
        let is_new = fs::symlink_metadata(path).is_err();
        let file = File::create(path)?;
        // What was there before keeps its owner.
        if let (true, Some(owner)) = (is_new, owner()) {
            owner.take(&file)?;
        }
        Ok(file)
    })
}

/// Whose files are to be, if not our own.
pub fn owner() -> Option<Owner> {
    Owner::behind_sudo(|name| env::var_os(name))
}

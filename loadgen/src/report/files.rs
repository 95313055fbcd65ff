//! The files that a measurement leaves behind. Whether they can be written is asked before it begins: an hour of measuring should not
//! end in a misspelt folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;

use crate::options::OutputOptions;

/// Refuses files, each with its option, that could not be written at the end. Changes none: what does not exist yet does not exist
/// afterwards either.
pub fn check(files: &[(&str, impl AsRef<Path> + PartialEq)]) -> Result<(), String> {
    for (number, (option, path)) in files.iter().enumerate() {
        if let Some((other, _)) = files[..number].iter().find(|(_, earlier)| earlier == path) {
            return Err(format!("{other} and {option} name the same file, {}", path.as_ref().display()));
        }
        try_out(path.as_ref()).map_err(|error| format!("{option} {} cannot be written: {error}", path.as_ref().display()))?;
    }
    Ok(())
}

fn try_out(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => OpenOptions::new().append(true).open(path).map(drop),
        // A pipe or a device: whoever reads it would notice.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            File::create(path)?;
            // Behind a link that led nowhere, what was made is not the link.
            fs::remove_file(fs::canonicalize(path)?)
        }
        Err(error) => Err(error),
    }
}

/// Writes the files that are asked for.
pub fn write_all(
    output: &OutputOptions,
    document: &impl Serialize,
    csv: impl FnOnce() -> String,
    html: impl FnOnce() -> String,
) -> Result<(), String> {
    if let Some(path) = &output.json {
        let json = serde_json::to_string_pretty(document).map_err(|error| error.to_string())?;
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &output.csv {
        write(path, &csv())?;
    }
    if let Some(path) = &output.html {
        write(path, &html())?;
    }
    Ok(())
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_and_nothing_is_left_behind() {
        let folder = std::env::temp_dir().join(format!("loadgen-files-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (old, new, link) = (folder.join("old"), folder.join("new"), folder.join("link"));
        fs::write(&old, "kept").expect("a file");
        std::os::unix::fs::symlink(folder.join("nowhere"), &link).expect("a link");
        assert_eq!(check(&[("--json", &old), ("--csv", &new), ("--html", &link), ("--svg", &"/dev/null".into())]), Ok(()));
        assert_eq!(fs::read_to_string(&old).expect("still there"), "kept");
        assert!(!new.exists() && !folder.join("nowhere").exists() && fs::symlink_metadata(&link).is_ok());
        for wrong in [folder.clone(), folder.join("no/such/folder"), old.join("below a file"), "/proc/loadgen".into()] {
            let error = check(&[("--html", &wrong)]).expect_err("refused");
            assert!(error.starts_with(&format!("--html {} cannot be written: ", wrong.display())), "{error}");
        }
        let error = check(&[("--json", &new), ("--html", &new)]).expect_err("refused");
        assert!(error.contains("--json and --html name the same file"), "{error}");
        fs::remove_dir_all(&folder).expect("the folder goes");
    }
}

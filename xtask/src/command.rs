//! Running other programs, with errors that say what was run and what it said.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that an error shows.
const SHOWN_LINES: usize = 15;

/// Runs to the end and returns what it wrote to standard output.
///
/// # Errors
/// If it cannot be started, or fails; then with the end of what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.trim().lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
        bail!("{} failed ({}):\n  {tail}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end with the terminal's input and output.
pub(crate) fn attached(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| start_error(command))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Whether it can be started and succeeds; what it says is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    run(command).is_ok_and(|output| output.status.success())
}

/// Whether there is a program of this name.
pub(crate) fn exists(program: &str) -> bool {
    let started = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    !matches!(started, Err(error) if error.kind() == ErrorKind::NotFound)
}

fn run(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| start_error(command))
}

fn start_error(command: &Command) -> String {
    format!("cannot start {}", command.get_program().display())
}

/// The command line as a person would type it, without the program's folder.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

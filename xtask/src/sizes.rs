//! Holds source files to a size at which they have one subject.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Non-test lines above which a split is asked for.
const HINT_LINES: usize = 400;

/// Non-test lines above which the check fails.
const MOST_LINES: usize = 600;

/// Checks every Rust file of the checkout, tests left out.
///
/// # Errors
/// If one is too long.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut too_long = 0;
    for path in &files {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = product_lines(&text);
        let shown = path.strip_prefix(root).unwrap_or(path).display();
        if lines > MOST_LINES {
            println!("{shown}: {lines} non-test lines, at most {MOST_LINES} are allowed");
            too_long += 1;
        } else if lines > HINT_LINES {
            println!("{shown}: {lines} non-test lines, look for a split");
        }
    }
    if too_long > 0 {
        bail!("{too_long} files are too long");
    }
    println!("{} files checked, none above {MOST_LINES} non-test lines", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            // Whatever it is called, a target directory carries cargo's mark.
            let built = path.join("CACHEDIR.TAG").exists();
            if !built && !name.starts_with('.') && name != "tests" && name != "target" {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// The lines before the first inline module under `#[cfg(test)]`.
fn product_lines(text: &str) -> usize {
    let mut marked_at = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.starts_with("#[cfg(test)]") {
            marked_at = Some(number);
        } else if !line.starts_with("#[") {
            match marked_at.take() {
                Some(start) if opens_module(line) => return start,
                _ => {}
            }
        }
    }
    text.lines().count()
}

fn opens_module(line: &str) -> bool {
    let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
    line.starts_with("mod ") && line.trim_end().ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::product_lines;

    #[test]
    fn an_inline_test_module_ends_the_count() {
        assert_eq!(product_lines("fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(
            product_lines("fn a() {}\n#[cfg(test)]\n#[expect(x)]\npub(crate) mod tests {\n}\n"),
            1
        );
    }

    #[test]
    fn other_uses_of_the_attribute_do_not() {
        assert_eq!(product_lines("#[cfg(test)]\nmod tests;\nfn a() {}\n"), 3);
        assert_eq!(product_lines("#[cfg(test)]\nuse x;\nmod a {\n}\n"), 4);
        assert_eq!(product_lines("fn a() {}\n"), 1);
    }
}

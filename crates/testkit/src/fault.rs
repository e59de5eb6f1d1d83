//! Faults of the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::dirs::temp_dir;
use crate::user::is_root;

/// A file system of a few MiB: when it is full, writing fails with ENOSPC. Only root can mount it; without root use
/// [`Program::file_size_limit`](crate::process::Program::file_size_limit), where a file grows no further than its limit.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts a memory file system that holds `mib` MiB. An error when this process may not mount.
    pub fn mount(mib: u32) -> Result<SmallDisk> {
        if !is_root() {
            bail!("only root can mount a small disk\nhint: limit the size of the program's files instead");
        }
        let dir = temp_dir("disk")?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0777"), "small-disk"])
            .arg(dir.path()))?;
        Ok(SmallDisk { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives it another size, as an operator who adds space would.
    pub fn resize(&self, mib: u32) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={mib}m")]).arg(self.dir.path()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a program under test may still hold a file; the memory is freed with the last of them.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(self.dir.path())) {
            eprintln!("a small disk stays mounted: {error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_small_disk_fills_and_grows_or_is_refused_clearly() {
        let disk = match SmallDisk::mount(1) {
            Ok(disk) => disk,
            Err(error) => {
                assert!(!is_root() || error.to_string().contains("mount failed"), "{error}");
                return;
            }
        };
        let file = disk.path().join("file");
        assert_eq!(std::fs::write(&file, vec![1; 2 << 20]).unwrap_err().kind(), ErrorKind::StorageFull);
        disk.resize(4).unwrap();
        std::fs::write(&file, vec![1; 2 << 20]).unwrap();
        let path = disk.path().to_owned();
        drop(disk);
        assert!(!path.exists());
    }
}

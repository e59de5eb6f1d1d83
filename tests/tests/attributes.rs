//! What a file has besides its content, through a backup and a restore by the real programs: user attributes, ACLs, file
//! capabilities, devices, owners, and that a change of them alone is not missed.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use breakwater_testkit::user::is_root;
use breakwater_tests::Fleet;
use breakwater_tests::brctl::{number, text};
use breakwater_tests::fleet::AGENT;
use breakwater_tests::source::plan_yaml;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lsetxattr, makedev, mknodat};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";

/// An ACL as the kernel keeps it: the owner, one user by number with `right`, the group, the mask, others.
fn acl(right: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, right, id) in
        [(1_u16, 6_u16, u32::MAX), (2, right, 4321), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(right.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_bind_service=ep`, as the kernel keeps it.
fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 10, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Sets an attribute; `false`, with a line that says why, where the file system of the test has no such thing.
fn set(path: &Path, name: &str, value: &[u8]) -> Result<bool> {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(error @ (rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM)) => {
            println!("without `{name}`: {} does not take it: {error}", path.display());
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("set {name} of {}", path.display())),
    }
}

/// All attributes of an entry by name.
fn attributes(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut buffer = vec![0; 64 << 10];
    let length = match llistxattr(path, buffer.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error).with_context(|| format!("list the attributes of {}", path.display())),
    };
    let names: Vec<String> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    let mut found = Vec::new();
    for name in names {
        let length = lgetxattr(path, name.as_str(), buffer.as_mut_slice()).with_context(|| name.clone())?;
        found.push((name, buffer[..length].to_vec()));
    }
    found.sort();
    Ok(found)
}

/// What is planted; how many attributes the file system took.
fn plant(root: &Path) -> Result<usize> {
    std::fs::create_dir_all(root.join("shared/inner"))?;
    for name in ["plain", "tagged", "listed", "server", "setuid", "shared/inner/x"] {
        std::fs::write(root.join(name), format!("content of {name}"))?;
    }
    std::os::unix::fs::symlink("nowhere", root.join("link"))?;
    std::fs::hard_link(root.join("tagged"), root.join("shared/tagged"))?;
    if is_root() {
        for (name, uid) in [("plain", 1234), ("server", 1235), ("setuid", 1236), ("shared", 1237), ("link", 1238)] {
            std::os::unix::fs::lchown(root.join(name), Some(uid), Some(uid + 1000))?;
        }
        let device = |name: &str, kind, number| mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), number);
        device("null", FileType::CharacterDevice, makedev(1, 3)).context("make a device")?;
        device("disk", FileType::BlockDevice, makedev(259, 70_000)).context("make a device")?;
    } else {
        println!("without owners and devices: these take root");
    }
    // After the owners, whose change takes these bits and capabilities away.
    std::fs::set_permissions(root.join("setuid"), std::fs::Permissions::from_mode(0o6755))?;
    let binary: Vec<u8> = (0..=255).collect();
    let (long, none) = (vec![b'x'; 2000], Vec::new());
    let mut wanted = vec![
        ("tagged", "user.colour", b"blue".to_vec()),
        ("tagged", "user.binary", binary),
        ("tagged", "user.empty", none),
        ("shared", "user.of a directory", long),
        ("listed", ACCESS, acl(6)),
        ("shared", ACCESS, acl(4)),
        ("shared/inner", DEFAULT, acl(6)),
    ];
    if is_root() {
        wanted.push(("server", CAPABILITY, capability()));
        wanted.push(("plain", "trusted.mark", b"ours".to_vec()));
        wanted.push(("link", "trusted.of a link", b"1".to_vec()));
    }
    let mut taken = 0;
    for (name, attribute, value) in wanted {
        taken += usize::from(set(&root.join(name), attribute, &value)?);
    }
    Ok(taken)
}

/// That one tree is the other, in all that the kernel tells of each entry but the times of reading and change.
fn same(one: &Path, other: &Path) -> Result<usize> {
    let (x, y) = (one.symlink_metadata()?, other.symlink_metadata().with_context(|| other.display().to_string())?);
    let told = |meta: &std::fs::Metadata| {
        let owner = (meta.uid(), meta.gid());
        (meta.mode(), owner, meta.rdev(), meta.mtime(), meta.mtime_nsec(), if meta.is_dir() { 0 } else { meta.nlink() })
    };
    ensure!(told(&x) == told(&y), "{}: {:?} and {:?}", other.display(), told(&x), told(&y));
    let (a, b) = (attributes(one)?, attributes(other)?);
    ensure!(a == b, "{}: attributes {a:?} and {b:?}", other.display());
    let mut count = a.len();
    if x.is_dir() {
        let mut names = [one, other].map(|tree| -> Result<Vec<_>> {
            let entries = std::fs::read_dir(tree)?;
            let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
            names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
            Ok(names)
        });
        let [left, right] = &mut names;
        let (left, right) = (std::mem::replace(left, Ok(Vec::new()))?, std::mem::replace(right, Ok(Vec::new()))?);
        ensure!(left == right, "{}: {left:?} and {right:?}", other.display());
        for name in left {
            count += same(&one.join(&name), &other.join(&name))?;
        }
    } else if x.is_file() {
        ensure!(std::fs::read(one)? == std::fs::read(other)?, "{} differs", other.display());
    } else if x.is_symlink() {
        ensure!(std::fs::read_link(one)? == std::fs::read_link(other)?, "{} leads elsewhere", other.display());
    } else {
        ensure!(x.file_type().is_char_device() || x.file_type().is_block_device(), "{}", one.display());
    }
    Ok(count)
}

#[tokio::test]
async fn attributes_acls_capabilities_devices_and_owners_come_back() -> Result<()> {
    let mut fleet = Fleet::builder().start().await?;
    let root = fleet.home().join("docs");
    let taken = plant(&root)?;
    let declared = format!(
        "apiVersion: breakwater/v1\nkind: Source\nmetadata: {{name: docs}}\nspec:\n  agent: {AGENT}\n  files: {{paths: [\"{}\"]}}\n---\n{}",
        root.display(),
        plan_yaml("nightly", &["docs"])
    );
    fleet.apply(&declared).await?;
    let first = fleet.backup("nightly").await?;
    let target = fleet.target("first");
    let restored = fleet.restore("docs", &["--latest"], &target).await?;
    let compared = same(&root, &target.join("docs"))?;
    // A link has its file's attributes, and an inner directory's may be counted twice by the kernel: never fewer.
    ensure!(compared >= taken, "{taken} attributes were set, {compared} compared");
    let warnings = restored["summary"]["warnings"].as_array().map_or(0, Vec::len);
    ensure!(warnings == 0, "all of it was put back, and yet: {restored:#}");

    // A change of metadata alone is seen, although neither content, size nor time of content change.
    let changed = set(&root.join("listed"), ACCESS, &acl(4))?;
    let changed = set(&root.join("tagged"), "user.colour", b"green")? || changed;
    std::fs::set_permissions(root.join("plain"), std::fs::Permissions::from_mode(0o600))?;
    let second = fleet.backup("nightly").await?;
    let shown = fleet.brctl().json(&["snapshot", "show", text(&second, "snapshot_id")?]).await?;
    ensure!(number(&shown, "files")? > 0, "{shown:#}");
    let target = fleet.target("second");
    fleet.restore("docs", &["--latest"], &target).await?;
    same(&root, &target.join("docs")).context("after a change of metadata alone")?;
    if changed {
        let target = fleet.target("first again");
        fleet.restore("docs", &["--snapshot", text(&first, "snapshot_id")?], &target).await?;
        ensure!(same(&root, &target.join("docs")).is_err(), "the first snapshot still has the old ones");
    }
    fleet.agent().stop().await
}

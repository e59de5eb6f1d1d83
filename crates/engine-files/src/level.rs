//! The names in one directory, in the order of the tree.
//!
//! A tree is sorted by whole paths, in which `a-b` comes before `a/x` but after `a`. So a directory occurs twice among the
//! names beside it: as itself, and, where its content belongs, as its name with a slash.

use std::cmp::Ordering;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use crate::look::{self, Kind};

/// Bytes of names that one call brings.
const BUFFER: usize = 32 << 10;

/// What comes next in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The entry of this number.
    Entry(usize),
    /// What lies in the directory of this number.
    Content(usize),
}

/// The names of one directory; each ends with a zero byte.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    /// Where each name lies, its end included.
    places: Vec<Range<usize>>,
    steps: Vec<Step>,
    next: usize,
}

impl Names {
    /// Reads the names in `directory`. After an error in the middle the names so far are there, with the error.
    pub(crate) fn read(directory: &OwnedFd) -> (Names, Option<Errno>) {
        let mut names = Names::default();
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER];
        let mut entries = RawDir::new(directory, &mut buffer);
        let failure = loop {
            let entry = match entries.next() {
                None => break None,
                Some(Err(Errno::INTR)) => continue,
                Some(Err(error)) => break Some(error),
                Some(Ok(entry)) => entry,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say.
                FileType::Unknown => look::at(directory.as_fd(), name).is_ok_and(|look| look.kind == Kind::Directory),
                _ => false,
            };
            names.push(name, is_directory);
        };
        names.sort();
        (names, failure)
    }

    /// These directories, for the level above all roots.
    pub(crate) fn of_directories<'a>(directories: impl Iterator<Item = &'a CStr>) -> Names {
        let mut names = Names::default();
        for name in directories {
            names.push(name, true);
        }
        names.sort();
        names
    }

    fn push(&mut self, name: &CStr, is_directory: bool) {
        let (number, start) = (self.places.len(), self.bytes.len());
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
        self.places.push(start..self.bytes.len());
        self.steps.push(Step::Entry(number));
        if is_directory {
            self.steps.push(Step::Content(number));
        }
    }

    fn sort(&mut self) {
        let mut steps = std::mem::take(&mut self.steps);
        steps.sort_unstable_by(|one, other| self.compare(*one, *other));
        self.steps = steps;
    }

    fn compare(&self, one: Step, other: Step) -> Ordering {
        let parts = |step| match step {
            Step::Entry(number) => (self.bytes_of(number), &b""[..]),
            Step::Content(number) => (self.bytes_of(number), &b"/"[..]),
        };
        let ((one, one_end), (other, other_end)) = (parts(one), parts(other));
        let common = one.len().min(other.len());
        match one.get(..common).cmp(&other.get(..common)) {
            Ordering::Equal => {
                let rest = |name: &'_ [u8], end: &'static [u8]| [name.get(common..).unwrap_or_default(), end].concat();
                rest(one, one_end).cmp(&rest(other, other_end))
            }
            order => order,
        }
    }

    /// The name of this number.
    pub(crate) fn name(&self, number: usize) -> &CStr {
        CStr::from_bytes_with_nul(self.place(number)).unwrap_or_default()
    }

    /// The same without its end.
    fn bytes_of(&self, number: usize) -> &[u8] {
        self.place(number).split_last().map_or(&[], |(_, name)| name)
    }

    fn place(&self, number: usize) -> &[u8] {
        let place = self.places.get(number).cloned().unwrap_or_default();
        self.bytes.get(place).unwrap_or_default()
    }

    /// Whether `name` is among them.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        let found = |step: &Step| match *step {
            Step::Entry(number) => self.bytes_of(number).cmp(name),
            Step::Content(number) => [self.bytes_of(number), b"/"].concat().as_slice().cmp(name),
        };
        self.steps.binary_search_by(found).is_ok()
    }

    /// Drops all names but `name`.
    pub(crate) fn keep_only(&mut self, name: &[u8]) {
        let steps = std::mem::take(&mut self.steps);
        self.steps = steps
            .into_iter()
            .filter(|step| matches!(step, Step::Entry(number) if self.bytes_of(*number) == name))
            .collect();
    }

    /// What comes next.
    pub(crate) fn step(&mut self) -> Option<Step> {
        let step = self.steps.get(self.next).copied();
        self.next += 1;
        step
    }

    /// How many entries there are still to come.
    pub(crate) fn left(&self) -> usize {
        let rest = self.steps.get(self.next..).unwrap_or_default();
        rest.iter().filter(|step| matches!(step, Step::Entry(_))).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::CString;

    use super::*;

    #[test]
    fn steps_come_in_the_order_of_whole_paths() {
        let directories = ["a", "a-b", "a.d", "a0", "b", "a-"];
        let names: Vec<CString> = directories.iter().map(|name| CString::new(*name).unwrap()).collect();
        let mut names = Names::of_directories(names.iter().map(CString::as_c_str));
        let mut shown = Vec::new();
        while let Some(step) = names.step() {
            shown.push(match step {
                Step::Entry(number) => names.name(number).to_str().unwrap().to_owned(),
                Step::Content(number) => format!("{}/", names.name(number).to_str().unwrap()),
            });
        }
        let expected: BTreeSet<String> =
            directories.iter().flat_map(|name| [(*name).to_owned(), format!("{name}/")]).collect();
        assert_eq!(shown, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn names_are_found_and_dropped() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["x", "a", "repo.old", "rep"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        std::fs::create_dir(directory.path().join("repo")).unwrap();
        let open: OwnedFd = std::fs::File::open(directory.path()).unwrap().into();
        let (mut names, failure) = Names::read(&open);
        assert_eq!(failure, None);
        assert_eq!(names.left(), 5);
        for name in ["x", "a", "repo", "repo.old", "rep"] {
            assert!(names.contains(name.as_bytes()), "{name}");
        }
        assert!(!names.contains(b"re") && !names.contains(b"repo."));
        names.keep_only(b"repo");
        assert_eq!(names.left(), 1, "the directory stays, its content does not");
        assert!(matches!(names.step(), Some(Step::Entry(_))));
        assert_eq!(names.step(), None);
    }
}

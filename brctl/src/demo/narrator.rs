//! Tells what happens: numbered steps, what was shown, and what was proven.

use std::io::Write;
use std::time::Instant;

/// The voice of the story. It goes to standard output; where nobody listens, the story goes on.
#[derive(Debug)]
pub(super) struct Narrator {
    begun: Instant,
    steps: usize,
    quiet: bool,
    proven: Vec<String>,
}

impl Narrator {
    /// Begins now; a quiet one tells the end only.
    pub(super) fn new(quiet: bool) -> Self {
        Narrator { begun: Instant::now(), steps: 0, quiet, proven: Vec::new() }
    }

    /// A new step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let (step, elapsed) = (self.steps, self.begun.elapsed().as_secs_f64());
        self.line(&format!("\n{step}. {title}  ({elapsed:.1}s)"));
    }

    /// A sentence of the present step.
    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("   {line}"));
        }
    }

    /// A command that a person would type for what follows.
    pub(super) fn command(&self, words: &str) {
        self.line(&format!("   $ brctl {words}"));
    }

    /// Something that was checked and holds.
    pub(super) fn proven(&mut self, text: String) {
        self.line(&format!("   ok: {text}"));
        self.proven.push(text);
    }

    /// The end of a good story.
    pub(super) fn end(&self) {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let mut text = format!("\nWhat was proven, in {elapsed:.1} s:\n");
        for one in &self.proven {
            text.push_str(&format!("  * {one}\n"));
        }
        text.push_str("\nTo try it with a database of yours: brctl dev --data-dir DIR\n");
        write(&text);
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            write(&format!("{text}\n"));
        }
    }
}

fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

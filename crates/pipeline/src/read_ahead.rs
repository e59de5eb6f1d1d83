//! Segments of a plan's log, read ahead of the database that replays them.
//!
//! A database asks for one segment after the other and waits for each; from a distant region that wait is most of a
//! recovery. The next ones are fetched, opened and checked while it replays the last one.
//!
//! Invariant: what is answered is what the reader would answer; a segment that could not be read ahead is read again when it
//! is asked for, and only then is an error an answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use breakwater_repository::stream::{LogPlan, LogReader, StreamError};
use tokio::task::JoinHandle;

/// Segments read ahead at most.
const AHEAD: u64 = 4;

/// Bytes read ahead at most.
const AHEAD_BYTES: u64 = 64 << 20;

type Answer = Result<Option<Vec<u8>>, StreamError>;

/// Where segments come from.
#[async_trait::async_trait]
trait Segments: Send + Sync + 'static {
    /// The segment of `size` bytes that begins at `start`; `None` when the plan proves that it does not belong to it.
    async fn segment(&self, branch: u32, start: u64, size: u64) -> Answer;
}

#[async_trait::async_trait]
impl Segments for LogReader {
    async fn segment(&self, branch: u32, start: u64, size: u64) -> Answer {
        self.segment_file(branch, start, size).await
    }
}

/// Reads the segments of one plan, the next ones before they are asked for. Must be used inside a tokio runtime.
pub struct ReadAhead {
    reader: Arc<LogReader>,
    ahead: Ahead<LogReader>,
}

impl ReadAhead {
    /// Reads through `reader`.
    pub fn new(reader: LogReader) -> ReadAhead {
        let reader = Arc::new(reader);
        ReadAhead { ahead: Ahead::new(Arc::clone(&reader)), reader }
    }

    /// The plan.
    pub fn plan(&self) -> &LogPlan {
        self.reader.plan()
    }

    /// The segment file of `size` bytes that begins at `start`, zeros after the end of the plan. `None` when the plan proves
    /// that nothing of it belongs to the restore.
    pub async fn segment_file(&self, branch: u32, start: u64, size: u64) -> Answer {
        let legs = &self.plan().ranges;
        let end = legs.iter().find(|leg| leg.range.branch == branch).map_or(start, |leg| leg.range.end);
        self.ahead.segment((branch, start), size, end).await
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("reader", &self.reader).finish_non_exhaustive()
    }
}

/// Reads that were begun before they were asked for, by branch and start.
struct Ahead<S> {
    source: Arc<S>,
    begun: Mutex<BTreeMap<(u32, u64), JoinHandle<Answer>>>,
}

impl<S: Segments> Ahead<S> {
    fn new(source: Arc<S>) -> Ahead<S> {
        Ahead { source, begun: Mutex::default() }
    }

    /// The segment at `at`; those after it, up to `end`, are begun.
    async fn segment(&self, at: (u32, u64), size: u64, end: u64) -> Answer {
        let begun = self.turn_to(at, size, end);
        if let Some(read) = begun
            && let Ok(Ok(answer)) = read.await
        {
            return Ok(answer);
        }
        self.source.segment(at.0, at.1, size).await
    }

    /// Forgets what is not needed after `at`, begins what comes next, and answers the read of `at` if it was begun.
    fn turn_to(&self, at: (u32, u64), size: u64, end: u64) -> Option<JoinHandle<Answer>> {
        let (branch, start) = at;
        let count = AHEAD.min(AHEAD_BYTES / size.max(1));
        let next = (1..=count).map_while(|step| start.checked_add(step.checked_mul(size)?)).filter(|next| *next < end);
        let wanted: Vec<u64> = next.collect();
        let mut begun = self.begun();
        let found = begun.remove(&at);
        begun.retain(|(of, start), read| {
            let keep = *of == branch && wanted.contains(start);
            if !keep {
                read.abort();
            }
            keep
        });
        for start in wanted {
            begun.entry((branch, start)).or_insert_with(|| {
                let source = Arc::clone(&self.source);
                tokio::spawn(async move { source.segment(branch, start, size).await })
            });
        }
        found
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<(u32, u64), JoinHandle<Answer>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Drop for Ahead<S> {
    fn drop(&mut self) {
        let begun = self.begun.get_mut().unwrap_or_else(PoisonError::into_inner);
        begun.values().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    /// Answers the number of the segment, and notes who was asked for; odd ones fail at the first try.
    #[derive(Default)]
    struct Source {
        asked: Mutex<Vec<u64>>,
        fails: bool,
    }

    #[async_trait::async_trait]
    impl Segments for Source {
        async fn segment(&self, _branch: u32, start: u64, size: u64) -> Answer {
            let number = start / size;
            let first = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(number);
                asked.iter().filter(|known| **known == number).count() == 1
            };
            tokio::task::yield_now().await;
            if self.fails && first { Err(StreamError::Stopped) } else { Ok(Some(vec![u8::try_from(number).unwrap()])) }
        }
    }

    async fn read(ahead: &Ahead<Source>, number: u64, end: u64) -> Answer {
        ahead.segment((1, number * SIZE), SIZE, end * SIZE).await
    }

    #[tokio::test]
    async fn each_segment_is_read_once_and_none_beyond_the_end() {
        let source = Arc::new(Source::default());
        let ahead = Ahead::new(Arc::clone(&source));
        for number in 3..9 {
            assert_eq!(read(&ahead, number, 9).await.unwrap(), Some(vec![u8::try_from(number).unwrap()]));
            tokio::task::yield_now().await;
        }
        let mut asked = source.asked.lock().unwrap().clone();
        asked.sort_unstable();
        assert_eq!(asked, [3, 4, 5, 6, 7, 8]);
        assert!(ahead.begun().is_empty());
    }

    #[tokio::test]
    async fn a_jump_forgets_what_was_begun_and_huge_segments_are_not_read_ahead() {
        let source = Arc::new(Source::default());
        let ahead = Ahead::new(Arc::clone(&source));
        read(&ahead, 0, 100).await.unwrap();
        assert_eq!(ahead.begun().len(), 4);
        read(&ahead, 50, 100).await.unwrap();
        assert_eq!(ahead.begun().keys().map(|(_, start)| start / SIZE).collect::<Vec<_>>(), [51, 52, 53, 54]);
        ahead.segment((1, 0), 1 << 30, 10 << 30).await.unwrap();
        assert!(ahead.begun().is_empty());
    }

    #[tokio::test]
    async fn a_read_that_failed_ahead_is_tried_again_and_only_then_an_error() {
        let source = Arc::new(Source { fails: true, ..Source::default() });
        let ahead = Ahead::new(Arc::clone(&source));
        read(&ahead, 0, 3).await.unwrap_err();
        assert_eq!(read(&ahead, 1, 3).await.unwrap(), Some(vec![1]), "failed ahead, read again");
    }
}

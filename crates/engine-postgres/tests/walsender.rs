//! The replication client against real servers: what it receives is what they wrote, however slow we are, and to the
//! very end; what it tells them is what was released.
#![allow(clippy::unwrap_used, reason = "in a test a step that fails is the failure")]

use std::time::{Duration, Instant};

use breakwater_core::{ErrorClass, Lsn, TimelineId};
use breakwater_engine_postgres::connection::ConnectionSettings;
use breakwater_engine_postgres::wal::{RecordScanner, SegmentSize, TimelineHistory, WalEvent, segment_file_name};
use breakwater_engine_postgres::walsender::{
    Message, ReplicationStream, StreamOptions, StreamStart, WalSender, WalSenderError,
};
use breakwater_testkit::postgres::{Cluster, Stop, Version};
use breakwater_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(cluster: &Cluster) -> ConnectionSettings {
    cluster.socket_conninfo().parse().unwrap()
}

async fn connect(cluster: &Cluster) -> WalSender {
    WalSender::connect(&settings(cluster)).await.unwrap()
}

async fn segment_size(walsender: &mut WalSender) -> SegmentSize {
    SegmentSize::from_setting(&walsender.show("wal_segment_size").await.unwrap()).unwrap()
}

async fn flushed(cluster: &Cluster) -> Lsn {
    cluster.psql("select pg_current_wal_flush_lsn()").await.unwrap().parse().unwrap()
}

fn from(position: Lsn, timeline: TimelineId, slot: Option<&str>) -> StreamStart {
    StreamStart { slot: slot.map(str::to_owned), position, timeline, released: Lsn(0) }
}

/// A small cluster with a stream from the start of its present segment, without a slot.
async fn small(version: Version) -> (Cluster, WalSender, Lsn) {
    let cluster = Cluster::builder(version)
        .wal_segment_size(1)
        .setting("wal_keep_size", "2GB")
        .setting("max_wal_size", "2GB")
        .setting("wal_sender_timeout", "2s")
        .start()
        .await
        .unwrap();
    let mut walsender = connect(&cluster).await;
    let size = segment_size(&mut walsender).await;
    let start = walsender.identify_system().await.unwrap().position.segment_start(size.bytes());
    (cluster, walsender, start)
}

/// Log bytes as they arrived, checked to follow each other.
struct Received {
    start: Lsn,
    bytes: Vec<u8>,
}

impl Received {
    fn new(start: Lsn) -> Self {
        Received { start, bytes: Vec::new() }
    }

    fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// Takes messages until `done` says so of one that is no data, or the data reach `upto`.
    async fn take(&mut self, stream: &mut ReplicationStream, upto: Lsn) -> Option<Message> {
        let deadline = Instant::now() + PATIENCE;
        while self.end() < upto {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = tokio::time::timeout(left, stream.next()).await.expect("in time").unwrap();
            match message {
                Message::WalData { start, data, .. } => {
                    assert_eq!(start, self.end());
                    assert!(!data.is_empty());
                    self.bytes.extend_from_slice(&data);
                }
                Message::Keepalive { .. } => {}
                last => return Some(last),
            }
        }
        None
    }

    fn events(&self, size: SegmentSize) -> Vec<WalEvent> {
        let mut events = Vec::new();
        let mut scanner = RecordScanner::new(size.segment_of(self.start), size, None);
        scanner.feed(self.start, &self.bytes, &mut events).unwrap();
        assert_eq!(scanner.complete_to(), self.end());
        events
    }
}

async fn what_arrives_is_what_was_written(version: Version) {
    let cluster = Cluster::builder(version).wal_segment_size(4).setting("wal_keep_size", "1GB").start().await.unwrap();
    let mut walsender = connect(&cluster).await;
    assert_eq!(walsender.major_version(), version.major());
    let identity = walsender.identify_system().await.unwrap();
    let system_id = cluster.control_data("Database system identifier").await.unwrap();
    assert_eq!(identity.system_id.to_string(), system_id);
    assert_eq!((identity.timeline, identity.database), (TimelineId(1), None));
    let size = segment_size(&mut walsender).await;
    assert_eq!(size.bytes(), 4 << 20);

    // The slot holds the log from its creation on, before anybody has connected to it.
    assert_eq!(walsender.read_slot("breakwater").await.unwrap(), None);
    walsender.create_physical_slot("breakwater").await.unwrap();
    let slot = walsender.read_slot("breakwater").await.unwrap().unwrap();
    assert_eq!(slot.restart_timeline, Some(TimelineId(1)));
    let start = slot.restart_lsn.unwrap().segment_start(size.bytes());

    let mut stream = walsender
        .start_replication(from(start, TimelineId(1), Some("breakwater")), StreamOptions::default())
        .await
        .unwrap();
    cluster.pgbench_init(1).await.unwrap();
    let load = cluster.pgbench(&["-c", "2", "-T", "30", "-n"]).unwrap();
    let mut received = Received::new(start);
    let middle = Lsn(flushed(&cluster).await.0 + (2 << 20));
    assert_eq!(received.take(&mut stream, middle).await, None);
    load.stop().unwrap();
    cluster.psql("select pg_switch_wal()").await.unwrap();
    let end = flushed(&cluster).await;
    assert_eq!(received.take(&mut stream, end).await, None);

    let mut compared = 0;
    for (index, segment) in received.bytes.chunks_exact(4 << 20).enumerate() {
        let name = segment_file_name(TimelineId(1), size.segment_of(start) + index as u64, size);
        let file = std::fs::read(cluster.data_dir().join("pg_wal").join(&name)).unwrap();
        assert!(file == segment, "{name} differs");
        compared += 1;
    }
    assert!(compared >= 3, "{compared} segments");
    assert!(received.events(size).iter().filter(|event| matches!(event, WalEvent::Commit { .. })).count() > 10);

    // What is told: write as received, flush as released and no further, and the slot follows the flush.
    let released = size.start_of(size.segment_of(start) + 1);
    stream.acknowledge().received(end);
    stream.acknowledge().released(released);
    let told = format!("{}|{released}|{released}", received.end().min(end));
    let sql = "select r.write_lsn, r.flush_lsn, s.restart_lsn from pg_stat_replication r, pg_replication_slots s";
    wait::until_true("the server to hear it", PATIENCE, async || cluster.psql(sql).await.unwrap() == told).await;

    // In use it cannot be dropped; after the goodbye it can.
    let mut other = connect(&cluster).await;
    assert_eq!(other.drop_slot("breakwater").await.unwrap_err().class(), ErrorClass::Conflict);
    stream.close().await;
    let gone = async || other.drop_slot("breakwater").await.is_ok();
    wait::until_true("the slot to be free", PATIENCE, gone).await;
    assert!(!cluster.log().contains("unexpected EOF on standby"), "{}", cluster.log());
}

#[tokio::test]
async fn what_arrives_is_what_was_written_15() {
    what_arrives_is_what_was_written(Version::V15).await;
}

#[tokio::test]
async fn what_arrives_is_what_was_written_17() {
    what_arrives_is_what_was_written(Version::V17).await;
}

#[tokio::test]
async fn a_consumer_may_stall_longer_than_the_server_waits() {
    let (cluster, walsender, start) = small(Version::V15).await;
    let options = StreamOptions { buffer_bytes: 256 << 10, ..StreamOptions::default() };
    let begin = from(start, TimelineId(1), None);
    let mut stream = walsender.start_replication(begin.clone(), options.clone()).await.unwrap();
    // The same without regular feedback, to see that the stall is one that a server does not put up with.
    let rare = StreamOptions { feedback_interval: PATIENCE, ..options };
    let mut mute = connect(&cluster).await.start_replication(begin, rare).await.unwrap();

    // More than the buffers of both sides and of the socket hold, so that the server really is kept waiting.
    cluster.pgbench_init(2).await.unwrap();
    let end = flushed(&cluster).await;
    assert!(end.0 - start.0 > 16 << 20, "only {} bytes", end.0 - start.0);
    tokio::time::sleep(Duration::from_secs(5)).await;

    let mut received = Received::new(start);
    assert_eq!(received.take(&mut stream, end).await, None);
    assert!(!received.events(SegmentSize::new(1 << 20).unwrap()).is_empty());

    let ended = loop {
        match tokio::time::timeout(PATIENCE, mute.next()).await.expect("in time") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended.class(), ErrorClass::Unavailable, "{ended}");
    assert!(cluster.log().contains("replication timeout"), "{}", cluster.log());
}

#[tokio::test]
async fn an_idle_stream_lives_and_hears_from_the_server() {
    let (cluster, walsender, start) = small(Version::V15).await;
    let options = StreamOptions { dead_after: Duration::from_secs(3), ..StreamOptions::default() };
    let mut stream = walsender.start_replication(from(start, TimelineId(1), None), options).await.unwrap();
    let end = flushed(&cluster).await;
    let mut received = Received::new(start);
    received.take(&mut stream, end).await;
    // Idle for longer than either side would bear in silence.
    let until = Instant::now() + Duration::from_secs(7);
    let mut alive = 0;
    while Instant::now() < until {
        match stream.next().await.unwrap() {
            Message::Keepalive { .. } => alive += 1,
            Message::WalData { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(alive >= 2, "{alive} signs of life");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed() {
    let (cluster, walsender, start) = small(Version::V15).await;
    let options = StreamOptions { dead_after: Duration::from_secs(2), ..StreamOptions::default() };
    let mut stream = walsender.start_replication(from(start, TimelineId(1), None), options).await.unwrap();
    let pid = cluster.psql("select pid from pg_stat_replication").await.unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    let error = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    kill_process(pid, Signal::CONT).unwrap();
    assert!(matches!(error, WalSenderError::Silent { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(matches!(stream.next().await, Err(WalSenderError::Ended)));
}

#[tokio::test]
async fn a_fast_shutdown_gives_everything_and_does_not_wait_for_long() {
    let (cluster, mut walsender, start) = small(Version::V15).await;
    walsender.create_physical_slot("s").await.unwrap();
    let mut stream =
        walsender.start_replication(from(start, TimelineId(1), Some("s")), StreamOptions::default()).await.unwrap();
    cluster.pgbench_init(1).await.unwrap();
    let load = cluster.pgbench(&["-c", "2", "-T", "60", "-n"]).unwrap();

    let consume = async {
        let mut received = Received::new(start);
        let acknowledge = stream.acknowledge();
        loop {
            match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time").unwrap() {
                Message::WalData { start, data, .. } => {
                    assert_eq!(start, received.end());
                    received.bytes.extend_from_slice(&data);
                    acknowledge.released(received.end());
                }
                Message::Keepalive { .. } => {}
                Message::ServerStopped => return received,
                other @ Message::EndOfTimeline { .. } => panic!("{other:?}"),
            }
        }
    };
    let stop = async {
        let sql = "select flush_lsn > '0/0' from pg_stat_replication";
        wait::until_true("the stream to be acknowledged", PATIENCE, async || cluster.psql(sql).await.unwrap() == "t")
            .await;
        let begun = Instant::now();
        cluster.stop(Stop::Fast).await.unwrap();
        begun.elapsed()
    };
    let (received, took) = tokio::join!(consume, stop);
    // Its load may have failed when the server went away; that is what was wanted.
    load.stop().ok();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(matches!(stream.next().await, Err(WalSenderError::Ended)));

    let events = received.events(SegmentSize::new(1 << 20).unwrap());
    let last = events.last().unwrap();
    assert!(matches!(last, WalEvent::CheckpointShutdown { .. }), "{last:?}");
    assert_eq!(last.lsn_end(), received.end());
    let checkpoint: Lsn = cluster.control_data("Latest checkpoint location").await.unwrap().parse().unwrap();
    assert_eq!(last.lsn_start(), checkpoint);
}

#[tokio::test]
async fn a_crash_ends_the_stream_and_the_next_one_goes_on_where_it_ended() {
    let (cluster, mut walsender, start) = small(Version::V15).await;
    let size = segment_size(&mut walsender).await;
    let mut stream =
        walsender.start_replication(from(start, TimelineId(1), None), StreamOptions::default()).await.unwrap();
    cluster.pgbench_init(1).await.unwrap();
    let load = cluster.pgbench(&["-c", "2", "-T", "60", "-n"]).unwrap();
    let mut received = Received::new(start);
    let middle = Lsn(flushed(&cluster).await.0 + (1 << 20));
    assert_eq!(received.take(&mut stream, middle).await, None);
    cluster.kill9().await.unwrap();
    // The load failed with the server; that is what was wanted.
    load.stop().ok();
    let error = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time") {
            Ok(Message::WalData { data, .. }) => received.bytes.extend_from_slice(&data),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    let error = WalSender::connect(&settings(&cluster)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");

    cluster.start().await.unwrap();
    let resume = received.end().segment_start(size.bytes());
    let walsender = connect(&cluster).await;
    let mut stream =
        walsender.start_replication(from(resume, TimelineId(1), None), StreamOptions::default()).await.unwrap();
    cluster.psql("create table after_the_crash as select 1").await.unwrap();
    let mut continued = Received::new(resume);
    let end = flushed(&cluster).await;
    assert_eq!(continued.take(&mut stream, end).await, None);
    let before = usize::try_from(resume.0 - start.0).unwrap();
    let shared = received.bytes.len() - before;
    assert!(continued.bytes[..shared] == received.bytes[before..], "what was sent before the crash stands");
    received.bytes.truncate(before);
    received.bytes.extend_from_slice(&continued.bytes);
    let last_start = received.events(size).last().unwrap().lsn_start();
    assert!(last_start > resume);
}

#[tokio::test]
async fn a_promotion_ends_the_timeline_and_the_next_one_is_what_the_server_says() {
    let (primary, _, _) = small(Version::V15).await;
    primary.pgbench_init(1).await.unwrap();
    let standby = primary.standby().await.unwrap();
    // A history that is there already makes the server pass over that number, as after an earlier promotion elsewhere.
    standby.psql("alter system set recovery_target_timeline = 'current'").await.unwrap();
    standby.restart().await.unwrap();
    let taken = standby.data_dir().join("pg_wal/00000002.history");
    std::fs::write(&taken, "1\t0/1\ttaken\n").unwrap();
    let data = std::fs::metadata(standby.data_dir()).unwrap();
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&data), std::os::unix::fs::MetadataExt::gid(&data));
    std::os::unix::fs::chown(&taken, Some(uid), Some(gid)).unwrap();

    let mut walsender = connect(&standby).await;
    let size = segment_size(&mut walsender).await;
    let start = walsender.identify_system().await.unwrap().position.segment_start(size.bytes());
    let mut stream =
        walsender.start_replication(from(start, TimelineId(1), None), StreamOptions::default()).await.unwrap();
    primary.psql("create table before_the_fork as select 1").await.unwrap();
    let written = flushed(&primary).await;
    let mut received = Received::new(start);
    assert_eq!(received.take(&mut stream, written).await, None);

    let (end, promoted) = tokio::join!(received.take(&mut stream, Lsn(u64::MAX)), standby.promote());
    promoted.unwrap();
    let Some(Message::EndOfTimeline { next_timeline, next_start }) = end else { panic!("{end:?}") };
    assert_eq!(next_timeline, TimelineId(3));
    assert_eq!(next_start, received.end());

    // The connection goes on: history first, then the new timeline from the start of the segment it forked in.
    let mut walsender = stream.into_walsender().await.unwrap();
    let file = walsender.timeline_history(next_timeline).await.unwrap();
    assert_eq!(file.filename, "00000003.history");
    let history = TimelineHistory::parse(next_timeline, &file.content).unwrap();
    assert_eq!(history.parent(), Some((TimelineId(1), next_start)));
    assert!(history.is_ancestor(TimelineId(1), received.end()));
    let error = walsender.timeline_history(TimelineId(9)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound, "{error}");

    let start = next_start.segment_start(size.bytes());
    let mut stream =
        walsender.start_replication(from(start, next_timeline, None), StreamOptions::default()).await.unwrap();
    standby.psql("create table after_the_fork as select 1").await.unwrap();
    let mut continued = Received::new(start);
    let end = flushed(&standby).await;
    assert_eq!(continued.take(&mut stream, end).await, None);
    let shared = usize::try_from(next_start.0 - start.0).unwrap();
    let before = received.bytes.len() - shared;
    assert!(continued.bytes[..shared] == received.bytes[before..], "the part before the fork is the same");
    let ended = continued
        .events(size)
        .into_iter()
        .any(|event| matches!(event, WalEvent::EndOfRecovery { timeline: TimelineId(3), previous: TimelineId(1), .. }));
    assert!(ended, "the new timeline says where it comes from");

    // From the very end of the old timeline there is nothing to stream but that end.
    let walsender = connect(&standby).await;
    let mut stream =
        walsender.start_replication(from(next_start, TimelineId(1), None), StreamOptions::default()).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Message::EndOfTimeline { next_timeline, next_start });
    let mut walsender = stream.into_walsender().await.unwrap();
    assert_eq!(walsender.identify_system().await.unwrap().timeline, next_timeline);
}

#[tokio::test]
async fn every_way_to_log_in_works_and_a_wrong_password_does_not() {
    let hba = "host replication scram 127.0.0.1/32 scram-sha-256\nhost replication md5 127.0.0.1/32 md5\n\
        host replication plain 127.0.0.1/32 password\nhost replication free 127.0.0.1/32 trust\n\
        host all scram 127.0.0.1/32 scram-sha-256\n";
    let cluster = Cluster::builder(Version::V15).hba(hba).start().await.unwrap();
    cluster
        .psql(
            "create role scram login replication password 'pässword'; create role free login replication; \
             create role plain login replication password 'p w'; set password_encryption = md5; \
             create role md5 login replication password 'hash me'",
        )
        .await
        .unwrap();
    let parse = |user: &str, password: &str| {
        let text = format!("host=127.0.0.1 port={} user={user} dbname=postgres {password}", cluster.port());
        text.parse::<ConnectionSettings>().unwrap()
    };
    for (user, password) in
        [("scram", "password=pässword"), ("md5", "password='hash me'"), ("plain", "password='p w'"), ("free", "")]
    {
        let mut walsender =
            WalSender::connect(&parse(user, password)).await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
        assert_eq!(walsender.show("server_version_num").await.unwrap().get(..2), Some("15"), "{user}");
    }
    for user in ["scram", "md5", "plain"] {
        let error = WalSender::connect(&parse(user, "password=wrong")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Denied, "{user}: {error}");
        let error = WalSender::connect(&parse(user, "")).await.unwrap_err();
        assert!(matches!(error, WalSenderError::NoPassword), "{user}: {error}");
    }
    let error = WalSender::connect(&parse("postgres", "")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Denied, "no line of pg_hba.conf: {error}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgpass");
    std::fs::write(&file, "localhost:*:replication:scram:pässword\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let by_name = format!("host=localhost port={} user=scram passfile={}", cluster.port(), file.display());
    WalSender::connect(&by_name.parse().unwrap()).await.unwrap();

    let session = parse("scram", "password=pässword").connect_sql().await.unwrap();
    let path = session.query_one("show search_path", &[]).await.unwrap();
    assert_eq!(path.get::<_, String>(0), "pg_catalog");
    drop(session);
    let sql = "select count(*) from pg_stat_activity where usename = 'scram'";
    wait::until_true("the session to end", PATIENCE, async || cluster.psql(sql).await.unwrap() == "0").await;
    for password in ["password=wrong", ""] {
        let error = parse("scram", password).connect_sql().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Denied, "{error}");
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_told_apart() {
    let cluster = Cluster::builder(Version::V15).wal_segment_size(1).start().await.unwrap();
    let mut walsender = connect(&cluster).await;
    walsender.create_physical_slot("one").await.unwrap();
    let error = walsender.create_physical_slot("one").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict, "{error}");
    assert_eq!(walsender.drop_slot("two").await.unwrap_err().class(), ErrorClass::NotFound);
    for bad in ["", "One", "a b", "a; drop", &"x".repeat(64)] {
        assert_eq!(walsender.create_physical_slot(bad).await.unwrap_err().class(), ErrorClass::Invalid);
    }
    assert_eq!(walsender.show("port; x").await.unwrap_err().class(), ErrorClass::Invalid);
    assert_eq!(walsender.show("no_such_setting").await.unwrap_err().class(), ErrorClass::NotFound);
    // An error leaves the connection usable.
    let position = walsender.identify_system().await.unwrap().position;
    walsender.drop_slot("one").await.unwrap();

    let ahead = from(Lsn(position.0 + (1 << 30)), TimelineId(1), None);
    let error = refusal(walsender, ahead).await;
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");

    let foreign = from(position.segment_start(1 << 20), TimelineId(7), None);
    let error = refusal(connect(&cluster).await, foreign).await;
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");

    // A log that is gone is a gap, and has to be seen as one.
    let removed = from(Lsn(1 << 20), TimelineId(1), None);
    for _ in 0..4 {
        cluster
            .psql("create table if not exists t (n int); insert into t values (1); select pg_switch_wal()")
            .await
            .unwrap();
    }
    cluster.psql("checkpoint").await.unwrap();
    let error = refusal(connect(&cluster).await, removed).await;
    assert!(error.server_error().is_some_and(|error| error.is_log_removed()), "{error:?}");
    assert_eq!(error.class(), ErrorClass::NotFound);
}

/// The error of a stream that the server does not give: some it reports before the stream begins, some after.
async fn refusal(walsender: WalSender, start: StreamStart) -> WalSenderError {
    match walsender.start_replication(start, StreamOptions::default()).await {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.unwrap_err(),
    }
}

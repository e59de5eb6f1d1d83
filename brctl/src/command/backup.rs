//! `backup`: starting one.

use breakwater_proto::v1;

use crate::args::job::{BackupArgs, BackupCommand};
use crate::command::{Desk, Ended, job};
use crate::failure::Failure;

pub(super) async fn run(desk: &Desk, command: BackupCommand) -> Ended {
    let BackupCommand::Run(args) = command;
    refuse_later(&args)?;
    let client = desk.client()?;
    let request = v1::RunBackupRequest {
        name: args.name,
        namespace: desk.namespace(),
        read: args.read,
        mode: args.mode.word().to_owned(),
        compression: args.compression.unwrap_or_default(),
        request_id: args.request_id.unwrap_or_default(),
        uploads: args.uploads.unwrap_or(0),
    };
    let jobs = client.call(client.operator().run_backup(request)).await?.jobs;
    job::follow(desk, jobs, args.wait).await
}

/// Refuses by name what the contract has and this version has not.
fn refuse_later(args: &BackupArgs) -> Result<(), Failure> {
    if let Some(level) = &args.verify {
        return Err(Failure::refused(format!("--verify {level} is not in this version"))
            .hint("brctl repository check NAME --read-data after the backup"));
    }
    if !args.regions.is_empty() {
        return Err(Failure::refused(
            "--region is not in this version: a backup goes to all regions of its repository",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use breakwater_controller::objects::compression::check;
    use breakwater_repository::format::codec::Compression;

    /// A controller takes the words for compression without knowing codecs, so its idea of them must be the codecs' own.
    #[test]
    fn a_controller_takes_the_words_that_agents_understand() {
        let codecs = ["none", "zstd", "lz4", "gzip", "bzip2", "xz", "low", "medium", "high", "brotli", "", "ZSTD"];
        let mut levels: Vec<String> = (-10..=25).map(|level| format!(":{level}")).collect();
        levels.extend(["", ":", ":low", ":medium", ":high", ":fast", ":1.5", ":+3", ": 3"].map(str::to_owned));
        let mut taken = 0;
        for word in codecs.iter().flat_map(|codec| levels.iter().map(move |level| format!("{codec}{level}"))) {
            let understood = word.parse::<Compression>().is_ok();
            assert_eq!(check(&word).is_ok(), understood, "{word}");
            taken += u32::from(understood);
        }
        assert!(taken > 50, "{taken}");
    }
}

//! `restore`: bringing a source back.

use breakwater_agent::restore::{ground, thaw};
use breakwater_proto::v1;

use crate::args::restore::{RestoreArgs, RestoreCommand, Speed, Verify};
use crate::command::{Desk, Ended, Ending, job};
use crate::failure::Failure;
use crate::offline::{Glass, Wanted};
use crate::output::yaml;
use crate::{offline, view};

pub(super) async fn run(desk: &Desk, command: RestoreCommand) -> Ended {
    match command {
        RestoreCommand::Run(args) => start(desk, *args).await,
        RestoreCommand::List(args) => job::list(desk, args, "restore").await,
        RestoreCommand::Show(args) => job::show(desk, args, "restore").await,
        RestoreCommand::Cancel(args) => job::cancel(desk, args, "restore").await,
    }
}

async fn start(desk: &Desk, args: RestoreArgs) -> Ended {
    refuse_later(&args)?;
    if let Some(glass) = desk.glass().await? {
        return by_hand(desk, &glass, args).await;
    }
    let Some(source) = args.source.clone() else {
        return Err(Failure::usage("--source is needed").hint("brctl get source"));
    };
    let target = target(&args.target)?;
    let restore = v1::RestoreSpec {
        source_uid: String::new(),
        repository: desk.settings.repository.clone().unwrap_or_default(),
        point: Some(v1::RestorePoint { point: Some(args.point.resolve()?) }),
        target,
        region: args.region.clone().unwrap_or_default(),
        only: args.only.clone(),
        parallel: args.parallel,
        recover: !args.no_recover && args.only.is_empty(),
        verify: args.verify.word().to_owned(),
        program_directory: args.program_directory.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        onto: args.onto().to_owned(),
        delete_extra: args.delete_extra,
        owner: args.owner.word().to_owned(),
        thaw: args.thaw.map(|speed| speed.word().to_owned()).unwrap_or_default(),
        thaw_days: args.thaw_days,
    };
    let request = v1::RunRestoreRequest {
        namespace: desk.namespace(),
        source,
        agent: args.agent.unwrap_or_default(),
        restore: Some(restore),
        request_id: args.request_id.unwrap_or_default(),
    };
    let client = desk.client()?;
    if args.preview {
        let documents = client.documents(client.operator().preview(request)).await?;
        let mut value = documents.into_iter().next().unwrap_or_default();
        view::readable(&mut value);
        desk.output.item(&value, "preview", || yaml(&value))?;
        return match value["refused"].as_str() {
            None => Ok(Ending::OK),
            Some(reason) => Err(Failure::refused(reason)),
        };
    }
    let jobs = client.call(client.operator().run_restore(request)).await?.jobs;
    job::follow(desk, jobs, args.wait).await
}

/// Restores on this machine, without a controller.
async fn by_hand(desk: &Desk, glass: &Glass, args: RestoreArgs) -> Ended {
    if args.agent.is_some() {
        return Err(Failure::usage("--agent names a host, and with --offline the restore runs on this one"));
    }
    let target = args.target.strip_prefix("file://").unwrap_or(&args.target);
    let onto = ground::onto(args.onto(), args.delete_extra)?;
    let wanted = Wanted {
        source: args.source,
        point: Some(args.point.resolve()?),
        target: std::path::absolute(target).map_err(|error| Failure::io(target, &error))?,
        region: args.region,
        recover: !args.no_recover && args.only.is_empty(),
        only: args.only,
        parallel: usize::try_from(args.parallel).unwrap_or(0),
        verify: args.verify.word().to_owned(),
        onto,
        owner: ground::owner(args.owner.word())?,
        program_directory: args.program_directory,
        thaw: thaw::wanted(args.thaw.map_or("", Speed::word), args.thaw_days)?,
        preview: args.preview,
    };
    let value = offline::restore(glass, &desk.output, &wanted).await?;
    desk.output.item(&value, value["target"].as_str().unwrap_or_default(), || yaml(&value))?;
    Ok(Ending::OK)
}

/// Refuses by name what the contract has and this version has not.
fn refuse_later(args: &RestoreArgs) -> Result<(), Failure> {
    args.point.resolve()?;
    if args.verify == Verify::Comprehensive {
        return Err(Failure::refused("--verify comprehensive is not in this version")
            .hint("--verify quick, then pg_amcheck on the restored cluster"));
    }
    Ok(())
}

/// The target as an absolute path.
fn target(text: &str) -> Result<String, Failure> {
    let path = text.strip_prefix("file://").unwrap_or(text);
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let hint = "an absolute path on the agent's host, like /srv/restored";
    Err(Failure::usage(format!("the target `{text}` is not an absolute path")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_paths() {
        assert_eq!(target("/srv/x").unwrap(), "/srv/x");
        assert_eq!(target("file:///srv/x").unwrap(), "/srv/x");
        for bad in ["x", "./x", "s3://bucket/x", ""] {
            assert_eq!(target(bad).unwrap_err().code(), 2, "{bad}");
        }
    }
}

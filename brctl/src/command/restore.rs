//! `restore`: bringing a source back.

use breakwater_proto::v1;
use serde_json::Value;

use crate::args::restore::{RestoreArgs, RestoreCommand, Verify};
use crate::command::{Desk, Ended, Ending, backup, job};
use crate::failure::Failure;
use crate::output::yaml;
use crate::view;

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
    };
    let request = v1::RunRestoreRequest {
        namespace: desk.namespace(),
        source,
        agent: args.agent.unwrap_or_default(),
        restore: Some(restore),
        request_id: args.request_id.unwrap_or_else(backup::request_id),
    };
    let client = desk.client()?;
    if args.preview {
        let documents = client.documents(client.operator().preview(request)).await?;
        let mut value = documents.into_iter().next().unwrap_or_default();
        view::readable(&mut value);
        show_preview(desk, &value)?;
        return Ok(Ending::OK);
    }
    let jobs = client.call(client.operator().run_restore(request)).await?.jobs;
    job::follow(desk, jobs, args.wait).await
}

/// Shows what a restore would do.
pub(super) fn show_preview(desk: &Desk, value: &Value) -> Result<(), Failure> {
    desk.output.item(value, "preview", || yaml(value))
}

/// Refuses by name what the contract has and this version has not.
pub(super) fn refuse_later(args: &RestoreArgs) -> Result<(), Failure> {
    args.point.resolve()?;
    if args.verify == Verify::Comprehensive {
        return Err(Failure::refused("--verify comprehensive is not in this version")
            .hint("--verify standard, then pg_amcheck on the restored cluster"));
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

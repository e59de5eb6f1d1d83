//! Enough of `protoc` for prost-build: include paths, files, and a descriptor set written to a file.
//!
//! etcd-client compiles its protocol files with prost-build, which runs `$PROTOC`. This stand-in lets a machine
//! without protoc build the workspace; it understands `-I`, `-o`/`--descriptor_set_out` and file names and ignores the
//! other options that prost-build passes (imports and source info are always included).

use std::path::PathBuf;
use std::process::ExitCode;

use prost::Message;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("protoc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut includes: Vec<PathBuf> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut output: Option<PathBuf> = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = |name: &str| args.next().ok_or(format!("{name} needs a value"));
        match arg.as_str() {
            "--version" => {
                println!("libprotoc 28.0");
                return Ok(());
            }
            "-I" | "--proto_path" => includes.push(value("-I")?.into()),
            "-o" | "--descriptor_set_out" => output = Some(value("-o")?.into()),
            other => {
                if let Some(path) = other.strip_prefix("--proto_path=").or(other.strip_prefix("-I")) {
                    includes.push(path.into());
                } else if let Some(path) = other.strip_prefix("--descriptor_set_out=").or(other.strip_prefix("-o")) {
                    output = Some(path.into());
                } else if !other.starts_with('-') {
                    files.push(other.into());
                }
            }
        }
    }
    let output = output.ok_or("no output file: pass -o FILE")?;
    let set = protox::compile(files, includes)?;
    std::fs::write(output, set.encode_to_vec())?;
    Ok(())
}

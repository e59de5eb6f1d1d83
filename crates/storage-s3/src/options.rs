//! What a URL `s3://BUCKET[/PREFIX]?…` says. Everything is checked here, so that a mistake is named before anything is called.

use std::path::PathBuf;

use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use breakwater_core::{PlaceUrl, PlaceUrlError};
use breakwater_storage::key::{KEY_LENGTH_MAX, check_prefix};

/// The names of all options.
const KNOWN: [&str; 15] = [
    "region",
    "endpoint",
    "path-style",
    "profile",
    "credentials",
    "role-arn",
    "external-id",
    "session-name",
    "sts-endpoint",
    "ca",
    "proxy",
    "sse",
    "sse-kms-key",
    "archive-class",
    "part-bytes",
];

/// The most that goes in a single request unless the URL says less. Packs (64 MiB) go in one; with any pack of at least 64 MiB there
/// are at most 16,384 puts per TiB, since a pack just above this bound takes four requests.
pub(crate) const PART_BYTES: u64 = 256 << 20;

/// What S3 allows for a part that is not the last, and for a single request.
const PART_BYTES_ALLOWED: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);

/// The longest key of S3, in bytes.
const S3_KEY_LENGTH_MAX: usize = 1024;

/// A URL, understood.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) location: String,
    pub(crate) bucket: String,
    /// Before every key: `a/b/`, or nothing.
    pub(crate) prefix: String,
    pub(crate) region: Option<String>,
    /// Where another store than AWS answers.
    pub(crate) endpoint: Option<String>,
    pub(crate) path_style: bool,
    pub(crate) profile: Option<String>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) role: Option<Role>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) proxy: Option<String>,
    pub(crate) encryption: Encryption,
    /// The class of the archive tier.
    pub(crate) archive_class: StorageClass,
    pub(crate) part_bytes: u64,
}

/// A role that is taken on with the credentials found.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
    pub(crate) session_name: String,
    pub(crate) sts_endpoint: Option<String>,
}

/// How the store encrypts what it keeps; its own default unless said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encryption {
    pub(crate) algorithm: Option<ServerSideEncryption>,
    pub(crate) kms_key: Option<String>,
}

impl Options {
    pub(crate) fn new(url: &PlaceUrl) -> Result<Options, PlaceUrlError> {
        url.only_options(&KNOWN)?;
        let text = |name: &str| url.option(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let bucket = url.host().to_owned();
        if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(url.trouble(format!("`{bucket}` cannot be the name of a bucket")));
        }
        let prefix = url.prefix();
        check_prefix(&prefix).map_err(|bad| url.trouble(format!("`{prefix}` cannot be a prefix: {bad}")))?;
        if prefix.len() + KEY_LENGTH_MAX > S3_KEY_LENGTH_MAX {
            let most = S3_KEY_LENGTH_MAX - KEY_LENGTH_MAX;
            return Err(url.trouble(format!("the prefix has more than {most} bytes, so keys would not fit")));
        }
        Ok(Options {
            location: url.to_string(),
            bucket,
            prefix,
            region: text("region"),
            endpoint: address(url, "endpoint")?,
            path_style: url.flag("path-style")?,
            profile: text("profile"),
            credentials: path(url, "credentials")?,
            role: role(url)?,
            ca: path(url, "ca")?,
            proxy: proxy(url)?,
            encryption: encryption(url)?,
            archive_class: archive_class(url)?,
            part_bytes: part_bytes(url)?,
        })
    }
}

fn address(url: &PlaceUrl, name: &str) -> Result<Option<String>, PlaceUrlError> {
    match url.option(name) {
        None => Ok(None),
        Some(text) if text.starts_with("https://") || text.starts_with("http://") => Ok(Some(text.to_owned())),
        Some(text) => Err(url.trouble(format!("`{text}` is no address (hint: {name}=https://HOST[:PORT])"))),
    }
}

fn path(url: &PlaceUrl, name: &str) -> Result<Option<PathBuf>, PlaceUrlError> {
    match url.option(name) {
        None => Ok(None),
        Some(text) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        Some(text) => Err(url.trouble(format!("option `{name}` takes an absolute path, not `{text}`"))),
    }
}

fn proxy(url: &PlaceUrl) -> Result<Option<String>, PlaceUrlError> {
    let proxy = address(url, "proxy")?;
    if proxy.as_deref().is_some_and(|proxy| proxy.contains('@')) {
        // The URL of a place is shown and logged, so this error must not repeat it.
        return Err(PlaceUrlError::Part {
            url: format!("s3://{}", url.host()),
            trouble: "option `proxy` holds a name or password, which would be shown and logged (hint: set HTTPS_PROXY \
                      in the environment)"
                .to_owned(),
        });
    }
    Ok(proxy)
}

fn role(url: &PlaceUrl) -> Result<Option<Role>, PlaceUrlError> {
    let sts_endpoint = address(url, "sts-endpoint")?;
    let Some(arn) = url.option("role-arn") else {
        let lone = ["external-id", "session-name", "sts-endpoint"].into_iter().find(|name| url.option(name).is_some());
        return match lone {
            None => Ok(None),
            Some(name) => Err(url.trouble(format!("option `{name}` is for a role (hint: add role-arn=ARN)"))),
        };
    };
    let session_name = url.option("session-name").unwrap_or("breakwater").to_owned();
    Ok(Some(Role {
        arn: arn.to_owned(),
        external_id: url.option("external-id").map(str::to_owned),
        session_name,
        sts_endpoint,
    }))
}

fn encryption(url: &PlaceUrl) -> Result<Encryption, PlaceUrlError> {
    let algorithm = match url.option("sse") {
        None => None,
        Some("AES256") => Some(ServerSideEncryption::Aes256),
        Some("aws:kms") => Some(ServerSideEncryption::AwsKms),
        Some(other) => return Err(url.trouble(format!("option `sse` is AES256 or aws:kms, not `{other}`"))),
    };
    let kms_key = url.option("sse-kms-key").map(str::to_owned);
    if kms_key.is_some() && algorithm != Some(ServerSideEncryption::AwsKms) {
        return Err(url.trouble("option `sse-kms-key` is for sse=aws:kms"));
    }
    Ok(Encryption { algorithm, kms_key })
}

fn archive_class(url: &PlaceUrl) -> Result<StorageClass, PlaceUrlError> {
    match url.option("archive-class") {
        None | Some("DEEP_ARCHIVE") => Ok(StorageClass::DeepArchive),
        Some("GLACIER") => Ok(StorageClass::Glacier),
        Some(other) => Err(url.trouble(format!("option `archive-class` is DEEP_ARCHIVE or GLACIER, not `{other}`"))),
    }
}

fn part_bytes(url: &PlaceUrl) -> Result<u64, PlaceUrlError> {
    let Some(text) = url.option("part-bytes") else { return Ok(PART_BYTES) };
    match text.parse() {
        Ok(bytes) if PART_BYTES_ALLOWED.contains(&bytes) => Ok(bytes),
        _ => Err(url.trouble(format!(
            "option `part-bytes` is a number from {} to {}, not `{text}`",
            PART_BYTES_ALLOWED.start(),
            PART_BYTES_ALLOWED.end()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, PlaceUrlError> {
        Options::new(&text.parse().unwrap())
    }

    #[test]
    fn a_url_says_where_and_how() {
        let plain = options("s3://backups").unwrap();
        assert_eq!((plain.bucket.as_str(), plain.prefix.as_str(), plain.part_bytes), ("backups", "", PART_BYTES));
        assert!(!plain.path_style && plain.role.is_none());
        let text = "s3://backups/a/b?endpoint=http://127.0.0.1:9000&path-style=true&role-arn=arn:aws:iam::1:role/r&\
                    external-id=x&sse=aws:kms&sse-kms-key=alias/k&archive-class=GLACIER&part-bytes=5242880";
        let full = options(text).unwrap();
        assert_eq!((full.prefix.as_str(), full.part_bytes, full.path_style), ("a/b/", 5 << 20, true));
        assert_eq!(full.role.unwrap().session_name, "breakwater");
        assert_eq!((full.archive_class, full.encryption.kms_key), (StorageClass::Glacier, Some("alias/k".to_owned())));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("s3://a:b", "`a:b` cannot be the name of a bucket");
        check("s3://b/.tmp/x", "cannot be a prefix");
        check(&format!("s3://b/{}", "a/".repeat(300)), "cannot be a prefix");
        check("s3://b?regoin=x", "no option `regoin`");
        check("s3://b?endpoint=minio:9000", "endpoint=https://HOST");
        check("s3://b?ca=ca.pem", "`ca` takes an absolute path");
        check("s3://b?external-id=x", "add role-arn=ARN");
        check("s3://b?sse=rot13", "AES256 or aws:kms");
        check("s3://b?sse=AES256&sse-kms-key=k", "is for sse=aws:kms");
        check("s3://b?archive-class=STANDARD", "DEEP_ARCHIVE or GLACIER");
        check("s3://b?part-bytes=1000", "from 5242880 to");
        let error = options("s3://b?proxy=http://me:secret@proxy:3128").unwrap_err().to_string();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn puts_per_tib_stay_bounded_for_every_pack_size() {
        let requests = |pack: u64| if pack <= PART_BYTES { 1 } else { pack.div_ceil(PART_BYTES) + 2 };
        for pack in ((64 << 20)..=(1 << 30)).step_by(1 << 20).flat_map(|pack| [pack, pack + 1]) {
            let per_tib = (1_u64 << 40).div_ceil(pack) * requests(pack);
            assert!(per_tib <= 16_500, "{per_tib} with packs of {pack} bytes");
        }
    }
}

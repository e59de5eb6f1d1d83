//! One Azurite for all tests of a program, and places on it.

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use breakwater_core::{Clock, PlaceUrl, Timestamp};
use breakwater_runtime::SystemClock;
use breakwater_storage::Storage;
use breakwater_storage_azure::{Azure, AzureProvider};
use breakwater_testkit::azurite::{ACCOUNT, Azurite, KEY};
use tokio::runtime::Runtime;

/// Runs every test on one runtime, since the server lives as long as the program.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static AZURITE: LazyLock<Azurite> = LazyLock::new(|| RUNTIME.block_on(Azurite::start()).unwrap());
static CONTAINERS: AtomicU32 = AtomicU32::new(0);

/// Runs a test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    LazyLock::force(&AZURITE);
    RUNTIME.block_on(test);
}

/// The server.
pub(crate) fn azurite() -> &'static Azurite {
    &AZURITE
}

/// Now.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// A new container.
pub(crate) async fn container() -> String {
    let name = format!("case-{}", CONTAINERS.fetch_add(1, Ordering::Relaxed));
    AZURITE.create_container(&name, now()).await.unwrap();
    name
}

/// The URL of what lies below `path` on the server.
pub(crate) fn url(path: &str) -> PlaceUrl {
    format!("azure://{ACCOUNT}/{path}?endpoint={}", AZURITE.endpoint()).parse().unwrap()
}

/// A place that is opened with these variables alone.
pub(crate) async fn place(path: &str, variables: &[(&str, &str)]) -> Azure {
    provider(variables).place(&url(path)).await.unwrap()
}

/// A provider that sees these variables alone.
pub(crate) fn provider(variables: &[(&str, &str)]) -> AzureProvider {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    AzureProvider::with_variables(move |wanted| {
        variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    })
}

/// The owner's place at a path.
pub(crate) async fn owned(path: &str) -> Azure {
    place(path, &[("AZURE_STORAGE_KEY", KEY)]).await
}

/// The owner's storage in a new container, below `prefix`, which begins with `/` or is empty.
pub(crate) async fn fresh(prefix: &str) -> Storage {
    Storage::new(std::sync::Arc::new(owned(&format!("{}{prefix}", container().await)).await))
}

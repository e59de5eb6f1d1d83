//! The key services that this program knows. The only place that names them.

use breakwater_kms::KeyServices;
use breakwater_kms::aws::AwsKms;
use breakwater_kms::azure::AzureKeyVault;
use breakwater_kms::gcp::GcpKms;
use breakwater_kms::pkcs11::Pkcs11Key;
use breakwater_kms::vault::Vault;

/// All of them, by the first word of a key's address.
pub(crate) fn key_services() -> KeyServices {
    KeyServices::new()
        .with("aws-kms", AwsKms::open)
        .with("azure-kv", AzureKeyVault::open)
        .with("gcp-kms", GcpKms::open)
        .with("pkcs11", Pkcs11Key::open)
        .with("vault", Vault::open)
}

//! Regions on Google Cloud Storage: one [`Backend`](breakwater_storage::Backend) and its provider.

//! Regions on Azure Blob: one [`Backend`](breakwater_storage::Backend) and its provider.

//! Regions on S3 and what speaks like it: one [`Backend`](breakwater_storage::Backend) and its provider.

//! Regions on directories on hosts that are reached by SFTP: one [`Backend`](breakwater_storage::Backend) and its provider.

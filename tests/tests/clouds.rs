//! The main job with a region in each of three clouds, played by servers on this host: S3, Azure Blob, Google Cloud Storage. Every
//! moment is restored, and from each cloud alone.

//! Protects file trees.

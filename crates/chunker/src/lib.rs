//! Where content-defined chunks end.

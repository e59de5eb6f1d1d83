//! (module map to come)

//! Where recipients keep their keys.

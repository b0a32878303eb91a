//! The checker sees every kind of untruth.

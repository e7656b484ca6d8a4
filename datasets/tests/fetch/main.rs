//! Fetching, verifying and removing, against a web server in this process and folders of the test's own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

mod download;
mod server;
mod sets;
mod sources;
mod store;

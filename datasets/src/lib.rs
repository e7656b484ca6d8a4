//! A catalog of data sets, and the code that fetches, verifies and removes them.
//!
//! A [`Catalog`] says what exists, from where, with which hashes and under which licence. A [`Store`] is a
//! folder of data sets on this machine: what it calls present is complete, whatever interrupted a fetch.
//!
//! ```
//! let catalog = ssl_datasets::Catalog::builtin()?;
//! let dataset = catalog.get("fashion-mnist")?;
//! assert_eq!(dataset.classes.len(), 10);
//!
//! let store = ssl_datasets::Store::new("/no/such/folder");
//! assert!(!store.is_present(dataset));
//! let message = store.path(dataset).unwrap_err().to_string();
//! assert!(message.contains("cargo xtask data fetch fashion-mnist"));
//! # Ok::<(), ssl_datasets::Error>(())
//! ```

mod catalog;
mod deb;
mod download;
mod error;
mod fetch;
mod folder;
mod form;
mod hash;
mod inflate;
mod manifest;
mod package;
mod path;
mod progress;
mod store;
mod unpack;

pub use catalog::{Artifact, Catalog, Content, Dataset, Packing, Source, Split};
pub use download::Download;
pub use error::{Error, Result, SourceFailure};
pub use form::{AudioForm, Encoding, Format, ImageShape, Modality, TextForm};
pub use progress::{Action, NoProgress, Progress};
pub use store::{DATA_DIR_VARIABLE, FetchOptions, MIRROR_VARIABLE, Problem, Report, Store, default_root};

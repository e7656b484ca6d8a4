//! A run as one self-contained page: curves, evaluation beside its floors, maps of the features, figures,
//! configuration.
//!
//! The page needs no network and no script; it follows the reader's choice of light or dark and fits a phone.
//!
//! ```
//! use ssl_core::record::Curves;
//! use ssl_core::report::Page;
//! let mut curves = Curves::new();
//! curves.insert("loss".into(), (0..100).map(|step| (step, 5.0 - step as f64 / 50.0)).collect());
//! let mut page = Page::new("A run");
//! page.note("The first <hundred> steps.").curves("Loss", &curves, &["loss"]);
//! let html = page.render();
//! assert!(html.starts_with("<!doctype html>") && html.contains("The first &lt;hundred&gt; steps."));
//! ```
mod chart;
mod confusion;
mod map;
mod page;
mod plane;
mod tsne;

pub use map::Map;
pub use page::{Content, Figure, Page, TINTS};
pub use plane::{principal_plane, spectrum};
pub use tsne::neighbor_plane;

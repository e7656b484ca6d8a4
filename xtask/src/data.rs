//! `cargo xtask data`: lists, fetches, verifies and removes data sets.
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ssl_datasets::{Action, Catalog, Dataset, FetchOptions, MIRROR_VARIABLE, Progress, Store, default_root};
use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What `cargo xtask data` takes.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the data sets of the catalog.
    List,
    /// Brings data sets to this machine.
    Fetch(Fetch),
    /// Hashes the files of data sets again; without a name, of all that are present.
    Verify {
        /// Data sets of the catalog.
        names: Vec<String>,
    },
    /// Prints the folder of a data set.
    Path {
        /// A data set of the catalog.
        name: String,
    },
    /// Removes data sets from this machine.
    Remove {
        /// Data sets of the catalog.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Fetch {
    /// Data sets of the catalog.
    #[arg(required = true)]
    names: Vec<String>,
    /// How many files at once.
    #[arg(long, default_value_t = FetchOptions::default().jobs)]
    jobs: usize,
    /// A folder that holds the files already; tried first [default: what SSL_DATA_MIRROR says].
    #[arg(long)]
    mirror: Option<PathBuf>,
    /// Use nothing but the mirror.
    #[arg(long)]
    offline: bool,
}

/// Runs `cargo xtask data`.
pub(crate) fn command(workspace: &Workspace, flags: &Flags) -> Result<()> {
    let catalog = Catalog::builtin()?;
    let store = store(workspace)?;
    match &flags.command {
        Command::List => list(&catalog, &store),
        Command::Fetch(request) => {
            let options = FetchOptions {
                jobs: request.jobs,
                mirror: request.mirror.clone().or_else(mirror),
                offline: request.offline,
                ..FetchOptions::default()
            };
            for dataset in named(&catalog, &request.names)? {
                println!("{}", fetch(&store, dataset, &options)?.display());
            }
        }
        Command::Verify { names } => verify(&catalog, &store, names)?,
        Command::Path { name } => println!("{}", store.path(catalog.get(name)?)?.display()),
        Command::Remove { names } => {
            for dataset in named(&catalog, names)? {
                let freed = store.remove(dataset)?;
                println!("{}: removed, {} freed", dataset.name, megabytes(Some(freed)));
            }
        }
    }
    Ok(())
}

/// The folder of data sets, as an absolute path that a program in another folder can use too.
pub(crate) fn store(workspace: &Workspace) -> Result<Store> {
    let root = default_root(workspace.root());
    let root = std::path::absolute(&root).with_context(|| format!("no such folder: {}", root.display()))?;
    Ok(Store::new(root))
}

/// Makes sure that a data set is on this machine.
pub(crate) fn ensure(store: &Store, dataset: &Dataset) -> Result<()> {
    if store.is_present(dataset) {
        return Ok(());
    }
    fetch(store, dataset, &FetchOptions { mirror: mirror(), ..FetchOptions::default() }).map(drop)
}

fn fetch(store: &Store, dataset: &Dataset, options: &FetchOptions) -> Result<PathBuf> {
    let license = dataset.license.as_deref().unwrap_or("unknown");
    if !store.is_present(dataset) {
        eprintln!("fetching {} ({}; licence: {license})", dataset.name, dataset.title);
    }
    Ok(store.fetch(dataset, options, &Bars::default())?)
}

fn mirror() -> Option<PathBuf> {
    env::var_os(MIRROR_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn named<'a>(catalog: &'a Catalog, names: &[String]) -> Result<Vec<&'a Dataset>> {
    names.iter().map(|name| Ok(catalog.get(name)?)).collect()
}

fn list(catalog: &Catalog, store: &Store) {
    println!("{:<16} {:<10} {:>9}  {:<8} {:<20} title", "name", "modality", "size", "here", "licence");
    for dataset in catalog.iter() {
        let modality = dataset.modality.to_string();
        let here = if store.is_present(dataset) { "yes" } else { "-" };
        let license = dataset.license.as_deref().unwrap_or("unknown");
        let size = megabytes(dataset.bytes);
        println!("{:<16} {modality:<10} {size:>9}  {here:<8} {license:<20} {}", dataset.name, dataset.title);
    }
    println!("data folder: {}", store.root().display());
}

fn verify(catalog: &Catalog, store: &Store, names: &[String]) -> Result<()> {
    let datasets: Vec<&Dataset> = if names.is_empty() {
        catalog.iter().filter(|dataset| store.is_present(dataset)).collect()
    } else {
        named(catalog, names)?
    };
    if datasets.is_empty() {
        println!("no data set is present in {}", store.root().display());
    }
    let mut damaged = Vec::new();
    for dataset in datasets {
        let report = store.verify(dataset, &Bars::default())?;
        let size = megabytes(Some(report.bytes));
        let against = if report.trusted { "the catalog" } else { "what was first fetched" };
        if report.is_intact() {
            println!("{}: intact ({} files, {size}, compared with {against})", report.name, report.files);
            continue;
        }
        for problem in &report.problems {
            println!("{}: {problem}", report.name);
        }
        damaged.push(report.name);
    }
    if let Some(name) = damaged.first() {
        let all = damaged.join(", ");
        bail!(
            "damaged: {all}; `cargo xtask data remove {name}` and `cargo xtask data fetch {name}` repair it"
        );
    }
    Ok(())
}

fn megabytes(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) if bytes >= 10_000_000_000 => format!("{:.0} GB", bytes as f64 / 1e9),
        Some(bytes) if bytes >= 1_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        Some(bytes) if bytes >= 100_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        Some(bytes) => format!("{:.1} kB", bytes as f64 / 1e3),
        None => "?".into(),
    }
}

/// One bar per item on the standard error; none where that is no terminal.
#[derive(Debug, Default)]
struct Bars {
    all: MultiProgress,
    open: Mutex<HashMap<(Action, String), ProgressBar>>,
}

impl Bars {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<(Action, String), ProgressBar>) -> T) -> T {
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn begin(&self, action: Action, item: &str, total: Option<u64>) {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let bar = self.all.add(bar);
        bar.set_message(format!("{action} {item}"));
        self.with(|open| open.insert((action, item.to_string()), bar));
    }

    fn advance(&self, action: Action, item: &str, position: u64) {
        self.with(|open| {
            if let Some(bar) = open.get(&(action, item.to_string())) {
                bar.set_position(position);
            }
        });
    }

    fn finish(&self, action: Action, item: &str) {
        if let Some(bar) = self.with(|open| open.remove(&(action, item.to_string()))) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn note(&self, message: &str) {
        self.all.suspend(|| eprintln!("{message}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(megabytes(Some(57_000)), "57.0 kB");
        assert_eq!(megabytes(Some(30_878_645)), "30.9 MB");
        assert_eq!(megabytes(Some(2_640_397_119)), "2.6 GB");
        assert_eq!(megabytes(None), "?");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_suggests_one() -> Result<()> {
        let catalog = Catalog::builtin()?;
        let error = named(&catalog, &["fashion-mnst".into()]).unwrap_err();
        assert!(error.to_string().contains("fashion-mnist"), "{error}");
        Ok(())
    }
}

//! `cargo xtask data`: lists, fetches, verifies and removes data sets.
use crate::bars::Bars;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ssl_datasets::{
    Catalog, DATA_DIR_VARIABLE, Dataset, Error, FetchOptions, MIRROR_VARIABLE, Store, default_root,
};
use std::env;
use std::path::PathBuf;

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
    /// Data sets of the catalog, or the beginning of the names of a family, such as `asterisk`.
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

/// Makes sure that a data set is on this machine, with all its files.
pub(crate) fn ensure(store: &Store, dataset: &Dataset) -> Result<()> {
    fetch(store, dataset, &FetchOptions { mirror: mirror(), ..FetchOptions::default() }).map(drop)
}

fn fetch(store: &Store, dataset: &Dataset, options: &FetchOptions) -> Result<PathBuf> {
    if !store.is_present(dataset) {
        eprintln!("fetching {} ({})", dataset.name, dataset.title);
        eprintln!("  licence: {}", terms(dataset));
        if let Some(citation) = &dataset.citation {
            eprintln!("  cite: {citation}");
        }
    }
    store.fetch(dataset, options, &Bars::default()).map_err(|error| {
        let of_store = matches!(&error, Error::Io { path, .. } if path.starts_with(store.root()));
        let error = anyhow::Error::from(error);
        if !of_store {
            return error;
        }
        error.context(format!(
            "the data folder cannot be used; {DATA_DIR_VARIABLE} chooses another (now {})",
            store.root().display()
        ))
    })
}

fn license(dataset: &Dataset) -> &str {
    dataset.license.as_deref().unwrap_or("none stated")
}

/// The licence and what the catalog notes about it.
fn terms(dataset: &Dataset) -> String {
    match (&dataset.license, &dataset.license_note) {
        (None, Some(note)) => note.clone(),
        (_, Some(note)) => format!("{}; {note}", license(dataset)),
        (_, None) => license(dataset).to_string(),
    }
}

fn mirror() -> Option<PathBuf> {
    env::var_os(MIRROR_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn named<'a>(catalog: &'a Catalog, names: &[String]) -> Result<Vec<&'a Dataset>> {
    let families = names.iter().map(|name| Ok(catalog.family(name)?)).collect::<Result<Vec<_>>>()?;
    Ok(families.concat())
}

fn list(catalog: &Catalog, store: &Store) {
    let width = catalog.iter().map(|dataset| dataset.name.len()).max().unwrap_or(0);
    println!("{:<width$} {:<10} {:>9}  {:<8} {:<20} title", "name", "modality", "size", "here", "licence");
    for dataset in catalog.iter() {
        let modality = dataset.modality.to_string();
        let here = if store.is_present(dataset) { "yes" } else { "-" };
        let license = license(dataset);
        let size = megabytes(dataset.bytes);
        let Dataset { name, title, .. } = dataset;
        println!("{name:<width$} {modality:<10} {size:>9}  {here:<8} {license:<20} {title}");
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
    fn the_terms_of_a_data_set_are_its_licence_and_the_note() -> Result<()> {
        let catalog = Catalog::builtin()?;
        assert_eq!(terms(catalog.get("fashion-mnist")?), "MIT");
        assert!(terms(catalog.get("cifar10")?).starts_with("the authors state no licence"));
        assert!(terms(catalog.get("eurosat")?).starts_with("MIT; the pictures are"));
        Ok(())
    }

    #[test]
    fn a_data_folder_that_cannot_be_used_names_the_variable_and_the_cause_once() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("file");
        std::fs::write(&file, "")?;
        let store = Store::new(file.join("data"));
        let error = fetch(&store, Catalog::builtin()?.get("cifar10")?, &FetchOptions::default()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("the data folder cannot be used; SSL_DATA_DIR chooses another"), "{text}");
        assert_eq!(text.matches("Not a directory").count(), 1, "{text}");
        Ok(())
    }

    #[test]
    fn an_unknown_name_is_an_error_that_suggests_one() -> Result<()> {
        let catalog = Catalog::builtin()?;
        let error = named(&catalog, &["fashion-mnst".into()]).unwrap_err();
        assert!(error.to_string().contains("fashion-mnist"), "{error}");
        Ok(())
    }
}

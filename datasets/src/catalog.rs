//! The catalog: what each data set is, what it consists of, and where it can be had.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::form::{AudioForm, Format, ImageShape, Modality, TextForm};
use crate::path::relative_path;

/// The catalog files that are part of this crate.
const BUILTIN: [(&str, &str); 40] = [
    ("fashion-mnist.json", include_str!("../catalog/fashion-mnist.json")),
    ("cifar10.json", include_str!("../catalog/cifar10.json")),
    ("cifar100.json", include_str!("../catalog/cifar100.json")),
    ("cifar10-jpeg.json", include_str!("../catalog/cifar10-jpeg.json")),
    ("kmnist.json", include_str!("../catalog/kmnist.json")),
    ("stl10.json", include_str!("../catalog/stl10.json")),
    ("imagenette.json", include_str!("../catalog/imagenette.json")),
    ("eurosat.json", include_str!("../catalog/eurosat.json")),
    ("20newsgroups.json", include_str!("../catalog/20newsgroups.json")),
    ("reuters-r8.json", include_str!("../catalog/reuters-r8.json")),
    ("reuters-r52.json", include_str!("../catalog/reuters-r52.json")),
    ("shakespeare.json", include_str!("../catalog/shakespeare.json")),
    ("fortunes-en.json", include_str!("../catalog/fortunes-en.json")),
    ("fortunes-de.json", include_str!("../catalog/fortunes-de.json")),
    ("fortunes-es.json", include_str!("../catalog/fortunes-es.json")),
    ("fortunes-it.json", include_str!("../catalog/fortunes-it.json")),
    ("fortunes-ru.json", include_str!("../catalog/fortunes-ru.json")),
    ("fortunes-pl.json", include_str!("../catalog/fortunes-pl.json")),
    ("fortunes-cs.json", include_str!("../catalog/fortunes-cs.json")),
    ("fortunes-br.json", include_str!("../catalog/fortunes-br.json")),
    ("wikitext-2.json", include_str!("../catalog/wikitext-2.json")),
    ("wikitext-103.json", include_str!("../catalog/wikitext-103.json")),
    ("ag-news.json", include_str!("../catalog/ag-news.json")),
    ("imdb.json", include_str!("../catalog/imdb.json")),
    ("sst2.json", include_str!("../catalog/sst2.json")),
    ("tiny-shakespeare.json", include_str!("../catalog/tiny-shakespeare.json")),
    ("asterisk-en.json", include_str!("../catalog/asterisk-en.json")),
    ("asterisk-es.json", include_str!("../catalog/asterisk-es.json")),
    ("asterisk-fr.json", include_str!("../catalog/asterisk-fr.json")),
    ("asterisk-it.json", include_str!("../catalog/asterisk-it.json")),
    ("asterisk-ru.json", include_str!("../catalog/asterisk-ru.json")),
    ("speech-commands.json", include_str!("../catalog/speech-commands.json")),
    ("librispeech-dev-clean.json", include_str!("../catalog/librispeech-dev-clean.json")),
    ("librispeech-train-clean-100.json", include_str!("../catalog/librispeech-train-clean-100.json")),
    ("esc50.json", include_str!("../catalog/esc50.json")),
    ("timgm6mb-soundfont.json", include_str!("../catalog/timgm6mb-soundfont.json")),
    ("fluid-soundfont-gm.json", include_str!("../catalog/fluid-soundfont-gm.json")),
    ("camera-clips.json", include_str!("../catalog/camera-clips.json")),
    ("moving-mnist.json", include_str!("../catalog/moving-mnist.json")),
    ("ucf101.json", include_str!("../catalog/ucf101.json")),
];

/// Data sets by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    datasets: Vec<Dataset>,
}

impl Catalog {
    /// Reads the catalog that is part of this crate.
    ///
    /// # Errors
    /// [`Error::Catalog`] if one of its files is malformed, which a test excludes.
    pub fn builtin() -> Result<Self> {
        Self::from_json(BUILTIN)
    }

    /// Reads a catalog from (file name, JSON text) pairs, one data set each.
    ///
    /// # Errors
    /// [`Error::Catalog`] if a text is not a valid data set or a name occurs twice.
    pub fn from_json<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut datasets: Vec<Dataset> = Vec::new();
        for (file, text) in files {
            let wrong = |message: String| Error::Catalog { file: file.to_owned(), message };
            let dataset: Dataset = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
            dataset.validate().map_err(wrong)?;
            if datasets.iter().any(|d| d.name == dataset.name) {
                return Err(wrong(format!("expected a new name, got `{}` again", dataset.name)));
            }
            datasets.push(dataset);
        }
        Ok(Self { datasets })
    }

    /// Iterates over the data sets, in the catalog's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Dataset> {
        self.datasets.iter()
    }

    /// Finds a data set by its name.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`], which names the nearest name.
    pub fn get(&self, name: &str) -> Result<&Dataset> {
        self.iter().find(|d| d.name == name).ok_or_else(|| {
            let wanted = name.to_lowercase().replace(['_', ' '], "-");
            let nearest = self
                .iter()
                .map(|d| (strsim::jaro_winkler(&d.name, &wanted), &d.name))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(similarity, _)| *similarity > 0.7)
                .map(|(_, name)| name.clone());
            Error::UnknownDataset { name: name.to_owned(), nearest }
        })
    }

    /// The data sets of a name: the one that has it, or the family that it begins, as `asterisk` does
    /// `asterisk-en` and the others.
    ///
    /// # Errors
    /// [`Error::UnknownDataset`], which names the nearest name.
    pub fn family(&self, name: &str) -> Result<Vec<&Dataset>> {
        let begins =
            |dataset: &&Dataset| dataset.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
        let family: Vec<&Dataset> = self.iter().filter(begins).collect();
        match self.iter().any(|dataset| dataset.name == name) || family.len() < 2 {
            true => Ok(vec![self.get(name)?]),
            false => Ok(family),
        }
    }
}

impl<'a> IntoIterator for &'a Catalog {
    type Item = &'a Dataset;
    type IntoIter = std::slice::Iter<'a, Dataset>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A part of a data set with a name, such as `train`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The split's name.
    pub name: String,
    /// How many examples it has.
    pub examples: u64,
    /// Whether each example has a label.
    pub labelled: bool,
    /// Its files or folders, relative to the data set's folder, in the order that its format names.
    pub files: Vec<String>,
}

/// A data set of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The name by which it is fetched: lower-case letters, digits and hyphens.
    pub name: String,
    /// The name by which it is cited.
    pub title: String,
    /// One sentence.
    pub description: String,
    /// What it is of.
    pub modality: Modality,
    /// The licence (an SPDX expression where there is one); `None` where the authors state none.
    pub license: Option<String>,
    /// What else is to be known about its use.
    pub license_note: Option<String>,
    /// Authors, title, venue, year.
    pub citation: Option<String>,
    /// The authors' page.
    pub homepage: Option<String>,
    /// How to read it.
    pub format: Format,
    /// The size of its images, where all have the same.
    pub image: Option<ImageShape>,
    /// Mean of each channel over the training split, in units of the full range (0 to 1), where known.
    pub mean: Option<Vec<f64>>,
    /// Standard deviation of each channel, in the same units, where known.
    pub std: Option<Vec<f64>>,
    /// How it is written, if it is text.
    pub text: Option<TextForm>,
    /// How it is sampled, if it is sound.
    pub audio: Option<AudioForm>,
    /// The names of its classes, in the order of their labels; for folders, the order of the folders' names. Empty if
    /// it has no labels.
    pub classes: Vec<String>,
    /// Its parts.
    pub splits: Vec<Split>,
    /// The size of its download from the first source, in bytes, where known.
    pub bytes: Option<u64>,
    /// What is downloaded, and what becomes of it.
    pub artifacts: Vec<Artifact>,
    /// Where the artifacts can be had, in the order to try; a mirror, where one is given, comes before all.
    pub sources: Vec<Source>,
}

impl Dataset {
    /// Finds a split by its name.
    pub fn split(&self, name: &str) -> Option<&Split> {
        self.splits.iter().find(|s| s.name == name)
    }

    /// Whether a hash in the catalog vouches for every byte of it.
    pub fn is_verifiable(&self) -> bool {
        self.artifacts.iter().all(Artifact::is_verifiable)
    }

    /// Whether a file of a source, by its path there, belongs to an artifact.
    pub(crate) fn belongs(&self, path: &str, artifact: &Artifact) -> bool {
        if !artifact.is_folder() {
            return path == artifact.remote;
        }
        let is_below = path.strip_prefix(&artifact.remote).is_some_and(|rest| rest.starts_with('/'));
        is_below && !self.artifacts.iter().any(|other| other.remote == path)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.starts_with('-') || !self.name.chars().all(plain) {
            return Err(format!(
                "name: expected lower-case letters, digits and hyphens, got `{}`",
                self.name
            ));
        }
        if self.artifacts.is_empty() {
            return Err("artifacts: expected at least one, got none".to_owned());
        }
        let forms = [(Modality::Text, self.text.is_some()), (Modality::Audio, self.audio.is_some())];
        for (modality, is_given) in forms {
            if (self.modality == modality) != is_given {
                let found = if is_given { "given" } else { "missing" };
                return Err(format!(
                    "{modality}: expected exactly where the modality is {modality}, {found} where it is {}",
                    self.modality
                ));
            }
        }
        let has_url = self.sources.iter().any(|source| matches!(source, Source::Url { .. }));
        if let Some(folder) = self.artifacts.iter().find(|artifact| artifact.is_folder())
            && has_url
        {
            return Err(format!("sources: expected packages, as {} is a folder, got a URL", folder.remote));
        }
        let channels = self.image.map(|i| i.channels as usize);
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            if let (Some(values), Some(channels)) = (values, channels)
                && values.len() != channels
            {
                return Err(format!("{field}: expected {channels} numbers, got {}", values.len()));
            }
        }
        for artifact in &self.artifacts {
            artifact.validate().map_err(|message| format!("artifact {}: {message}", artifact.remote))?;
        }
        for path in self.splits.iter().flat_map(|s| &s.files) {
            relative_path(path).map_err(|message| format!("splits: {path}: {message}"))?;
        }
        Ok(())
    }
}

/// One download, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its file name at the source.
    pub remote: String,
    /// The size of the download from a URL, in bytes. A package may hold the same content in other bytes.
    pub download_bytes: Option<u64>,
    /// The sha256 of the download. It counts where the hash of the inflated file is not known.
    pub download_sha256: Option<String>,
    /// What becomes of it.
    pub content: Content,
}

impl Artifact {
    /// Whether a hash in the catalog vouches for every byte of it.
    pub fn is_verifiable(&self) -> bool {
        let inflated = matches!(&self.content, Content::File { sha256: Some(_), .. });
        inflated || self.is_folder() || self.download_sha256.is_some()
    }

    /// Whether it is a folder at its source.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.content, Content::Folder { .. })
    }

    fn validate(&self) -> std::result::Result<(), String> {
        relative_path(&self.remote)?;
        let (path, packing, hash) = match &self.content {
            Content::File { path, packing, sha256, .. } => (path, packing, sha256.as_ref()),
            Content::Archive { path, packing, .. } => (path, packing, None),
            Content::Folder { path, sha256, .. } => (path, &Packing::Plain, Some(sha256)),
        };
        let is_archive = matches!(self.content, Content::Archive { .. });
        if is_archive != packing.is_archive() {
            return Err(format!("packing: `{packing:?}` does not suit this kind of content"));
        }
        if !(is_archive && path.is_empty()) {
            relative_path(path)?;
        }
        for hash in [hash, self.download_sha256.as_ref()].into_iter().flatten() {
            if hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
                return Err(format!("sha256: expected 64 lower-case hexadecimal digits, got `{hash}`"));
            }
        }
        Ok(())
    }
}

/// What becomes of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Content {
    /// It is inflated to one file.
    File {
        /// The file, relative to the data set's folder.
        path: String,
        /// How the download is packed.
        packing: Packing,
        /// The exact size of the inflated file, in bytes.
        bytes: u64,
        /// The sha256 of the inflated file, where known.
        sha256: Option<String>,
    },
    /// It is unpacked to a folder.
    Archive {
        /// The folder, relative to the data set's folder; empty for that folder itself.
        path: String,
        /// How the download is packed.
        packing: Packing,
        /// Unpacking stops with an error beyond so many bytes.
        max_bytes: u64,
        /// Unpacking stops with an error beyond so many entries.
        max_entries: u64,
    },
    /// It is a folder of a package: all files below it but those that are artifacts of their own.
    Folder {
        /// The folder, relative to the data set's folder.
        path: String,
        /// How many files it holds.
        files: u64,
        /// The size of all its files, in bytes.
        bytes: u64,
        /// The sha256 of a text that has, for each file in the order of the paths' bytes, a line of its sha256, two
        /// spaces, and its path from the folder: `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`.
        sha256: String,
    },
}

/// How a download is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packing {
    /// Not at all.
    #[serde(rename = "none")]
    Plain,
    /// One file, gzip.
    #[serde(rename = "gz")]
    Gzip,
    /// A tar archive.
    #[serde(rename = "tar")]
    Tar,
    /// A tar archive, gzip.
    #[serde(rename = "tar.gz")]
    TarGzip,
    /// A tar archive, xz.
    #[serde(rename = "tar.xz")]
    TarXz,
    /// A tar archive, zstd.
    #[serde(rename = "tar.zst")]
    TarZstd,
    /// A zip archive.
    #[serde(rename = "zip")]
    Zip,
}

impl Packing {
    /// Whether it holds several files.
    pub fn is_archive(self) -> bool {
        !matches!(self, Self::Plain | Self::Gzip)
    }
}

/// A place where a data set's artifacts can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Source {
    /// A web server: an artifact's address is `base`, a slash, and its remote name.
    Url {
        /// The address of the folder.
        base: String,
    },
    /// A Debian package, by `apt-get download`.
    Debian {
        /// The package's name.
        package: String,
        /// The folder within the package that holds the artifacts.
        prefix: String,
    },
    /// A Python package, by `pip download --no-deps`.
    Pypi {
        /// The requirement, with a version: `name==1.0`.
        requirement: String,
        /// The folder within the wheel that holds the artifacts.
        prefix: String,
    },
    /// The source distribution of a Python package that has no wheel. It is fetched as pip would, but nothing in it
    /// is run.
    PypiSource {
        /// The requirement, with a version: `name==1.0`.
        requirement: String,
        /// The folder within the archive that holds the artifacts.
        prefix: String,
    },
    /// A JavaScript package, by `npm pack`.
    Npm {
        /// The package, with a version: `name@1.0`.
        package: String,
        /// The folder within the package that holds the artifacts.
        prefix: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { base } => write!(f, "{base}"),
            Self::Debian { package, .. } => write!(f, "Debian package {package}"),
            Self::Pypi { requirement, .. } => write!(f, "PyPI package {requirement}"),
            Self::PypiSource { requirement, .. } => {
                write!(f, "source distribution of PyPI package {requirement}")
            }
            Self::Npm { package, .. } => write!(f, "npm package {package}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_folder_belongs_to_it_unless_it_is_an_artifact_of_its_own() {
        let catalog = Catalog::builtin().unwrap();
        let dataset = catalog.get("asterisk-en").unwrap();
        let [folder, file, ..] = dataset.artifacts.as_slice() else { panic!("expected two artifacts") };
        assert!(dataset.belongs("en_US_f_Allison/digits/2.wav", folder));
        assert!(dataset.belongs(&file.remote, file) && !dataset.belongs(&file.remote, folder));
        for other in
            ["en_US_f_Allison", "en_US_f_Allison.txt", "en_US_f_Allison2/digits/2.wav", "digits/2.wav"]
        {
            assert!(!dataset.belongs(other, folder), "{other}");
        }
    }
}

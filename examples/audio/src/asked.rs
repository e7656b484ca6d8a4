//! What an encoder of recordings without labels is asked: the notes of sound fonts, or other labelled recordings.
use crate::data::{Clips, Sounds};
use anyhow::{Context, Result, bail, ensure};
use ssl_audio::notes::{Labelling, Notes, NotesOptions};
use ssl_audio::readers::Options;
use ssl_audio::{AudioDataset, Clean, Recipe};
use ssl_examples::{Probes, Task, locate_all};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// The value of the flag that asks nothing.
const NONE: &str = "none";

/// What the encoder is evaluated on beside the data that it is trained on.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// Notes of one sound font, or of two: the second one gives the same notes from other recordings.
    Notes(Vec<Arc<Notes>>),
    /// Labelled recordings.
    Recordings(Sounds),
}

impl Asked {
    /// Opens what `data` names: sound fonts or labelled recordings.
    pub(crate) fn open(data: Option<&str>, options: &Options) -> Result<Self> {
        let Some(data) = data.filter(|data| *data != NONE) else { return Ok(Asked::Nothing) };
        let paths = locate_all(data).context("--eval-data")?;
        let fonts: Vec<PathBuf> = paths.iter().filter_map(|path| font(path)).collect();
        if fonts.is_empty() {
            let sounds = Sounds::open(&paths, options, (None, 0)).context("--eval-data")?;
            ensure!(
                sounds.has_labels(),
                "--eval-data {data}: expected labelled recordings or a sound font (.sf2)"
            );
            return Ok(Asked::Recordings(sounds));
        }
        ensure!(
            fonts.len() == paths.len() && fonts.len() <= 2,
            "--eval-data {data}: expected one or two sound fonts, got {} and {} other sets",
            fonts.len(),
            paths.len() - fonts.len()
        );
        let settings = NotesOptions { sample_rate: options.sample_rate, ..NotesOptions::default() };
        let notes = |path: &PathBuf| Ok(Arc::new(Notes::render(path, &settings).context("--eval-data")?));
        Ok(Asked::Notes(fonts.iter().map(notes).collect::<Result<_>>()?))
    }

    /// The examples and what is asked of them.
    pub(crate) fn examples(&self, recipe: &Recipe) -> Result<AskedExamples> {
        match self {
            Asked::Nothing => Ok(AskedExamples { sets: Vec::new(), tasks: Vec::new() }),
            Asked::Recordings(sounds) => {
                let (train, test) = sounds.examples(recipe)?;
                let sets = [Some(train), test].into_iter().flatten().collect();
                Ok(AskedExamples { sets, tasks: Vec::new() })
            }
            Asked::Notes(fonts) => {
                let clips = |notes: &Arc<Notes>| {
                    let clean = Clean { samples: notes.frames(0) as usize, ..recipe.clean };
                    Clips::new(Arc::clone(notes) as Arc<dyn AudioDataset>, clean, recipe)
                };
                let sets = fonts.iter().map(clips).collect::<Result<_>>()?;
                Ok(AskedExamples { sets, tasks: tasks(fonts)? })
            }
        }
    }
}

/// The sound font that a path is or holds.
fn font(path: &Path) -> Option<PathBuf> {
    let is_font = |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("sf2"));
    if is_font(path) {
        return Some(path.to_path_buf());
    }
    let mut files = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.path());
    files.find(|file| is_font(file))
}

/// Family, pitch and program in the first font; of two also the families and pitches of the second by those of the
/// first.
fn tasks(fonts: &[Arc<Notes>]) -> Result<Vec<Task>> {
    let Some(first) = fonts.first() else { bail!("--eval-data: expected a sound font, got none") };
    let rest: usize = fonts.iter().skip(1).map(|notes| notes.len()).sum();
    let mut tasks = Vec::new();
    for (name, labelling) in
        [("family", Labelling::Family), ("pitch", Labelling::Pitch), ("program", Labelling::Program)]
    {
        let (mut labels, label_names) = first.labels_of(labelling);
        for other in fonts.iter().skip(1) {
            labels.extend(other.labels_of(labelling).0);
        }
        let (train, test) = first.split(labelling)?;
        if rest > 0 && name != "program" {
            tasks.push(Task {
                name: format!("{name}_across"),
                labels: labels.clone(),
                label_names: label_names.clone(),
                train: (0..first.len()).collect(),
                test: (first.len()..first.len() + rest).collect(),
            });
        }
        tasks.push(Task { name: name.into(), labels, label_names, train, test });
    }
    // The one that stands for the run comes first.
    tasks.sort_by_key(|task| (task.name.ends_with("_across"), task.name != "family"));
    Ok(tasks)
}

/// Clips with tasks; without tasks, their own labels are asked.
#[derive(Debug)]
pub(crate) struct AskedExamples {
    sets: Vec<Clips>,
    tasks: Vec<Task>,
}

impl AskedExamples {
    pub(crate) fn probes(&self) -> Result<Option<Probes<'_, Tensor>>> {
        match (self.sets.as_slice(), self.tasks.is_empty()) {
            ([train, test], true) => Ok(Probes::of_labels(train, test)),
            (sets, false) => Ok(Some(Probes {
                sets: sets.iter().map(|set| set as _).collect(),
                tasks: self.tasks.clone(),
            })),
            (_, true) => Ok(None),
        }
    }
}

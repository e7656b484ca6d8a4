//! Tensors on disk: checkpoints that are whole or absent, and the files one takes elsewhere.
use crate::optim::Optimizer;
use crate::{Error, Method, Result, named_tensors, no_grad};
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// The key of our JSON in a file's header; the rest of the header is the format's own.
const HEADER: &str = "ssl";

/// The file of the highest score.
const BEST: &str = "best.safetensors";

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The step to go on from.
    pub next_step: u64,
    /// The configuration of the run.
    pub config: serde_json::Value,
    /// What the best checkpoint was kept for; higher is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// Writes everything that the next step depends on: the method's stores and the optimizer's state.
///
/// # Errors
/// `Error::Io`; what stood at `path` before is untouched then.
pub fn save<M: Method + ?Sized>(
    path: &Path,
    method: &M,
    optimizer: &dyn Optimizer,
    header: &Header,
) -> Result<()> {
    let json = serde_json::to_value(header).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    write_tensors(path, &all_tensors(method, optimizer)?, &json)
}

/// Restores what [`save`] wrote into a method and an optimizer built from the same configuration.
///
/// # Errors
/// `Error::Checkpoint` when the file is damaged or belongs to another encoder; nothing is changed then.
pub fn load<M: Method + ?Sized>(path: &Path, method: &M, optimizer: &dyn Optimizer) -> Result<Header> {
    let (found, json) = read_tensors(path)?;
    let header = as_header(path, json)?;
    copy_into(path, &found, &all_tensors(method, optimizer)?)?;
    Ok(header)
}

/// The header of a checkpoint; its tensors are not read, but they must all be there.
///
/// # Errors
/// `Error::Io` when the file cannot be read, `Error::Checkpoint` when it is damaged or no checkpoint.
pub fn read_header(path: &Path) -> Result<Header> {
    let mut file = File::open(path).map_err(Error::io(path, "read"))?;
    let size = file.metadata().map_err(Error::io(path, "read"))?.len();
    // The format: the length of a JSON text in eight bytes, the text, the tensors' data.
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| damaged(path, &e))?;
    let length = u64::from_le_bytes(length);
    if length > size {
        return Err(damaged(path, &"its header is longer than the file"));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(Error::io(path, "read"))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| damaged(path, &e))?;
    if 8 + length + metadata.data_len() as u64 != size {
        return Err(damaged(path, &"it does not end where its header says"));
    }
    as_header(path, our_json(&metadata))
}

fn as_header(path: &Path, json: serde_json::Value) -> Result<Header> {
    serde_json::from_value(json)
        .map_err(|_| Error::checkpoint(path, "expected a checkpoint of a run, found other tensors"))
}

/// Copies an encoder's weights from a safetensors file into `encoder`, by name: our own `encoder.safetensors`, or a
/// state dict that PyTorch saved (`safetensors.torch.save_file(model.state_dict(), path)`). Returns the file's JSON
/// header, which is `null` for other programs' files.
///
/// Names must be equal on both sides. What `encoder` lacks is left out when it is `num_batches_tracked`, which only
/// PyTorch's batch normalization counts, or when its name begins with one of `ignored`: `fc.` for the classifier of
/// torchvision's ResNet.
///
/// # Errors
/// `Error::Io` when the file cannot be read, `Error::Checkpoint` when it is damaged, or a name is missing or left
/// over, or a shape or kind differs; nothing is changed then.
pub fn load_encoder(
    path: &Path,
    encoder: &BTreeMap<String, Tensor>,
    ignored: &[&str],
) -> Result<serde_json::Value> {
    load_encoder_fitted(path, encoder, ignored, &|_, have, _| Ok(have.shallow_clone()))
}

/// [`load_encoder`], with each tensor of the file as `fit` makes it of its name, itself and the one it is for: for what
/// may differ in shape, such as positions on another grid.
///
/// # Errors
/// As [`load_encoder`], and whatever `fit` returns.
pub fn load_encoder_fitted(
    path: &Path,
    encoder: &BTreeMap<String, Tensor>,
    ignored: &[&str],
    fit: &dyn Fn(&str, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<serde_json::Value> {
    let (mut found, json) = read_tensors(path)?;
    found.retain(|name, _| {
        let counter = name == "num_batches_tracked" || name.ends_with(".num_batches_tracked");
        encoder.contains_key(name) || !(counter || ignored.iter().any(|prefix| name.starts_with(prefix)))
    });
    for (name, have) in &mut found {
        if let Some(want) = encoder.get(name) {
            *have = fit(name, have, want)?;
        }
    }
    copy_into(path, &found, encoder)?;
    Ok(json)
}

/// Copies tensors into others of the same names.
///
/// # Errors
/// `Error::Checkpoint` when a name is missing or left over, or a shape or kind differs; nothing is changed then.
pub fn copy_into(path: &Path, from: &BTreeMap<String, Tensor>, to: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, want) in to {
        let have = from.get(name).ok_or_else(|| {
            Error::checkpoint(path, format!("{name} is missing: it is of another method or encoder"))
        })?;
        if (have.size(), have.kind()) != (want.size(), want.kind()) {
            let message = format!(
                "{name} is {:?} {:?}, expected {:?} {:?}: it is of another encoder",
                have.kind(),
                have.size(),
                want.kind(),
                want.size()
            );
            return Err(Error::checkpoint(path, message));
        }
    }
    if let Some(name) = from.keys().find(|name| !to.contains_key(*name)) {
        return Err(Error::checkpoint(path, format!("{name} is not part of this method or encoder")));
    }
    no_grad(|| {
        for (name, want) in to {
            if let Some(have) = from.get(name) {
                want.shallow_clone().f_copy_(have)?;
            }
        }
        Ok(())
    })
}

fn all_tensors<M: Method + ?Sized>(
    method: &M,
    optimizer: &dyn Optimizer,
) -> Result<BTreeMap<String, Tensor>> {
    let method = named_tensors(method).into_iter().map(|(name, tensor)| (format!("method/{name}"), tensor));
    let optimizer =
        optimizer.state()?.into_iter().map(|(name, tensor)| (format!("optimizer/{name}"), tensor));
    Ok(method.chain(optimizer).collect())
}

/// Writes named tensors and a JSON header in the safetensors format; the bytes depend on nothing else.
///
/// # Errors
/// `Error::Io`; what stood at `path` before is untouched then.
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    header: &serde_json::Value,
) -> Result<()> {
    let bytes: Vec<(&String, Vec<usize>, Dtype, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let (shape, dtype, data) = to_bytes(tensor)?;
            Ok((name, shape, dtype, data))
        })
        .collect::<Result<_>>()?;
    let views: Vec<(&String, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, shape, dtype, data)| {
            let view = TensorView::new(*dtype, shape.clone(), data)
                .map_err(|e| Error::checkpoint(path, e.to_string()))?;
            Ok((*name, view))
        })
        .collect::<Result<_>>()?;
    // One key: a map of several would be written in an order that changes from run to run.
    let metadata = HashMap::from([(HEADER.to_string(), header.to_string())]);
    let file =
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    write_atomically(path, &file)
}

/// Named tensors and the JSON header of a safetensors file; a header of other programs reads as `null`.
///
/// # Errors
/// `Error::Io` when the file cannot be read, `Error::Checkpoint` when it is damaged.
pub fn read_tensors(path: &Path) -> Result<(BTreeMap<String, Tensor>, serde_json::Value)> {
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(path, &e))?;
    let tensors = file
        .iter()
        .map(|(name, view)| Ok((name.to_string(), from_bytes(path, &view)?)))
        .collect::<Result<_>>()?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(path, &e))?;
    Ok((tensors, our_json(&metadata)))
}

fn our_json(metadata: &Metadata) -> serde_json::Value {
    let text = metadata.metadata().as_ref().and_then(|map| map.get(HEADER));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::checkpoint(path, format!("expected a safetensors file, found a damaged or foreign one ({why})"))
}

const KINDS: [(Kind, Dtype); 8] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Int, Dtype::I32),
    (Kind::Uint8, Dtype::U8),
    (Kind::Bool, Dtype::BOOL),
];

fn to_bytes(tensor: &Tensor) -> Result<(Vec<usize>, Dtype, Vec<u8>)> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let kind = tensor.f_kind()?;
    let (_, dtype) = KINDS
        .iter()
        .find(|(known, _)| *known == kind)
        .ok_or_else(|| Error::config("tensor", format!("a {kind:?} tensor cannot be saved")))?;
    let mut data = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut data, tensor.numel())?;
    let shape = tensor.size().into_iter().map(|d| usize::try_from(d).unwrap_or(0)).collect();
    Ok((shape, *dtype, data))
}

fn from_bytes(path: &Path, view: &TensorView<'_>) -> Result<Tensor> {
    let dtype = view.dtype();
    let (kind, _) = KINDS
        .iter()
        .find(|(_, known)| *known == dtype)
        .ok_or_else(|| Error::checkpoint(path, format!("a tensor of type {dtype:?} cannot be read")))?;
    let shape: Vec<i64> = view.shape().iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    Ok(Tensor::f_from_data_size(view.data(), &shape, *kind)?)
}

/// Writes a file so that `path` holds either all of `bytes` or what it held before, whenever the power goes.
///
/// # Errors
/// `Error::Io`.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = dir.join(format!(".{name}.{}.partial", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        // The directory entry must reach the disk too; some file systems refuse to open a directory.
        if let Ok(dir) = File::open(dir) {
            dir.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| {
        // What was written so far is of no use; if even that cannot be removed, the next run's name differs.
        let _ = fs::remove_file(&partial);
        Error::Io { path: path.to_path_buf(), action: "write", source }
    })
}

/// Removes what a killed process left half written in a directory; one that cannot be read has nothing to remove.
///
/// Call it while no other process writes there.
pub fn remove_partials(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".partial") {
            // One that stays costs space and nothing else.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The checkpoints of a run: `step-00001234.safetensors`, the newest `keep` of them, and `best.safetensors`.
#[derive(Debug, Clone)]
pub struct CheckpointDir {
    dir: PathBuf,
    keep: usize,
}

/// The name of a numbered checkpoint.
fn numbered(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}

/// The step in the name of a numbered checkpoint.
fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
    (name == numbered(step)).then_some(step)
}

/// Where a run goes on.
#[derive(Debug)]
pub struct Latest {
    /// The newest checkpoint that reads.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// Why newer ones do not read, newest first.
    pub passed_over: Vec<Error>,
}

impl CheckpointDir {
    /// A directory that is made when the first checkpoint is written.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Self {
        CheckpointDir { dir: dir.into(), keep: keep.max(1) }
    }

    /// Writes a checkpoint, then removes those of later steps, which are of a damaged or abandoned future, and those
    /// that are no longer among the newest.
    ///
    /// # Errors
    /// `Error::Io`; the checkpoints that were there stay.
    pub fn save<M: Method + ?Sized>(
        &self,
        method: &M,
        optimizer: &dyn Optimizer,
        header: &Header,
    ) -> Result<PathBuf> {
        let path = self.ready()?.join(numbered(header.next_step));
        save(&path, method, optimizer, header)?;
        let (kept, later): (Vec<_>, Vec<_>) =
            self.list()?.into_iter().partition(|(step, _)| *step <= header.next_step);
        let old = kept.iter().take(kept.len().saturating_sub(self.keep));
        for (_, path) in later.iter().chain(old) {
            fs::remove_file(path).map_err(Error::io(path, "remove"))?;
        }
        Ok(path)
    }

    /// Writes `best.safetensors`, which stays whatever becomes of the numbered ones.
    ///
    /// # Errors
    /// `Error::Io`; the best one so far stays.
    pub fn save_best<M: Method + ?Sized>(
        &self,
        method: &M,
        optimizer: &dyn Optimizer,
        header: &Header,
    ) -> Result<()> {
        save(&self.ready()?.join(BEST), method, optimizer, header)
    }

    /// The directory, made if it is missing, without what killed processes left: a full disk may be full of that.
    fn ready(&self) -> Result<&Path> {
        fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir, "create"))?;
        remove_partials(&self.dir);
        Ok(&self.dir)
    }

    /// The score in the header of `best.safetensors`; none before it is written, or when it is damaged and so may be
    /// replaced.
    ///
    /// # Errors
    /// `Error::Io` when the file cannot be read.
    pub fn best_score(&self) -> Result<Option<f64>> {
        match read_header(&self.dir.join(BEST)) {
            Ok(header) => Ok(header.score),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(Error::Checkpoint { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest checkpoint that reads; none before the first is written.
    ///
    /// # Errors
    /// `Error::Io` when the directory cannot be read; what is wrong with the newest checkpoint when there are some and
    /// none reads.
    pub fn latest(&self) -> Result<Option<Latest>> {
        let mut passed_over = Vec::new();
        for (_, path) in self.list()?.into_iter().rev() {
            match read_header(&path) {
                Ok(header) => return Ok(Some(Latest { path, header, passed_over })),
                Err(error) => passed_over.push(error),
            }
        }
        passed_over.into_iter().next().map_or(Ok(None), Err)
    }

    /// The numbered checkpoints with their steps, oldest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io(&self.dir, "read"))?,
        };
        let paths = entries
            .map(|entry| entry.map(|e| e.path()).map_err(Error::io(&self.dir, "read")))
            .collect::<Result<Vec<_>>>()?;
        let mut all: Vec<_> =
            paths.into_iter().filter_map(|path| step_of(&path).map(|step| (step, path))).collect();
        all.sort();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::Line;
    use crate::optim::OptimizerConfig;

    fn header(next_step: u64) -> Header {
        Header { next_step, config: serde_json::json!({"seed": 7}), score: None }
    }

    fn parts() -> (Line, Box<dyn Optimizer>) {
        let line = Line::new(1.).unwrap();
        let optimizer = OptimizerConfig::adamw().build(named_tensors(&line)).unwrap();
        (line, optimizer)
    }

    #[test]
    fn the_newest_are_kept_and_the_best_stays() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path().join("checkpoints"), 2);
        assert!(dir.latest().unwrap().is_none());
        dir.save_best(&line, optimizer.as_ref(), &header(10)).unwrap();
        for step in [10, 20, 30] {
            dir.save(&line, optimizer.as_ref(), &header(step)).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(scratch.path().join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["best.safetensors", "step-00000020.safetensors", "step-00000030.safetensors"]);
        assert_eq!(dir.latest().unwrap().unwrap().header, header(30));
    }

    #[test]
    fn a_damaged_newest_checkpoint_is_passed_over_and_named() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path(), 3);
        let oldest = dir.save(&line, optimizer.as_ref(), &header(1)).unwrap();
        let newest = dir.save(&line, optimizer.as_ref(), &header(2)).unwrap();
        cut(&newest);
        let latest = dir.latest().unwrap().unwrap();
        assert_eq!((latest.path, latest.header), (oldest.clone(), header(1)));
        assert!(latest.passed_over[0].to_string().contains("step-00000002"), "{:?}", latest.passed_over);
        cut(&oldest);
        assert!(dir.latest().unwrap_err().to_string().contains("step-00000002"), "the newest one's fault");
    }

    #[test]
    fn a_damaged_later_checkpoint_does_not_push_a_new_one_out() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path(), 1);
        cut(&dir.save(&line, optimizer.as_ref(), &header(9)).unwrap());
        for step in [5, 6] {
            dir.save(&line, optimizer.as_ref(), &header(step)).unwrap();
        }
        assert_eq!(dir.latest().unwrap().unwrap().header, header(6));
        assert_eq!(dir.list().unwrap().len(), 1, "the damaged one is of no use");
    }

    #[test]
    fn steps_are_ordered_as_numbers() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path(), 1);
        for step in [99_999_999, 100_000_000] {
            dir.save(&line, optimizer.as_ref(), &header(step)).unwrap();
        }
        assert_eq!(dir.latest().unwrap().unwrap().header, header(100_000_000));
    }

    #[test]
    fn the_best_score_is_read_back_and_a_damaged_one_may_be_replaced() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path(), 1);
        assert_eq!(dir.best_score().unwrap(), None);
        let best = Header { score: Some(0.75), ..header(3) };
        dir.save_best(&line, optimizer.as_ref(), &best).unwrap();
        assert_eq!(dir.best_score().unwrap(), Some(0.75));
        cut(&scratch.path().join(BEST));
        assert_eq!(dir.best_score().unwrap(), None);
    }

    #[test]
    fn a_header_is_read_without_the_tensors_but_only_of_a_whole_file() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let path = scratch.path().join("one.safetensors");
        save(&path, &line, optimizer.as_ref(), &header(5)).unwrap();
        assert_eq!(read_header(&path).unwrap(), header(5));
        let bytes = fs::read(&path).unwrap();
        for (damage, said) in [
            (bytes[..bytes.len() - 1].to_vec(), "does not end where"),
            ([&bytes[..], b"!"].concat(), "does not end where"),
            (bytes[..20].to_vec(), "longer than the file"),
            (bytes[..3].to_vec(), "expected a safetensors file"),
            (vec![0xff; 64], "longer than the file"),
        ] {
            fs::write(&path, damage).unwrap();
            let message = read_header(&path).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        write_tensors(&path, &BTreeMap::new(), &serde_json::json!({"other": 1})).unwrap();
        assert!(read_header(&path).unwrap_err().to_string().contains("found other tensors"));
    }

    #[test]
    fn an_encoder_loads_from_a_state_dict_of_pytorch_and_from_our_own_file() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("resnet.safetensors");
        let full = |value: f64, size: &[i64]| Tensor::full(size, value, (Kind::Float, Device::Cpu));
        let named = |all: &[(&str, f64)]| -> BTreeMap<String, Tensor> {
            all.iter().map(|(name, value)| (name.to_string(), full(*value, &[2]))).collect()
        };
        let encoder = named(&[("bn1.weight", 0.), ("conv1.weight", 0.)]);
        let pytorch =
            [("bn1.num_batches_tracked", 9.), ("bn1.weight", 1.), ("conv1.weight", 2.), ("fc.bias", 3.)];
        write_tensors(&path, &named(&pytorch), &serde_json::Value::Null).unwrap();
        let message = load_encoder(&path, &encoder, &[]).unwrap_err().to_string();
        assert!(message.contains("fc.bias is not part"), "{message}");
        assert_eq!(encoder["bn1.weight"].double_value(&[0]), 0., "nothing is changed by a refused file");
        assert!(load_encoder(&path, &encoder, &["fc."]).unwrap().is_null());
        assert_eq!(encoder["bn1.weight"].double_value(&[0]), 1.);
        assert_eq!(encoder["conv1.weight"].double_value(&[1]), 2.);
        // A prefix takes nothing away that the encoder has.
        write_tensors(&path, &named(&pytorch[1..3]), &serde_json::json!({"method": "simclr"})).unwrap();
        assert_eq!(load_encoder(&path, &encoder, &["conv1."]).unwrap()["method"], "simclr");
        write_tensors(&path, &named(&pytorch[..2]), &serde_json::Value::Null).unwrap();
        assert!(
            load_encoder(&path, &encoder, &["fc."])
                .unwrap_err()
                .to_string()
                .contains("conv1.weight is missing")
        );
    }

    fn cut(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        for name in [".step-00000002.safetensors.4711.partial", "my.partial", ".partial-notes"] {
            fs::write(scratch.path().join(name), "half").unwrap();
        }
        remove_partials(scratch.path());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
        remove_partials(&scratch.path().join("missing"));
        let (line, optimizer) = parts();
        let dir = CheckpointDir::new(scratch.path(), 1);
        for best in [false, true] {
            let left = scratch.path().join(".best.safetensors.4711.partial");
            fs::write(&left, "half").unwrap();
            match best {
                true => dir.save_best(&line, optimizer.as_ref(), &header(1)).unwrap(),
                false => drop(dir.save(&line, optimizer.as_ref(), &header(1)).unwrap()),
            }
            assert!(!left.exists());
        }
    }

    #[test]
    fn what_is_written_comes_back_in_every_kind() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("all.safetensors");
        let tensors: BTreeMap<String, Tensor> = KINDS
            .iter()
            .map(|(kind, _)| {
                let tensor = Tensor::from_slice(&[0i64, 1, 1, 0, 1, 1]).view([2, 3]).to_kind(*kind);
                (format!("{kind:?}"), tensor)
            })
            .chain([("scalar".to_string(), Tensor::from(3.5f64))])
            .collect();
        write_tensors(&path, &tensors, &serde_json::json!({"a": [1, 2]})).unwrap();
        let (found, json) = read_tensors(&path).unwrap();
        assert_eq!(json, serde_json::json!({"a": [1, 2]}));
        assert_eq!(found.len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!((tensor.size(), tensor.kind()), (found[name].size(), found[name].kind()), "{name}");
            assert!(tensor.equal(&found[name]), "{name}");
        }
        let first = fs::read(&path).unwrap();
        write_tensors(&path, &tensors, &serde_json::json!({"a": [1, 2]})).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "the bytes depend on the tensors and the header alone");
    }

    #[test]
    fn a_checkpoint_of_another_encoder_changes_nothing_and_says_what_differs() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("other.safetensors");
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let to = BTreeMap::from([("a".to_string(), zeros(&[2])), ("b".to_string(), zeros(&[3]))]);
        let ones = |name: &str, shape: &[i64]| (name.to_string(), zeros(shape) + 1.);
        for (from, said) in [
            (BTreeMap::from([ones("a", &[2])]), "b is missing"),
            (BTreeMap::from([ones("a", &[2]), ones("b", &[4])]), "b is Float [4], expected Float [3]"),
            (BTreeMap::from([ones("a", &[2]), ones("b", &[3]), ones("c", &[1])]), "c is not part"),
        ] {
            let message = copy_into(&path, &from, &to).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
            assert_eq!(f64::try_from(to["a"].sum(Kind::Float)).unwrap(), 0.);
        }
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("kept");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "no partial file is left");
    }
}

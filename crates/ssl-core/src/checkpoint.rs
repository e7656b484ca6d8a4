//! Tensors on disk: checkpoints that are whole or absent, and the files one takes elsewhere.
use crate::optim::Optimizer;
use crate::{Error, Method, Result, named_tensors, no_grad};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// The key of our JSON in a file's header; the rest of the header is the format's own.
const HEADER: &str = "ssl";

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The step to go on from.
    pub next_step: u64,
    /// The configuration of the run.
    pub config: serde_json::Value,
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
    write_tensors(path, &all_tensors(method, optimizer), &json)
}

/// Restores what [`save`] wrote into a method and an optimizer built from the same configuration.
///
/// # Errors
/// `Error::Checkpoint` when the file is damaged or belongs to another encoder; nothing is changed then.
pub fn load<M: Method + ?Sized>(path: &Path, method: &M, optimizer: &dyn Optimizer) -> Result<Header> {
    let (found, json) = read_tensors(path)?;
    let header = serde_json::from_value(json)
        .map_err(|_| Error::checkpoint(path, "expected a checkpoint of a run, found other tensors"))?;
    copy_into(path, &found, &all_tensors(method, optimizer))?;
    Ok(header)
}

/// The header of a checkpoint, without its tensors.
///
/// # Errors
/// `Error::Checkpoint` when the file is damaged or no checkpoint.
pub fn read_header(path: &Path) -> Result<Header> {
    let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
    serde_json::from_value(header_json(path, &bytes)?)
        .map_err(|_| Error::checkpoint(path, "expected a checkpoint of a run, found other tensors"))
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

fn all_tensors<M: Method + ?Sized>(method: &M, optimizer: &dyn Optimizer) -> BTreeMap<String, Tensor> {
    let method = named_tensors(method).into_iter().map(|(name, tensor)| (format!("method/{name}"), tensor));
    let optimizer = optimizer.state().into_iter().map(|(name, tensor)| (format!("optimizer/{name}"), tensor));
    method.chain(optimizer).collect()
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
    Ok((tensors, header_json(path, &bytes)?))
}

fn header_json(path: &Path, bytes: &[u8]) -> Result<serde_json::Value> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, &e))?;
    let text = metadata.metadata().as_ref().and_then(|map| map.get(HEADER));
    Ok(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
}

fn damaged(path: &Path, error: &safetensors::SafeTensorError) -> Error {
    Error::checkpoint(path, format!("expected a safetensors file, found a damaged or foreign one ({error})"))
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

/// The checkpoints of a run: `step-00001234.safetensors`, the newest `keep` of them, and `best.safetensors`.
#[derive(Debug, Clone)]
pub struct CheckpointDir {
    dir: PathBuf,
    keep: usize,
}

impl CheckpointDir {
    /// A directory that is made when the first checkpoint is written.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Self {
        CheckpointDir { dir: dir.into(), keep: keep.max(1) }
    }

    /// Writes a checkpoint, then removes those that are no longer among the newest.
    ///
    /// # Errors
    /// `Error::Io`; the checkpoints that were there stay.
    pub fn save<M: Method + ?Sized>(
        &self,
        method: &M,
        optimizer: &dyn Optimizer,
        header: &Header,
    ) -> Result<PathBuf> {
        fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir, "create"))?;
        let path = self.dir.join(format!("step-{:08}.safetensors", header.next_step));
        save(&path, method, optimizer, header)?;
        let all = self.list()?;
        for old in all.iter().take(all.len().saturating_sub(self.keep)) {
            fs::remove_file(old).map_err(Error::io(old, "remove"))?;
        }
        self.remove_partials();
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
        fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir, "create"))?;
        save(&self.dir.join("best.safetensors"), method, optimizer, header)
    }

    /// The newest checkpoint that reads, and its header; damaged ones are passed over.
    ///
    /// # Errors
    /// `Error::Io` when the directory cannot be read.
    pub fn latest(&self) -> Result<Option<(PathBuf, Header)>> {
        Ok(self.list()?.into_iter().rev().find_map(|path| {
            let header = read_header(&path).ok()?;
            Some((path, header))
        }))
    }

    /// The numbered checkpoints, oldest first.
    fn list(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io(&self.dir, "read"))?,
        };
        let mut all = entries
            .map(|entry| entry.map(|e| e.path()).map_err(Error::io(&self.dir, "read")))
            .collect::<Result<Vec<_>>>()?;
        all.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("step-")
                .and_then(|rest| rest.strip_suffix(".safetensors"))
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        all.sort();
        Ok(all)
    }

    /// Removes what a killed process left half written.
    fn remove_partials(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".partial") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::Line;
    use crate::optim::OptimizerConfig;

    fn header(next_step: u64) -> Header {
        Header { next_step, config: serde_json::json!({"seed": 7}) }
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
        assert_eq!(dir.latest().unwrap().unwrap().1, header(30));
    }

    #[test]
    fn a_damaged_newest_checkpoint_is_passed_over() {
        let (scratch, (line, optimizer)) = (tempfile::tempdir().unwrap(), parts());
        let dir = CheckpointDir::new(scratch.path(), 3);
        dir.save(&line, optimizer.as_ref(), &header(1)).unwrap();
        let newest = dir.save(&line, optimizer.as_ref(), &header(2)).unwrap();
        let bytes = fs::read(&newest).unwrap();
        fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(dir.latest().unwrap().unwrap().1.next_step, 1);
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

//! Networks made again from their tensors, to be looked into and made random.
use crate::Result;
use crate::checkpoint::copy_into;
use std::collections::BTreeMap;
use std::path::Path as FilePath;
use tch::Device;
use tch::nn::{Path, VarStore};

/// A network of its own that `build` makes, with the values of `tensors`, and its variables: what is done to it leaves
/// the one that the tensors are of as it is.
///
/// # Errors
/// What `build` returns; `Error::Checkpoint` when the tensors are another network's.
pub fn replica<N>(
    tensors: &BTreeMap<String, tch::Tensor>,
    device: Device,
    build: impl FnOnce(&Path<'_>) -> Result<N>,
) -> Result<(VarStore, N)> {
    let vars = VarStore::new(device);
    let network = build(&vars.root())?;
    copy_into(FilePath::new("encoder"), tensors, &vars.variables().into_iter().collect())?;
    Ok((vars, network))
}

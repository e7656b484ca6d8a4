//! All trainable parameters as views of one buffer, and their gradients as views of another.
//!
//! An update, a norm or a moving average is then a handful of kernels whatever the number of layers.
//!
//! Source: the flat buffers of NVIDIA Apex and of fairseq; the views through `Tensor::set_data` are our own.
use crate::{Error, Result, no_grad};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Every parameter begins at a multiple of this many elements: 64 bytes in float32, as libtorch's own allocations.
pub(crate) const ALIGN: i64 = 16;

/// How a set of parameters is updated. Parameters of equal groups lie side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Multiplies the learning rate of the step.
    pub lr_scale: f64,
    /// Multiplies the weight decay of the step: 1 decays, 0 does not.
    pub decay_scale: f64,
}

impl Group {
    /// Full rate and decay.
    pub const DECAYED: Group = Group { lr_scale: 1., decay_scale: 1. };
    /// Full rate, no decay.
    pub const UNDECAYED: Group = Group { lr_scale: 1., decay_scale: 0. };

    /// The usual choice: biases, norms and scalars (fewer than two dimensions) do not decay, nor what `undecayed`
    /// names in full or by the last parts of its name (`cls_token`, `norm.weight`).
    pub fn by_shape(name: &str, parameter: &Tensor, undecayed: &[&str]) -> Group {
        let named = undecayed.iter().any(|end| {
            name.strip_suffix(end).is_some_and(|front| front.is_empty() || front.ends_with(['.', '/']))
        });
        if parameter.dim() < 2 || named { Group::UNDECAYED } else { Group::DECAYED }
    }
}

/// Where one parameter lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Name of the parameter.
    pub name: String,
    /// First element in the buffer.
    pub offset: i64,
    /// Number of elements.
    pub len: i64,
    /// Shape.
    pub size: Vec<i64>,
    stride: Vec<i64>,
}

impl Segment {
    /// The parameter's part of `buffer`, flat.
    pub(crate) fn of(&self, buffer: &Tensor) -> Result<Tensor> {
        Ok(buffer.f_narrow(0, self.offset, self.len)?)
    }

    /// The parameter's part of `buffer`, in the parameter's shape.
    fn view(&self, buffer: &Tensor) -> Result<Tensor> {
        Ok(self.of(buffer)?.f_as_strided(&self.size, &self.stride, None)?)
    }
}

/// Parameters and gradients, each one buffer: an update, a norm or a moving average is then a handful of kernels.
#[derive(Debug)]
pub struct Flat {
    parameters: Tensor,
    gradients: Tensor,
    segments: Vec<Segment>,
    groups: Vec<(Group, Range<i64>)>,
    views: Vec<View>,
}

/// A parameter, its gradient, and where both must lie.
#[derive(Debug)]
struct View {
    parameter: Tensor,
    place: Tensor,
    gradient: Tensor,
}

impl Flat {
    /// Moves every tensor of `named` that requires a gradient into one buffer, decayed ones first, and gives each
    /// a gradient of zeros in a second one. Values, shapes, names and memory formats stay as they are.
    ///
    /// # Errors
    /// `Error::Config` when no parameter requires a gradient, when they differ in kind or device, or when one memory
    /// goes by two names.
    pub fn new(named: BTreeMap<String, Tensor>, group: &dyn Fn(&str, &Tensor) -> Group) -> Result<Self> {
        let trained: Vec<_> = named.into_iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
        let (kind, device) = common_kind(&trained)?;
        let (ordered, sizes) = by_group(trained, group);

        let (mut segments, mut groups, mut end) = (Vec::new(), Vec::new(), 0);
        for (group, count) in sizes {
            let start = end;
            for (name, tensor) in ordered.iter().skip(segments.len()).take(count) {
                let (size, len) = (tensor.size(), tensor.numel() as i64);
                segments.push(Segment {
                    name: name.clone(),
                    offset: end,
                    len,
                    stride: strides(tensor)?,
                    size,
                });
                end += (len + ALIGN - 1) / ALIGN * ALIGN;
            }
            groups.push((group, start..end));
        }

        let parameters = Tensor::f_zeros([end], (kind, device))?;
        let gradients = parameters.f_zeros_like()?;
        let mut views = Vec::new();
        for ((_, mut tensor), segment) in ordered.into_iter().zip(&segments) {
            let (mut place, gradient) = (segment.view(&parameters)?, segment.view(&gradients)?);
            no_grad(|| place.f_copy_(&tensor))?;
            tensor.f_set_data(&place)?;
            ssl_torch::set_grad(&tensor, &gradient)?;
            views.push(View { parameter: tensor, place, gradient });
        }
        Ok(Flat { parameters, gradients, segments, groups, views })
    }

    /// All parameters. `[N]`, with gaps of zeros.
    pub fn parameters(&self) -> &Tensor {
        &self.parameters
    }

    /// All gradients, laid out as the parameters. `[N]`
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Where each parameter lies.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The groups and the part of the buffers that each takes.
    pub fn groups(&self) -> &[(Group, Range<i64>)] {
        &self.groups
    }

    /// The parameters of a group.
    pub(crate) fn segments_in(&self, range: &Range<i64>) -> impl Iterator<Item = &Segment> {
        let range = range.clone();
        self.segments.iter().filter(move |segment| range.contains(&segment.offset))
    }

    /// A buffer of zeros laid out as the parameters.
    pub(crate) fn zeros(&self) -> Result<Tensor> {
        Ok(no_grad(|| self.parameters.f_zeros_like())?)
    }

    /// Names the parts of a buffer laid out as the parameters `prefix/<parameter>`; the tensors are views of it.
    pub(crate) fn named(&self, prefix: &str, buffer: &Tensor) -> Result<Vec<(String, Tensor)>> {
        let part = |segment: &Segment| Ok((format!("{prefix}/{}", segment.name), segment.view(buffer)?));
        self.segments.iter().map(part).collect()
    }

    /// Sets every gradient to zero, and puts back those that were replaced or cleared from outside.
    ///
    /// # Errors
    /// `Error::Config` when a parameter was moved out of the buffer: by a change of its kind or device, or by
    /// another optimizer.
    pub fn zero_grad(&self) -> Result<()> {
        for (View { parameter, place, gradient }, segment) in self.views.iter().zip(&self.segments) {
            if parameter.data_ptr() != place.data_ptr() {
                let message =
                    format!("{} left the optimizer's buffer: build the optimizer anew", segment.name);
                return Err(Error::config("parameters", message));
            }
            let now = parameter.f_grad()?;
            if !now.defined() || now.data_ptr() != gradient.data_ptr() {
                ssl_torch::set_grad(parameter, gradient)?;
            }
        }
        let _ = self.gradients.shallow_clone().f_zero_()?;
        Ok(())
    }

    /// The joint L2 norm of the gradients, on the device.
    pub fn grad_norm(&self) -> Result<Tensor> {
        Ok(no_grad(|| self.gradients.f_norm())?)
    }
}

fn common_kind(trained: &[(String, Tensor)]) -> Result<(Kind, Device)> {
    let Some((first, tensor)) = trained.first() else {
        return Err(Error::config("parameters", "expected at least one that requires a gradient, got none"));
    };
    let (kind, device) = (tensor.kind(), tensor.device());
    let mut seen = HashSet::new();
    for (name, other) in trained {
        if (other.kind(), other.device()) != (kind, device) {
            let (other_kind, other_device) = (other.kind(), other.device());
            let message = format!(
                "expected one kind and device, got {kind:?} on {device:?} for {first} \
                 and {other_kind:?} on {other_device:?} for {name}"
            );
            return Err(Error::config("parameters", message));
        }
        if other.numel() > 0 && !seen.insert(other.data_ptr() as usize) {
            return Err(Error::config(
                "parameters",
                format!("{name} shares its memory with another parameter"),
            ));
        }
    }
    Ok((kind, device))
}

type Named = Vec<(String, Tensor)>;

/// The parameters with those of equal groups side by side, decayed groups first, and the size of each group.
fn by_group(trained: Named, group: &dyn Fn(&str, &Tensor) -> Group) -> (Named, Vec<(Group, usize)>) {
    let mut groups: Vec<(Group, Named)> = Vec::new();
    for (name, tensor) in trained {
        let of = group(&name, &tensor);
        match groups.iter_mut().find(|(known, _)| *known == of) {
            Some((_, members)) => members.push((name, tensor)),
            None => groups.push((of, vec![(name, tensor)])),
        }
    }
    groups.sort_by(|(a, _), (b, _)| b.decay_scale.total_cmp(&a.decay_scale));
    let sizes = groups.iter().map(|(group, members)| (*group, members.len())).collect();
    (groups.into_iter().flat_map(|(_, members)| members).collect(), sizes)
}

/// The strides of a dense copy: channels-last weights stay so.
fn strides(tensor: &Tensor) -> Result<Vec<i64>> {
    Ok(no_grad(|| tensor.f_empty_like())?.stride())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{Init, VarStore};

    fn store() -> VarStore {
        let store = VarStore::new(Device::Cpu);
        let normal = Init::Randn { mean: 0., stdev: 1. };
        for (name, size) in
            [("conv_weight", &[4, 3, 3, 3][..]), ("norm_weight", &[5]), ("fc_weight", &[2, 7])]
        {
            let _ = store.root().f_var(name, size, normal).unwrap();
        }
        let _ = store.root().f_zeros_no_train("norm_mean", &[5]).unwrap();
        store
    }

    fn flatten(store: &VarStore) -> Flat {
        Flat::new(store.variables().into_iter().collect(), &|name, x| Group::by_shape(name, x, &[])).unwrap()
    }

    fn values(store: &VarStore) -> BTreeMap<String, Vec<f32>> {
        let list = |x: &Tensor| Vec::<f32>::try_from(x.flatten(0, -1)).unwrap();
        store.variables().iter().map(|(name, x)| (name.clone(), list(x))).collect()
    }

    #[test]
    fn flattening_keeps_values_and_what_is_written_to_the_buffer_reaches_the_store() {
        let store = store();
        let before = values(&store);
        let flat = flatten(&store);
        assert_eq!(values(&store), before);
        let _ = no_grad(|| flat.parameters().shallow_clone().f_fill_(3.)).unwrap();
        let after = values(&store);
        assert!(
            ["conv_weight", "norm_weight", "fc_weight"].iter().all(|n| after[*n].iter().all(|x| *x == 3.))
        );
        assert_eq!(after["norm_mean"], [0.; 5]);
    }

    #[test]
    fn a_flattened_store_saves_and_loads_and_stays_in_the_buffer() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["a.safetensors", "a.ot"].map(|name| dir.path().join(name)) {
            let (saved, mut loaded) = (store(), store());
            let (_flat, flat) = (flatten(&saved), flatten(&loaded));
            saved.save(&file).unwrap();
            assert_ne!(values(&saved), values(&loaded));
            loaded.load(&file).unwrap();
            assert_eq!(values(&saved), values(&loaded));
            flat.zero_grad().unwrap();
            let _ = no_grad(|| flat.parameters().shallow_clone().f_zero_()).unwrap();
            assert_eq!(values(&loaded)["fc_weight"], [0.; 14], "the loaded values lie elsewhere");
        }
    }

    #[test]
    fn backward_passes_accumulate_in_the_gradient_buffer() {
        let store = store();
        let flat = flatten(&store);
        let fc = &store.variables()["fc_weight"];
        for _ in 0..2 {
            (fc * 3.).sum(Kind::Float).backward();
        }
        assert_eq!(f64::try_from(flat.gradients().sum(Kind::Float)).unwrap(), 2. * 3. * 14.);
        assert_eq!(f64::try_from(flat.grad_norm().unwrap()).unwrap(), f64::from((14f32 * 36.).sqrt()));
        flat.zero_grad().unwrap();
        assert_eq!(f64::try_from(fc.grad().abs().sum(Kind::Float)).unwrap(), 0.);
    }

    #[test]
    fn a_gradient_that_was_replaced_comes_back_at_zero_grad() {
        let store = store();
        let flat = flatten(&store);
        let fc = &store.variables()["fc_weight"];
        ssl_torch::set_grad(fc, &Tensor::ones([2, 7], (Kind::Float, Device::Cpu))).unwrap();
        flat.zero_grad().unwrap();
        fc.sum(Kind::Float).backward();
        assert_eq!(f64::try_from(flat.gradients().sum(Kind::Float)).unwrap(), 14.);
    }

    #[test]
    fn a_parameter_that_left_the_buffer_is_an_error() {
        let mut store = store();
        let flat = flatten(&store);
        store.double();
        let error = flat.zero_grad().unwrap_err().to_string();
        assert!(error.contains("left the optimizer's buffer"), "{error}");
    }

    #[test]
    fn channels_last_weights_stay_channels_last() {
        let store = store();
        let mut conv = store.variables().remove("conv_weight").unwrap();
        let last = [27, 1, 9, 3];
        let value = conv.detach().copy();
        conv.set_data(&value.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]));
        assert_eq!(conv.stride(), last);
        flatten(&store);
        assert_eq!(store.variables()["conv_weight"].stride(), last);
        assert_eq!(store.variables()["conv_weight"].grad().stride(), last);
        assert!(store.variables()["conv_weight"].equal(&value));
    }

    #[test]
    fn groups_are_contiguous_with_what_decays_first() {
        let store = store();
        let flat = flatten(&store);
        let groups: Vec<_> =
            flat.groups().iter().map(|(group, range)| (group.decay_scale, range.clone())).collect();
        assert_eq!(groups, [(1., 0..128), (0., 128..144)]);
        let names: Vec<_> = flat.segments().iter().map(|s| (s.name.as_str(), s.offset)).collect();
        assert_eq!(names, [("conv_weight", 0), ("fc_weight", 112), ("norm_weight", 128)]);
    }

    #[test]
    fn names_end_at_a_separator() {
        let x = Tensor::zeros([2, 2], (Kind::Float, Device::Cpu));
        let decays = |name| Group::by_shape(name, &x, &["pos_embed"]) == Group::DECAYED;
        assert!(!decays("pos_embed") && !decays("student/encoder.pos_embed"));
        assert!(decays("encoder.x_pos_embed") && decays("pos_embed.weight"));
    }

    #[test]
    fn unusable_sets_of_parameters_are_refused() {
        let of = |named: Vec<(&str, Tensor)>| {
            let named = named.into_iter().map(|(name, x)| (name.to_string(), x)).collect();
            Flat::new(named, &|_, _| Group::DECAYED).unwrap_err().to_string()
        };
        let x = |kind| Tensor::zeros([2], (kind, Device::Cpu)).set_requires_grad(true);
        assert!(of(vec![("a", x(Kind::Float).detach())]).contains("got none"));
        assert!(of(vec![("a", x(Kind::Float)), ("b", x(Kind::Double))]).contains("Double on Cpu for b"));
        let shared = x(Kind::Float);
        assert!(of(vec![("a", shared.shallow_clone()), ("b", shared)]).contains("b shares its memory"));
    }
}

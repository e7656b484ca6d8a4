//! Memory for time: activations that are computed again in the backward pass instead of being kept.
//!
//! Source: Chen, Xu, Zhang & Guestrin, 2016, section 3: <https://arxiv.org/abs/1604.06174>.
#![allow(unsafe_code)]
use crate::autocast::{Autocast, Setting};
use crate::ffi::{self, Error, call, handle};
use crate::{generator_state, set_generator_state};
use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::{Device, Tensor};
use torch_sys::C_tensor;

/// Runs `f` on `x` without recording it; the backward pass runs it again and goes through it. In between, `x` is
/// kept and no activation of `f`.
///
/// The second run has the mixed precision and the random numbers of the first, so the gradients are those of
/// `f(x)`. Afterwards the generators of the CPU and of the device of `x` are as they were before it. If gradients
/// are not recorded, or `x` wants none, this is `f(x)`, recorded as usual: activations are then kept.
///
/// - `f` holds what it uses: shallow clones of parameters, whose gradients add up in place as ever. It is dropped
///   with the graph. On CUDA its second run is on another thread.
/// - What `f` changes besides, such as running statistics, it changes twice.
/// - The gradient has no gradient, and the backward pass has to be one for all leaves: `backward`, not
///   `run_backward`.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// let x = Tensor::ones([2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let w = Tensor::ones([4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
/// let inside = w.shallow_clone();
/// let f = move |x: &Tensor| -> Result<Tensor, Box<dyn std::error::Error>> {
///     Ok(x.f_matmul(&inside)?.f_gelu("none")?)
/// };
/// ssl_torch::checkpoint(&x, f)?.f_sum(Kind::Float)?.f_backward()?;
/// assert!(w.grad().defined() && x.grad().defined());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of `f`, and when libtorch refuses. If the second run fails or panics, the backward pass fails with what it
/// said.
pub fn checkpoint<E: Display + From<Error>>(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor, E> + Send + 'static,
) -> Result<Tensor, E> {
    let mut recorded = 0;
    // SAFETY: the handle lives for the call, and the pointers are valid for it.
    call(|e| unsafe { ffi::ssl_is_recorded(handle(x), &raw mut recorded, e) })?;
    if recorded == 0 {
        return f(x);
    }
    let surroundings = Surroundings::now(x.device())?;
    let y = {
        let _unrecorded = tch::no_grad_guard();
        f(x)?
    };
    let segment = move |x: &Tensor| {
        let _replayed = surroundings.enter().map_err(|error| error.to_string())?;
        f(x).map_err(|error| error.to_string())
    };
    Ok(join(x, &y, Box::new(segment))?)
}

type Segment = Box<dyn Fn(&Tensor) -> Result<Tensor, String> + Send>;

/// The value of `y` as a function of `x` whose gradient comes from `segment`.
fn join(x: &Tensor, y: &Tensor, segment: Segment) -> Result<Tensor, Error> {
    // Boxed once more: a pointer to a trait object does not fit into one of C's.
    let closure = Box::into_raw(Box::new(segment)).cast();
    let mut joined = std::ptr::null_mut();
    // SAFETY: the handles live for the call. The closure belongs to libtorch from here on, also if this fails; `run`
    // and `release` are what it needs. On success the pointer is a new tensor whose ownership passes to us.
    call(|e| unsafe {
        ffi::ssl_checkpoint(handle(x), handle(y), closure, run, release, &raw mut joined, e)
    })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(joined) })
}

/// Runs a segment for libtorch.
unsafe extern "C" fn run(
    closure: *const c_void,
    x: *mut C_tensor,
    message: *mut *mut c_char,
) -> *mut C_tensor {
    // SAFETY: libtorch passes what `join` gave it, before it calls `release`, and to one thread at a time.
    let segment = unsafe { &*closure.cast::<Segment>() };
    // SAFETY: the tensor is new and passes to us.
    let x = unsafe { Tensor::from_ptr(x) };
    // A panic must not unwind into C++. What it may have left half done is the segment's own.
    let result = catch_unwind(AssertUnwindSafe(|| segment(&x)))
        .unwrap_or_else(|payload| Err(format!("panicked: {}", panic_text(&*payload))));
    match result {
        Ok(mut y) => {
            let owned = y.as_mut_ptr();
            std::mem::forget(y);
            owned
        }
        Err(error) => {
            let text = CString::new(format!("recomputation: {error}").replace('\0', " ")).unwrap_or_default();
            // SAFETY: the text is NUL-terminated; the copy, which `free` frees, passes to libtorch by a valid pointer.
            unsafe { *message = libc::strdup(text.as_ptr()) };
            std::ptr::null_mut()
        }
    }
}

/// Drops a segment for libtorch.
unsafe extern "C" fn release(closure: *mut c_void) {
    // SAFETY: libtorch passes what `join` gave it, once, after the last run.
    let segment = unsafe { Box::from_raw(closure.cast::<Segment>()) };
    // A panic must not unwind into C++, and a drop has no way to report one.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(segment)));
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// What decides, besides parameters and input, what a segment computes.
struct Surroundings {
    precision: [Setting; 2],
    generators: Generators,
}

impl Surroundings {
    fn now(device: Device) -> Result<Self, Error> {
        let precision = [Setting::now(Device::Cpu)?, Setting::now(Device::Cuda(0))?];
        Ok(Surroundings { precision, generators: Generators::now(device)? })
    }

    fn enter(&self) -> Result<Replayed, Error> {
        let [cpu, cuda] = self.precision;
        let precision = [cpu.enter()?, cuda.enter()?];
        let before = Generators::now(self.generators.device)?;
        // Made before the states are set: should that fail halfway, its drop sets them back.
        let replayed = Replayed { _precision: precision, before };
        self.generators.set()?;
        Ok(replayed)
    }
}

/// The former surroundings come back when it is dropped, also on a panic.
struct Replayed {
    _precision: [Autocast; 2],
    before: Generators,
}

impl Drop for Replayed {
    fn drop(&mut self) {
        // The states were read from these generators and fit them.
        let _ = self.before.set();
    }
}

/// The states of the generators of the CPU and of a device.
struct Generators {
    device: Device,
    cpu: Tensor,
    cuda: Option<Tensor>,
}

impl Generators {
    fn now(device: Device) -> Result<Self, Error> {
        let cuda = device.is_cuda().then(|| generator_state(device)).transpose()?;
        Ok(Generators { device, cpu: generator_state(Device::Cpu)?, cuda })
    }

    fn set(&self) -> Result<(), Error> {
        set_generator_state(Device::Cpu, &self.cpu)?;
        self.cuda.as_ref().map_or(Ok(()), |state| set_generator_state(self.device, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set_grad;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tch::Kind;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
    type Outcome = Result<Tensor, Box<dyn std::error::Error>>;

    fn leaf(size: &[i64]) -> Tensor {
        Tensor::randn(size, CPU).set_requires_grad(true)
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        let flat = x.to_kind(Kind::Float).reshape([-1]);
        Vec::<f32>::try_from(flat).unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// A residual block with dropout that uses its weight twice.
    fn block(w: &Tensor) -> impl Fn(&Tensor) -> Outcome + Send + 'static {
        let w = w.shallow_clone();
        move |x| Ok(x.f_matmul(&w)?.f_gelu("none")?.f_dropout(0.5, true)?.f_matmul(&w)?.f_add(x)?)
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Plain,
        Chained,
        Nested,
    }

    /// Output, gradient of the input and gradients of two weights.
    fn pass(way: Way, kind: Option<Kind>, (x, a, b): (&Tensor, &Tensor, &Tensor)) -> Vec<Vec<u32>> {
        let leaves = [x, a, b].map(|t| t.copy().detach().set_requires_grad(true));
        let [x, a, b] = &leaves;
        let y = {
            let _scope = kind.map(|kind| Autocast::enter(Device::Cpu, kind).unwrap());
            let x = x.g_mul_scalar(1.5);
            match way {
                Way::Plain => block(b)(&block(a)(&x).unwrap()).unwrap(),
                Way::Chained => checkpoint(&checkpoint(&x, block(a)).unwrap(), block(b)).unwrap(),
                Way::Nested => {
                    let (a, b) = (a.shallow_clone(), b.shallow_clone());
                    checkpoint(&x, move |x| checkpoint(&block(&a)(x)?, block(&b))).unwrap()
                }
            }
        };
        y.to_kind(Kind::Float).square().sum(Kind::Float).backward();
        std::iter::once(bits(&y)).chain(leaves.iter().map(|leaf| bits(&leaf.grad()))).collect()
    }

    fn equals_plain(way: Way, kind: Option<Kind>) {
        let (x, a, b) = (leaf(&[6, 16]), leaf(&[16, 16]), leaf(&[16, 16]));
        let state = generator_state(Device::Cpu).unwrap();
        let expected = pass(Way::Plain, kind, (&x, &a, &b));
        assert_ne!(pass(Way::Plain, kind, (&x, &a, &b)), expected, "another mask, other gradients");
        set_generator_state(Device::Cpu, &state).unwrap();
        assert_eq!(pass(way, kind, (&x, &a, &b)), expected);
    }

    #[test]
    fn chained_segments_have_the_gradients_of_the_plain_run() {
        equals_plain(Way::Chained, None);
    }

    #[test]
    fn nested_segments_have_the_gradients_of_the_plain_run() {
        equals_plain(Way::Nested, None);
    }

    #[test]
    fn mixed_precision_is_that_of_the_forward_pass() {
        equals_plain(Way::Chained, Some(Kind::BFloat16));
        equals_plain(Way::Nested, Some(Kind::BFloat16));
    }

    #[test]
    fn gradients_add_up_in_a_flat_buffer() {
        let (x, w) = (leaf(&[6, 16]), leaf(&[16, 16]));
        let state = generator_state(Device::Cpu).unwrap();
        let accumulated = |is_checkpointed: bool| {
            set_generator_state(Device::Cpu, &state).unwrap();
            let w = w.copy().detach().set_requires_grad(true);
            let flat = Tensor::ones([300], CPU);
            set_grad(&w, &flat.narrow(0, 20, 256).view([16, 16])).unwrap();
            for _ in 0..2 {
                let y =
                    if is_checkpointed { checkpoint(&x, block(&w)).unwrap() } else { block(&w)(&x).unwrap() };
                y.sum(Kind::Float).backward();
            }
            bits(&flat)
        };
        let expected = accumulated(false);
        assert_ne!(expected, bits(&Tensor::ones([300], CPU)));
        assert_eq!(accumulated(true), expected);
    }

    #[test]
    fn the_second_run_alone_is_recorded() {
        let (x, w) = (leaf(&[6, 16]), leaf(&[16, 16]));
        let (sender, recorded) = std::sync::mpsc::channel();
        let inner = block(&w);
        let f = move |x: &Tensor| -> Outcome {
            let y = inner(x)?;
            sender.send(y.requires_grad())?;
            Ok(y)
        };
        checkpoint(&x, f).unwrap().sum(Kind::Float).backward();
        assert_eq!(recorded.try_iter().collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn the_backward_pass_leaves_the_generator_alone() {
        let (x, w) = (leaf(&[6, 16]), leaf(&[16, 16]));
        let before = generator_state(Device::Cpu).unwrap();
        let y = checkpoint(&x, block(&w)).unwrap();
        assert!(!generator_state(Device::Cpu).unwrap().equal(&before), "the forward pass draws");
        let _ = Tensor::rand([1], CPU);
        let after = generator_state(Device::Cpu).unwrap();
        y.sum(Kind::Float).backward();
        assert!(generator_state(Device::Cpu).unwrap().equal(&after));
    }

    #[test]
    fn a_weight_may_be_used_outside_the_segment_in_the_same_scope() {
        let gradient = |is_checkpointed: bool| {
            // Small whole numbers are exact in bfloat16.
            let (x, w) = (Tensor::ones([2, 4], CPU), Tensor::ones([4, 4], CPU));
            let (x, w) = (x.set_requires_grad(true), w.set_requires_grad(true));
            let inside = w.shallow_clone();
            let f = move |x: &Tensor| -> Outcome { Ok(x.f_matmul(&inside)?) };
            let _scope = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            let y = if is_checkpointed { checkpoint(&x, f).unwrap() } else { f(&x).unwrap() };
            y.matmul(&w).to_kind(Kind::Float).sum(Kind::Float).backward();
            bits(&w.grad())
        };
        assert_eq!(gradient(true), gradient(false));
    }

    /// Fails at the second run, by an error or a panic.
    fn fails_again(is_panic: bool) -> impl Fn(&Tensor) -> Outcome + Send + 'static {
        let runs = AtomicUsize::new(0);
        move |x| match runs.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(x.f_square()?),
            _ if is_panic => panic!("out of {}", "patience"),
            _ => Err("out of luck".into()),
        }
    }

    #[test]
    fn failures_in_the_backward_pass_are_errors() {
        let x = leaf(&[3]);
        for (is_panic, expected) in
            [(false, "recomputation: out of luck"), (true, "recomputation: panicked: out of patience")]
        {
            let state = generator_state(Device::Cpu).unwrap();
            let y = checkpoint(&x, fails_again(is_panic)).unwrap();
            let error = y.sum(Kind::Float).f_backward().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(generator_state(Device::Cpu).unwrap().equal(&state));
            assert!(!x.grad().defined());
        }
        checkpoint(&x, |x| -> Outcome { Ok(x.f_square()?) }).unwrap().sum(Kind::Float).backward();
        assert_eq!(bits(&x.grad()), bits(&(&x * 2.)));
    }

    #[test]
    fn failures_in_the_forward_pass_come_as_they_are_and_recording_goes_on() {
        let (x, token) = (leaf(&[3]), Arc::new(()));
        let held = Arc::clone(&token);
        let f = move |_: &Tensor| -> Result<Tensor, Error> { Err(Error(format!("{held:?}"))) };
        assert_eq!(checkpoint(&x, f).unwrap_err(), Error("()".to_string()));
        assert_eq!(Arc::strong_count(&token), 1);
        assert!(x.square().requires_grad());
    }

    /// Squares; counts its runs, and holds its counter.
    fn counted(runs: &Arc<AtomicUsize>) -> impl Fn(&Tensor) -> Outcome + Send + 'static {
        let runs = Arc::clone(runs);
        move |x| {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(x.f_square()?)
        }
    }

    #[test]
    fn the_closure_lives_as_long_as_the_graph() {
        let (x, runs) = (leaf(&[3]), Arc::new(AtomicUsize::new(0)));
        let y = checkpoint(&x, counted(&runs)).unwrap();
        let loss = y.sum(Kind::Float);
        assert_eq!((Arc::strong_count(&runs), runs.load(Ordering::Relaxed)), (2, 1));
        loss.backward();
        assert_eq!((Arc::strong_count(&runs), runs.load(Ordering::Relaxed)), (2, 2));
        drop(y);
        assert_eq!(Arc::strong_count(&runs), 2);
        drop(loss);
        assert_eq!(Arc::strong_count(&runs), 1);
    }

    #[test]
    fn without_a_gradient_it_is_the_plain_run() {
        let (x, runs) = (leaf(&[3]), Arc::new(AtomicUsize::new(0)));
        let y = {
            let _unrecorded = tch::no_grad_guard();
            checkpoint(&x, counted(&runs)).unwrap()
        };
        assert!(!y.requires_grad());
        let w = leaf(&[3]);
        let inside = w.shallow_clone();
        let f = move |x: &Tensor| -> Outcome { Ok(x.f_mul(&inside)?) };
        checkpoint(&x.detach(), f).unwrap().sum(Kind::Float).backward();
        assert_eq!(bits(&w.grad()), bits(&x));
        assert_eq!((Arc::strong_count(&runs), runs.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn a_segment_may_return_its_input_or_a_parameter() {
        let (x, w) = (leaf(&[3]), leaf(&[3]));
        checkpoint(&x, |x| -> Outcome { Ok(x.shallow_clone()) }).unwrap().sum(Kind::Float).backward();
        let inside = w.shallow_clone();
        checkpoint(&x, move |_| -> Outcome { Ok(inside.shallow_clone()) })
            .unwrap()
            .sum(Kind::Float)
            .backward();
        let ones = bits(&Tensor::ones([3], CPU));
        assert_eq!((bits(&x.grad()), bits(&w.grad())), (ones.clone(), ones));
        assert!(w.is_leaf());
    }

    #[test]
    fn a_gradient_for_chosen_leaves_is_refused() {
        let x = leaf(&[3]);
        let y = checkpoint(&x, |x| -> Outcome { Ok(x.f_square()?) }).unwrap().sum(Kind::Float);
        let error = Tensor::f_run_backward(&[y], &[&x], false, false).unwrap_err().to_string();
        assert!(error.contains("expected a plain backward pass"), "{error}");
    }

    /// Bytes of memory that this process has.
    #[cfg(target_os = "linux")]
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn activations_are_not_kept() {
        // Blocks of this size the allocator gives back at once.
        let (elements, depth) = (12 << 20, 6);
        let bytes = 4 * usize::try_from(elements).unwrap();
        let x = Tensor::ones([elements], CPU).set_requires_grad(true);
        let deep = move |x: &Tensor| -> Outcome {
            (0..depth).try_fold(x.shallow_clone(), |x, _| Ok(x.f_sigmoid()?))
        };
        let before = resident();
        let kept = deep(&x).unwrap();
        assert!(resident() - before > (depth - 1) * bytes);
        drop(kept);
        let before = resident();
        let _y = checkpoint(&x, deep).unwrap();
        assert!(resident() - before < 2 * bytes);
    }
}

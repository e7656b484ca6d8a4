//! One run from its first step to its summary, for every modality.
use crate::evaluation::{Examples, calibrate, evaluate_all};
use crate::{CommonFlags, Machine, RunConfig, RunDir};
use anyhow::{Context, Result};
use indicatif::ProgressDrawTarget;
use serde_json::{Value, json};
use ssl_core::checkpoint::{self, write_tensors};
use ssl_core::eval::{CollapseAlarm, Features, LinearOptions, Options, linear};
use ssl_core::hooks::{Checkpoints, CollapseWatch, OnCollapse, OnlineKnn};
use ssl_core::record::{Console, JsonLines, Progress, Recorder, Tee, TensorBoard, peak_rss_mib, read_curves};
use ssl_core::{Batch, Hook, Loader, Method, Schedule, Source, TrainConfig, Trainer, named_tensors};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tch::Tensor;

/// A method that is chosen at run time.
pub type DynMethod<B, I> = dyn Method<Batch = B, Input = I>;

/// What a modality brings to a run.
pub struct Parts<'a, B: Batch, I: Batch> {
    /// Builds the method; its initialization depends on libtorch's generator, which the run seeds.
    pub build: &'a dyn Fn() -> ssl_core::Result<Box<DynMethod<B, I>>>,
    /// Training batches.
    pub source: &'a dyn Source<Batch = B>,
    /// Batches that the method has not seen, for the pretext task itself.
    pub held_out: Vec<B>,
    /// Clean training examples.
    pub train: &'a dyn Examples<I>,
    /// Clean test examples.
    pub test: Option<&'a dyn Examples<I>>,
    /// Length, batch, optimizer, schedules.
    pub config: TrainConfig,
    /// The encoder's name.
    pub encoder: String,
    /// How to prepare an input for the encoder: written into `encoder.safetensors`.
    pub preprocess: Value,
    /// Whether to probe every stage of the encoder, not the last one only.
    pub probe_stages: bool,
}

impl<B: Batch, I: Batch> std::fmt::Debug for Parts<'_, B, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("encoder", &self.encoder)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A run: what to do, where, and on which machine.
#[derive(Debug)]
pub struct Experiment<'a> {
    /// Everything needed to run it again.
    pub config: &'a RunConfig,
    /// Where it is written.
    pub dir: &'a RunDir,
    /// The flags.
    pub flags: &'a CommonFlags,
    /// The machine.
    pub machine: Machine,
    /// Raised by Ctrl-C.
    pub stop: Arc<AtomicBool>,
    /// When the program began.
    pub began: Instant,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// With this summary.
    Finished(Value),
    /// By Ctrl-C; the directory can be resumed.
    Interrupted {
        /// The step to go on from.
        next_step: u64,
    },
}

impl Experiment<'_> {
    /// Trains, takes the statistics anew, writes the encoder, evaluates, and sums up.
    ///
    /// # Errors
    /// The first thing that goes wrong; checkpoints written so far stay.
    pub fn run<B: Batch + 'static, I: Batch + 'static>(&self, parts: &Parts<'_, B, I>) -> Result<Outcome> {
        ssl_core::trainer::seed_torch(self.config.seed, u64::MAX);
        let mut method = (parts.build)()?;
        let mut optimizer = parts.config.optimizer.build(named_tensors(method.as_ref()))?;
        let per_epoch = parts.source.batches_per_epoch();
        let total_steps = parts.config.total_steps(per_epoch)?;
        let checkpoints = self.dir.checkpoints(self.flags.keep);
        let first = match checkpoints.latest()? {
            Some((path, _)) => checkpoint::load(&path, method.as_ref(), optimizer.as_ref())?.next_step,
            None => 0,
        };
        let setup = self.began.elapsed().as_secs_f64();

        let train_began = Instant::now();
        if !self.flags.eval_only && first < total_steps {
            let trainer = Trainer {
                total_steps,
                seed: self.config.seed,
                loader: Loader { device: self.machine.device, prefetch: self.prefetch() },
                precision: self.config.precision,
                learning_rate: parts.config.learning_rate(per_epoch, total_steps),
                weight_decay: Schedule::constant(parts.config.weight_decay),
                clip_norm: parts.config.clip_norm,
                accumulate: parts.config.accumulate,
                log_every: (total_steps / 100).clamp(1, 50),
            };
            let mut hooks = self.hooks(parts, total_steps)?;
            let mut hooks: Vec<&mut dyn Hook<DynMethod<B, I>>> =
                hooks.iter_mut().map(|hook| &mut **hook as &mut dyn Hook<DynMethod<B, I>>).collect();
            let batch = parts.config.batch_size as u64;
            let mut recorder = self.recorder(first, total_steps, batch)?;
            let steps = first..total_steps;
            let next_step = trainer.fit(
                method.as_mut(),
                optimizer.as_mut(),
                parts.source,
                steps,
                &mut hooks,
                &mut recorder,
            )?;
            if next_step < total_steps {
                return Ok(Outcome::Interrupted { next_step });
            }
        }
        let train = train_began.elapsed().as_secs_f64();

        let eval_began = Instant::now();
        let calibrated = calibrate(method.as_ref(), parts.train, &self.machine)?;
        self.write_encoder(method.as_ref(), &parts.encoder, &parts.preprocess)?;
        let mut summary = json!({
            "modality": self.config.modality,
            "method": self.config.method,
            "dataset": self.config.data,
            "encoder": parts.encoder,
            "seed": self.config.seed,
            "device": self.machine.device_name(),
            "precision": self.config.precision,
            "threads": self.machine.threads,
            "steps": total_steps,
            "batch_size": parts.config.batch_size,
            "samples": total_steps * parts.config.batch_size as u64,
            "train_examples": parts.train.len(),
        });
        let evaluation =
            if self.flags.no_eval { json!({}) } else { self.evaluate(parts, method.as_ref(), calibrated)? };
        let eval = eval_began.elapsed().as_secs_f64();
        let trained = (total_steps - first.min(total_steps)) * parts.config.batch_size as u64;
        let round = |x: f64| (x * 100.).round() / 100.;
        let mut tail = json!({
            "seconds": {"setup": round(setup), "train": round(train), "eval": round(eval)},
            "samples_per_second": round(trained as f64 / train.max(1e-9)),
            "peak_rss_mib": peak_rss_mib(),
            "loss": self.losses()?,
        });
        merge(&mut tail, evaluation);
        merge(&mut tail, json!({"run_dir": self.dir.path(), "version": self.config.version}));
        merge(&mut summary, tail);
        self.dir.write_json("summary.json", &summary)?;
        Ok(Outcome::Finished(summary))
    }

    fn prefetch(&self) -> usize {
        // On the CPU the step uses every core, and a thread beside it makes its barriers wait.
        self.flags.prefetch.unwrap_or(if self.machine.device.is_cuda() { 3 } else { 0 })
    }

    fn hooks<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
        total_steps: u64,
    ) -> Result<Vec<Box<dyn Hook<DynMethod<B, I>>>>> {
        let config = serde_json::to_value(self.config)?;
        let every = if self.flags.looks == 0 { 0 } else { total_steps.div_ceil(self.flags.looks) };
        let mut hooks: Vec<Box<dyn Hook<DynMethod<B, I>>>> = Vec::new();
        let on_collapse = if self.flags.stop_on_collapse { OnCollapse::Stop } else { OnCollapse::Warn };
        let inputs = parts.train.inputs(0..parts.train.len().min(512))?;
        hooks.push(Box::new(CollapseWatch { inputs, alarm: CollapseAlarm::default(), every, on_collapse }));
        if let Some((bank, queries)) =
            parts.test.and_then(|test| Some((sample(parts.train, 2000)?, sample(test, 500)?)))
        {
            let keep_best = Some((self.dir.checkpoints(self.flags.keep), config.clone()));
            hooks.push(Box::new(OnlineKnn { bank: bank?, queries: queries?, every, keep_best, best: None }));
        }
        hooks.push(Box::new(Checkpoints {
            dir: self.dir.checkpoints(self.flags.keep),
            every: self.flags.checkpoint_every.unwrap_or_else(|| total_steps.div_ceil(10)),
            config,
            stop: Arc::clone(&self.stop),
        }));
        Ok(hooks)
    }

    fn recorder(&self, first: u64, total_steps: u64, batch_size: u64) -> Result<Tee<'static>> {
        let metrics = self.dir.file("metrics.jsonl");
        let lines = if first == 0 { JsonLines::create(metrics)? } else { JsonLines::resume(metrics, first)? };
        let mut sinks: Vec<Box<dyn Recorder>> = vec![Box::new(lines)];
        sinks.push(Box::new(TensorBoard::create(self.dir.path())?));
        let progress = Progress { first_step: first, total_steps, batch_size };
        sinks.push(Box::new(if self.flags.quiet {
            Console::messages(Box::new(std::io::stderr()))
        } else if std::io::stderr().is_terminal() {
            Console::bar(ProgressDrawTarget::stderr(), progress)
        } else {
            Console::lines(Box::new(std::io::stderr()), progress, Duration::from_secs(10))
        }));
        Ok(Tee::new(sinks))
    }

    /// The thing one keeps: reference names, and a header that says how to prepare an input.
    fn write_encoder<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        encoder: &str,
        preprocess: &Value,
    ) -> Result<()> {
        let header = json!({
            "format": "ssl-rs encoder",
            "version": self.config.version,
            "modality": self.config.modality,
            "method": self.config.method,
            "encoder": encoder,
            "preprocess": preprocess,
        });
        let path = self.dir.file("encoder.safetensors");
        write_tensors(&path, &method.encoder(), &header).context("cannot write the encoder")
    }

    fn evaluate<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
        method: &DynMethod<B, I>,
        calibrated: usize,
    ) -> Result<Value> {
        let say = |text: &str| {
            if !self.flags.quiet {
                eprintln!("{text}");
            }
        };
        let mut result = json!({});
        let pretext = self.pretext(method, &parts.held_out)?;
        if pretext.as_object().is_some_and(|object| !object.is_empty()) {
            merge(&mut result, json!({"pretext": pretext}));
        }
        let Some(test) = parts.test else {
            say("no test examples: the probes are left out");
            return Ok(result);
        };
        let untrained = if self.flags.no_floors { None } else { Some(self.untrained(parts)?) };
        let options = Options { seed: self.config.seed, ..Options::default() };
        let Some(evaluation) =
            evaluate_all(method, untrained.as_deref(), (parts.train, test), &self.machine, &options, &say)?
        else {
            say("no labels: the probes are left out");
            return Ok(result);
        };
        let mut evaluation = serde_json::to_value(evaluation)?;
        if let Some(eval) = evaluation.get_mut("eval") {
            let protocol = format!(
                "offline, frozen encoder, before any head, statistics recalibrated on {calibrated} clean training examples"
            );
            merge(eval, json!({"protocol": protocol}));
        }
        merge(&mut result, evaluation);
        if parts.probe_stages {
            say("probing every stage");
            let trained = self.stages(method, parts.train, test)?;
            let untrained = self.untrained(parts)?;
            calibrate(untrained.as_ref(), parts.train, &self.machine)?;
            let recalibrated = self.stages(untrained.as_ref(), parts.train, test)?;
            let untouched = self.stages(self.untrained(parts)?.as_ref(), parts.train, test)?;
            let stages = json!({"linear": trained, "random_init_recalibrated": recalibrated, "random_init_untouched": untouched, "train_examples": STAGE_EXAMPLES.min(parts.train.len())});
            merge(&mut result, json!({"stages": stages}));
        }
        Ok(result)
    }

    /// The same method from another seed, untrained.
    fn untrained<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
    ) -> Result<Box<DynMethod<B, I>>> {
        ssl_core::trainer::seed_torch(self.config.seed, u64::MAX);
        Ok((parts.build)()?)
    }

    /// The pretext task on held-out batches: the mean of each number.
    fn pretext<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        held_out: &[B],
    ) -> Result<Value> {
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        for batch in held_out {
            let batch = batch.to_device(self.machine.device)?;
            let found = self.machine.precision.scope(self.machine.device, || method.validate(&batch))?;
            for (name, value) in found {
                let value = f64::try_from(value)? / held_out.len() as f64;
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        Ok(sums
            .into_iter()
            .map(|(name, value)| (name.to_string(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into())
    }

    /// A linear probe of each stage, on a part of the training examples.
    fn stages<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        train: &dyn Examples<I>,
        test: &dyn Examples<I>,
    ) -> Result<Value> {
        let all = |set: &dyn Examples<I>, n: usize| -> Result<Vec<(String, Features)>> {
            let labels = set.labels().unwrap_or_default();
            let mut parts: Vec<(String, Vec<Tensor>)> = Vec::new();
            for start in (0..n).step_by(500) {
                let input = set.inputs(start..n.min(start + 500))?.to_device(self.machine.device)?;
                let stages = self.machine.precision.scope(self.machine.device, || method.stages(&input))?;
                for (i, (name, features)) in stages.into_iter().enumerate() {
                    let features = features.f_to_device(tch::Device::Cpu)?;
                    match parts.get_mut(i) {
                        Some((_, blocks)) => blocks.push(features),
                        None => parts.push((name, vec![features])),
                    }
                }
            }
            let labels: Vec<i64> = labels.into_iter().take(n).collect();
            let one = |(name, blocks): (String, Vec<Tensor>)| -> Result<(String, Features)> {
                Ok((name, Features::new(&Tensor::f_cat(&blocks, 0)?, labels.clone())?))
            };
            parts.into_iter().map(one).collect()
        };
        let (train, test) = (all(train, train.len().min(STAGE_EXAMPLES))?, all(test, test.len())?);
        let options = LinearOptions { seed: self.config.seed, ..LinearOptions::default() };
        let mut accuracies = serde_json::Map::new();
        for ((name, train), (_, test)) in train.iter().zip(&test) {
            accuracies.insert(name.clone(), json!(linear(train, test, &options)?.accuracy));
        }
        Ok(accuracies.into())
    }

    fn losses(&self) -> Result<Value> {
        let path = self.dir.file("metrics.jsonl");
        if !path.exists() {
            return Ok(Value::Null);
        }
        let curves = read_curves(&path)?;
        let loss = curves.get("loss").cloned().unwrap_or_default();
        Ok(json!({"first": loss.first().map(|p| p.1), "last": loss.last().map(|p| p.1)}))
    }
}

/// Training examples of the probes of single stages, which are many.
const STAGE_EXAMPLES: usize = 10_000;

/// The first `n` examples and their labels; none without labels.
fn sample<I: Batch>(set: &dyn Examples<I>, n: usize) -> Option<Result<(I, Vec<i64>)>> {
    let labels: Vec<i64> = set.labels()?.into_iter().take(n).collect();
    Some(set.inputs(0..labels.len()).map(|inputs| (inputs, labels)).map_err(Into::into))
}

/// Adds the fields of one JSON object to another.
fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}

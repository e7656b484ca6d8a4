//! One run from its first step to its summary, for every modality.
use crate::evaluation::{Examples, Protocol, calibrate, draw, evaluate_all};
use crate::explanation::{self, Explain, Told};
use crate::report;
use crate::report::Reached;
use crate::summary::{file_name, keep_training};
use crate::{CommonFlags, Machine, Probes, RunConfig, RunDir};
use anyhow::{Context, Result, bail};
use indicatif::ProgressDrawTarget;
use serde_json::{Value, json};
use ssl_core::checkpoint::{self, write_tensors};
use ssl_core::eval::{CollapseAlarm, Features, Layer, LeftOutOptions, LinearOptions, Options, linear};
use ssl_core::hooks::{Checkpoints, CollapseWatch, Derived, HeldOut, OnCollapse, OnlineKnn, held_out};
use ssl_core::optim::Optimizer;
use ssl_core::record::{Console, JsonLines, Progress, Recorder, Tee, TensorBoard, peak_rss_mib, read_curves};
use ssl_core::report::Figure;
use ssl_core::{Batch, Flow, Hook, Loader, Method, Moment, Source, TrainConfig, Trainer, named_tensors};
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tch::Tensor;

/// A method that is chosen at run time.
pub type DynMethod<B, I> = dyn Method<Batch = B, Input = I>;

/// What shows batches of inputs that a method made, by name.
pub type Show<'a, I> = &'a dyn Fn(&[(String, I)]) -> Result<Figure>;

type Hooks<'a, B, I> = Vec<Box<dyn Hook<DynMethod<B, I>> + 'a>>;

/// What a modality brings to a run.
pub struct Parts<'a, B: Batch, I: Batch> {
    /// Builds the method; its initialization depends on libtorch's generator, which the run seeds.
    pub build: &'a dyn Fn() -> ssl_core::Result<Box<DynMethod<B, I>>>,
    /// The same, its encoder with the weights that training starts from.
    pub start: &'a dyn Fn() -> ssl_core::Result<Box<DynMethod<B, I>>>,
    /// Training batches.
    pub source: &'a dyn Source<Batch = B>,
    /// Batches that the method has not seen, for the pretext task itself.
    pub held_out: Vec<B>,
    /// Clean training examples.
    pub train: &'a dyn Examples<I>,
    /// Clean test examples.
    pub test: Option<&'a dyn Examples<I>>,
    /// What is asked of the frozen encoder; none asks for the labels of `train` and `test`.
    pub probes: Option<Probes<'a, I>>,
    /// Length, batch, optimizer, schedules.
    pub config: TrainConfig,
    /// The encoder's name.
    pub encoder: String,
    /// The samples found unreadable so far, each with its reason; others stand in for them.
    pub unreadable: &'a dyn Fn() -> Vec<String>,
    /// How to prepare an input for the encoder: written into `encoder.safetensors`.
    pub preprocess: Value,
    /// Where a variable of the encoder lies, by its name: fine-tuning changes the first layers least.
    pub layer_of: &'a dyn Fn(&str) -> Layer,
    /// Whether to probe every stage of the encoder, not the last one only.
    pub probe_stages: bool,
    /// Numbers that follow from the means of those on held-out batches, by name.
    pub derived: Derived<'a>,
    /// Writes what the method makes of held-out examples ([`Method::look`]) into the run's directory, and shows it.
    pub show: Show<'a, I>,
    /// Explains what the encoder looks at in test examples.
    pub explain: Explain<'a, I>,
    /// What the report shows beside its curves and tables, each under a heading.
    pub figures: Vec<(String, Figure)>,
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
        // Not only after the training.
        self.grouped(parts)?;
        ssl_core::trainer::seed_torch(self.config.seed, u64::MAX);
        let mut method = (parts.start)()?;
        let mut optimizer = parts.config.optimizer.build(named_tensors(method.as_ref()))?;
        let per_epoch = parts.source.batches_per_epoch();
        let total_steps = parts.config.total_steps(per_epoch)?;
        let checkpoints = self.dir.checkpoints(self.flags.keep);
        let first = match checkpoints.latest()? {
            Some(latest) => {
                for error in &latest.passed_over {
                    eprintln!("warning: {error}; going on from {}", latest.path.display());
                }
                checkpoint::load(&latest.path, method.as_ref(), optimizer.as_ref())?.next_step
            }
            None => {
                self.go_on_from_another_run(method.as_ref(), optimizer.as_ref())?;
                0
            }
        };
        // An encoder that was given needs no checkpoint to be evaluated.
        if self.flags.eval_only && first == 0 && self.flags.init.is_none() {
            let dir = self.dir.path().display();
            bail!("{dir}: no checkpoint to evaluate yet; leave --eval-only out to go on with the run");
        }
        let mut unreadable = Unreadable { list: parts.unreadable, told: BTreeSet::new() };
        let setup = self.began.elapsed().as_secs_f64();

        let train_began = Instant::now();
        if !self.flags.eval_only && first < total_steps {
            let trainer = Trainer {
                total_steps,
                seed: self.config.seed,
                loader: Loader { device: self.machine.device, prefetch: self.prefetch() },
                precision: self.config.precision,
                learning_rate: parts.config.learning_rate(per_epoch, total_steps)?,
                weight_decay: parts.config.weight_decay(),
                clip_norm: parts.config.clip_norm,
                accumulate: parts.config.accumulate,
                log_every: (total_steps / 100).clamp(1, 50),
            };
            let mut hooks = self.hooks(parts, total_steps)?;
            let mut hooks: Vec<&mut dyn Hook<DynMethod<B, I>>> =
                hooks.iter_mut().map(|hook| &mut **hook as &mut dyn Hook<DynMethod<B, I>>).collect();
            hooks.insert(0, &mut unreadable);
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
            if next_step < total_steps || self.stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted { next_step });
            }
        }
        let train = train_began.elapsed().as_secs_f64();

        // The run is safe in its last checkpoint: from here on Ctrl-C ends the program at once.
        self.stop.store(true, Ordering::Relaxed);
        let eval_began = Instant::now();
        // Before the statistics are taken anew: the pretext task has inputs of its own, such as tiles.
        let pretext = if self.flags.no_eval {
            json!({})
        } else {
            self.pretext(method.as_ref(), &parts.held_out, parts.derived)?
        };
        let look = self.look(method.as_ref(), parts)?;
        let calibrated = calibrate(method.as_ref(), parts.train, &self.machine, self.config.seed)?;
        self.write_encoder(method.as_ref(), &parts.encoder, &parts.preprocess)?;
        for line in unreadable.fresh() {
            eprintln!("{line}");
        }
        // Without training, the encoder is that of the checkpoint.
        let steps = if self.flags.eval_only { first } else { total_steps };
        let mut summary = json!({
            "modality": self.config.modality,
            "method": self.config.method,
            "dataset": self.config.data,
            "encoder": parts.encoder,
            "parameters": parameters(method.as_ref()),
            "seed": self.config.seed,
            "device": self.machine.device_name(),
            "precision": self.config.precision,
            "threads": self.machine.threads,
            "machine": Machine::name(),
            "steps": steps,
            "batch_size": parts.config.batch_size,
            "samples": steps * parts.config.batch_size as u64,
            "train_examples": parts.train.len(),
            "unreadable": unreadable.told.len(),
        });
        if let Some(init) = &self.config.init {
            merge(&mut summary, json!({"init": init}));
        }
        let (reached, found) = if self.flags.no_eval {
            (Vec::new(), json!({}))
        } else {
            self.evaluate(parts, method.as_ref(), calibrated)?
        };
        let mut found = with_pretext(pretext, found);
        if !self.flags.no_eval
            && let Some(bias) = self.bias(parts, method.as_ref())?
        {
            merge(&mut found, json!({"bias": bias}));
        }
        let sets = match parts.probes.as_ref().map(|probes| probes.sets.as_slice()) {
            Some([first, .., last]) => (*first, *last),
            Some([only]) => (*only, *only),
            _ => (parts.train, parts.test.unwrap_or(parts.train)),
        };
        let told = self.explain(method.as_ref(), parts, sets)?;
        let eval = eval_began.elapsed().as_secs_f64();
        let trained = (steps - first.min(steps)) * parts.config.batch_size as u64;
        let round = |x: f64| (x * 100.).round() / 100.;
        let mut tail = json!({
            "seconds": {"setup": round(setup), "train": round(train), "eval": round(eval)},
            "samples_per_second": round(trained as f64 / train.max(1e-9)),
            "peak_rss_mib": peak_rss_mib(),
            "loss": self.losses()?,
        });
        merge(&mut tail, found);
        merge(&mut tail, told.as_ref().map_or(Value::Null, Told::summary));
        merge(&mut tail, json!({"run_dir": self.dir.path(), "version": self.config.version}));
        merge(&mut summary, tail);
        if self.flags.eval_only {
            let before = std::fs::read_to_string(self.dir.file("summary.json")).unwrap_or_default();
            keep_training(&mut summary, &serde_json::from_str(&before).unwrap_or_default());
        }
        self.dir.write_json(&file_name(self.config, &self.dir.config()?), &summary)?;
        let mut figures = parts.figures.clone();
        figures.extend(look);
        let shown = (figures.as_slice(), told.as_ref());
        report::write(self.dir, &summary, &reached, shown, method.as_ref(), sets, &self.machine)?;
        Ok(Outcome::Finished(summary))
    }

    /// Takes networks, heads, teacher and optimizer from the run that this one is to continue, if there is one.
    fn go_on_from_another_run<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        optimizer: &dyn Optimizer,
    ) -> Result<()> {
        // A folder of weights in another program's layout is the modality's to load.
        let is_run = |init: &&PathBuf| init.is_dir() && !init.join("model.safetensors").exists();
        let Some(run) = self.config.init.as_ref().filter(is_run) else { return Ok(()) };
        let latest = RunDir::checkpoints_of(run, 1).latest()?;
        let latest = latest.with_context(|| {
            format!("--init {}: expected the directory of a run that has a checkpoint", run.display())
        })?;
        checkpoint::load(&latest.path, method, optimizer)?;
        Ok(())
    }

    pub(crate) fn prefetch(&self) -> usize {
        // On the CPU the step uses every core, and a thread beside it makes its barriers wait.
        self.flags.prefetch.unwrap_or(if self.machine.device.is_cuda() { 3 } else { 0 })
    }

    fn hooks<'p, B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &'p Parts<'_, B, I>,
        total_steps: u64,
    ) -> Result<Hooks<'p, B, I>> {
        let config = serde_json::to_value(self.config)?;
        let every = if self.flags.looks == 0 { 0 } else { total_steps.div_ceil(self.flags.looks) };
        let mut hooks: Hooks<'p, B, I> = Vec::new();
        let on_collapse = if self.flags.stop_on_collapse { OnCollapse::Stop } else { OnCollapse::Warn };
        let seed = self.config.seed;
        let inputs = parts.train.inputs(&draw(parts.train.len(), WATCHED, seed, WATCH_DRAW))?;
        let alarm = CollapseAlarm::default();
        hooks.push(Box::new(CollapseWatch { inputs, alarm, every, on_collapse }));
        if !parts.held_out.is_empty() {
            let (batches, derived) = (parts.held_out.as_slice(), parts.derived);
            hooks.push(Box::new(HeldOut { batches, derived, every, alarm, on_collapse }));
        }
        if let Some((bank, queries)) = online(parts, seed)? {
            let keep_best = Some((self.dir.checkpoints(self.flags.keep), config.clone()));
            hooks.push(Box::new(OnlineKnn::new(bank, queries, every, keep_best)?));
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
    ) -> Result<(Vec<Reached>, Value)> {
        let say = |text: &str| self.say(text);
        let mut result = json!({});
        let own = match (&parts.probes, parts.test) {
            (Some(_), _) => None,
            (None, Some(test)) => Probes::of_labels(parts.train, test),
            (None, None) => {
                say("no test examples: the probes are left out");
                return Ok((Vec::new(), result));
            }
        };
        let Some(probes) = parts.probes.as_ref().or(own.as_ref()) else {
            say("no labels: the probes are left out");
            return Ok((Vec::new(), result));
        };
        let untrained = if self.flags.no_floors { None } else { Some(self.untrained(parts)?) };
        let sets = (probes, parts.train);
        let found = evaluate_all(method, untrained.as_deref(), sets, &self.machine, &self.protocol(), &say)?;
        let mut protocol = "offline, frozen encoder, before any head".to_string();
        if calibrated > 0 {
            protocol += &format!(", statistics recalibrated on {calibrated} clean training examples");
        }
        let mut tasks = serde_json::Map::new();
        let mut reached = Vec::new();
        for (place, (task, evaluation)) in probes.tasks.iter().zip(found).enumerate() {
            let mut found = serde_json::to_value(&evaluation)?;
            if place == 0 {
                merge(found.get_mut("eval").unwrap_or(&mut Value::Null), json!({"protocol": protocol}));
                if !task.name.is_empty() {
                    merge(&mut result, json!({"task": task.name}));
                }
                merge(&mut result, found);
            } else {
                tasks.insert(task.name.clone(), found);
            }
            let (task, label_names) = (task.name.clone(), task.label_names.clone());
            reached.push(Reached { task, label_names, evaluation });
        }
        if !tasks.is_empty() {
            merge(&mut result, json!({"tasks": tasks}));
        }
        let Some(test) = parts.test else { return Ok((reached, result)) };
        if parts.probe_stages {
            say("probing every stage");
            let trained = self.stages(method, parts.train, test)?;
            let untrained = self.untrained(parts)?;
            calibrate(untrained.as_ref(), parts.train, &self.machine, self.config.seed)?;
            let recalibrated = self.stages(untrained.as_ref(), parts.train, test)?;
            let untouched = self.stages(self.untrained(parts)?.as_ref(), parts.train, test)?;
            let stages = json!({"linear": trained, "random_init_recalibrated": recalibrated, "random_init_untouched": untouched, "train_examples": STAGE_EXAMPLES.min(parts.train.len())});
            merge(&mut result, json!({"stages": stages}));
        }
        self.finetune(parts, method, test, &mut result)?;
        Ok((reached, result))
    }

    /// What the flags ask for.
    fn protocol(&self) -> Protocol {
        let options = Options {
            seed: self.config.seed,
            anomaly: self.flags.anomaly.then(LeftOutOptions::default),
            ..Options::default()
        };
        Protocol { options, corrupted: if self.flags.robustness { CORRUPTED } else { 0 }, viewed: VIEWED }
    }

    /// Tells the person at the terminal.
    pub(crate) fn say(&self, text: &str) {
        if !self.flags.quiet {
            eprintln!("{text}");
        }
    }

    /// The same method with the weights it began with.
    pub(crate) fn untrained<B: Batch + 'static, I: Batch + 'static>(
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
        batches: &[B],
        derived: Derived<'_>,
    ) -> Result<Value> {
        let (device, precision) = (self.machine.device, self.machine.precision);
        let mut found = held_out(method, batches, device, precision)?;
        found.extend(derived(&found));
        Ok(found
            .into_iter()
            .map(|(name, value)| (name, json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into())
    }

    /// What the method makes of a few held-out examples, if it makes something to look at.
    fn look<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        parts: &Parts<'_, B, I>,
    ) -> Result<Option<(String, Figure)>> {
        let Some(batch) = parts.held_out.first() else { return Ok(None) };
        let batch = batch.part(0, batch.len().min(SHOWN))?.to_device(self.machine.device)?;
        let rows = self.machine.precision.scope(self.machine.device, || method.look(&batch))?;
        if rows.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        let heading = format!("What the method makes of it: {}", names.join(", "));
        let rows: Vec<(String, I)> = rows
            .into_iter()
            .map(|(name, rows)| Ok((name, rows.to_device(tch::Device::Cpu)?)))
            .collect::<ssl_core::Result<_>>()?;
        Ok(Some((heading, (parts.show)(&rows)?)))
    }

    /// What the encoder looks at in examples of the last set, if that is asked for.
    fn explain<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        parts: &Parts<'_, B, I>,
        sets: (&dyn Examples<I>, &dyn Examples<I>),
    ) -> Result<Option<Told>> {
        if self.flags.no_eval || self.flags.explain == 0 {
            return Ok(None);
        }
        self.say("explaining what the encoder looks at");
        let count = (self.flags.explain, self.config.seed);
        let told =
            explanation::explain(method, sets, parts.probes.as_ref(), count, (&self.machine, parts.explain));
        told.map(Some).context("cannot explain the encoder; --explain 0 leaves that out")
    }

    /// A linear probe of each stage, on a part of the training examples.
    fn stages<B: Batch + 'static, I: Batch + 'static>(
        &self,
        method: &DynMethod<B, I>,
        train: &dyn Examples<I>,
        test: &dyn Examples<I>,
    ) -> Result<Value> {
        let all = |set: &dyn Examples<I>, indices: &[usize]| -> Result<Vec<(String, Features)>> {
            let labels = set.labels().unwrap_or_default();
            let mut parts: Vec<(String, Vec<Tensor>)> = Vec::new();
            for block in indices.chunks(set.block().max(1)) {
                let input = set.inputs(block)?.to_device(self.machine.device)?;
                let stages = self.machine.precision.scope(self.machine.device, || method.stages(&input))?;
                for (i, (name, features)) in stages.into_iter().enumerate() {
                    let features = features.f_to_device(tch::Device::Cpu)?;
                    match parts.get_mut(i) {
                        Some((_, blocks)) => blocks.push(features),
                        None => parts.push((name, vec![features])),
                    }
                }
            }
            let labels: Vec<i64> = indices.iter().filter_map(|&index| labels.get(index).copied()).collect();
            let one = |(name, blocks): (String, Vec<Tensor>)| -> Result<(String, Features)> {
                Ok((name, Features::new(&Tensor::f_cat(&blocks, 0)?, labels.clone())?))
            };
            parts.into_iter().map(one).collect()
        };
        let drawn = draw(train.len(), STAGE_EXAMPLES, self.config.seed, STAGE_DRAW);
        let (train, test) = (all(train, &drawn)?, all(test, &(0..test.len()).collect::<Vec<_>>())?);
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
        let loss = read_curves(&path)?.remove("loss").unwrap_or_default();
        Ok(json!({"first": loss.first().map(|p| p.1), "last": loss.last().map(|p| p.1)}))
    }
}

/// The numbers of an encoder that are trained, without running statistics.
fn parameters<M: Method + ?Sized>(method: &M) -> usize {
    let is_trained = |name: &str| {
        !["running_mean", "running_var", "num_batches_tracked"].iter().any(|end| name.ends_with(end))
    };
    method.encoder().iter().filter(|(name, _)| is_trained(name)).map(|(_, tensor)| tensor.numel()).sum()
}

/// Names the samples that cannot be read, each once and as soon as it is known.
struct Unreadable<'a> {
    list: &'a dyn Fn() -> Vec<String>,
    told: BTreeSet<String>,
}

impl Unreadable<'_> {
    fn fresh(&mut self) -> Vec<String> {
        let all = (self.list)().into_iter();
        all.filter(|sample| self.told.insert(sample.clone()))
            .map(|sample| format!("skipped: {sample}"))
            .collect()
    }
}

impl<M: Method + ?Sized> Hook<M> for Unreadable<'_> {
    fn after_step(&mut self, now: &Moment<'_, M>, recorder: &mut dyn Recorder) -> ssl_core::Result<Flow> {
        self.fresh().iter().try_for_each(|line| recorder.message(now.at.index, line))?;
        Ok(Flow::Continue)
    }
}

/// Test examples that are corrupted, at most: each of them some fifteen times.
const CORRUPTED: usize = 2000;
/// Test examples of which random views are made, at most: each of them ten times.
const VIEWED: usize = 1000;
/// Held-out examples of which is shown what the method makes.
const SHOWN: i64 = 12;
/// Training examples of the probes of single stages, which are many.
const STAGE_EXAMPLES: usize = 10_000;

/// Training examples that the collapse alarm looks at.
const WATCHED: usize = 512;
/// Tags that keep the streams of random numbers of one seed apart.
const WATCH_DRAW: u64 = 104;
const ONLINE_DRAW: u64 = 105;
const STAGE_DRAW: u64 = 106;

/// Inputs with their labels.
type Labelled<I> = (I, Vec<i64>);

/// Training examples that vote and others that are asked for; none without labels of at least two classes. The
/// test set has no part in choosing the best checkpoint.
fn online<B: Batch, I: Batch>(
    parts: &Parts<'_, B, I>,
    seed: u64,
) -> Result<Option<(Labelled<I>, Labelled<I>)>> {
    let asked = parts.probes.as_ref().and_then(|probes| Some((*probes.sets.first()?, probes.tasks.first()?)));
    let (train, labels, rows) = match asked {
        Some((set, task)) => {
            let rows = task.train.iter().copied().filter(|&row| row < set.len()).collect();
            (set, task.labels.clone(), rows)
        }
        None => {
            let Some(labels) = parts.train.labels() else { return Ok(None) };
            (parts.train, labels, (0..parts.train.len()).collect::<Vec<_>>())
        }
    };
    let places = draw(rows.len(), train.watched(), seed, ONLINE_DRAW);
    let drawn: Vec<usize> = places.into_iter().filter_map(|place| rows.get(place).copied()).collect();
    let (queries, bank) = drawn.split_at(drawn.len() / 5);
    let of =
        |indices: &[usize]| -> Vec<i64> { indices.iter().filter_map(|&i| labels.get(i).copied()).collect() };
    let voters = of(bank);
    // A label that no voter has cannot be found.
    let found = |index: &usize| labels.get(*index).is_some_and(|label| voters.contains(label));
    let queries: Vec<usize> = queries.iter().copied().filter(found).collect();
    if queries.is_empty() || voters.iter().all(|label| Some(label) == voters.first()) {
        return Ok(None);
    }
    Ok(Some(((train.inputs(bank)?, voters), (train.inputs(&queries)?, of(&queries)))))
}

/// What was found on the pretext task, if anything, before the rest.
fn with_pretext(pretext: Value, found: Value) -> Value {
    let mut all = json!({});
    if pretext.as_object().is_some_and(|object| !object.is_empty()) {
        merge(&mut all, json!({"pretext": pretext}));
    }
    merge(&mut all, found);
    all
}

/// Adds the fields of one JSON object to another.
pub(crate) fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}

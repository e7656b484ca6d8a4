//! What the frozen features know of the groups of the examples, what that does to the classes, and what erasing it costs.
use crate::evaluation::embed;
use crate::experiment::merge;
use crate::groups::Grouped;
use crate::{DynMethod, Experiment, Parts, Probes, Task};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use ssl_core::Batch;
use ssl_core::bias::{GroupAccuracy, Groups, Leace, Leakage, LeakageOptions, group_accuracy, leakage};
use ssl_core::eval::{Features, LinearOptions, linear};

impl Experiment<'_> {
    /// Measures the bias of the frozen encoder by the groups of `--groups`, or by a planted one; none without either.
    ///
    /// # Errors
    /// When the groups do not fit the examples, one cannot be read, or libtorch refuses.
    pub(crate) fn bias<B: Batch + 'static, I: Batch + 'static>(
        &self,
        parts: &Parts<'_, B, I>,
        method: &DynMethod<B, I>,
    ) -> Result<Option<Value>> {
        let Some((grouped, probes)) = self.grouped(parts)? else { return Ok(None) };
        let task = probes.tasks.first().context("expected a task")?;
        if task.test.is_empty() {
            self.say("no test examples: the bias is left out");
            return Ok(None);
        }
        self.say(&format!("measuring the bias by {}", grouped.column));
        let features =
            probes.features(|set| embed(method, set, &(0..set.len()).collect::<Vec<_>>(), &self.machine))?;
        let labelled = !task.labels.is_empty();
        let by_group = Task { labels: grouped.groups.clone(), ..task.clone() };
        let sides = |task: &Task| -> Result<[Features; 2]> {
            Ok([task.side(&features, &task.train)?, task.side(&features, &task.test)?])
        };
        let groups = sides(&by_group)?;
        let classes = if labelled { Some(sides(task)?) } else { None };
        let found = Measured::new(&groups, classes.as_ref(), self.config.seed)?;
        self.say(&found.said(&grouped, &task.label_names));
        Ok(Some(found.json(&grouped, &task.label_names)))
    }

    /// The groups of the sets that are measured, and what is asked of these; none where there are no groups.
    ///
    /// # Errors
    /// When the groups do not fit the examples.
    pub(crate) fn grouped<'a, B: Batch, I: Batch>(
        &self,
        parts: &Parts<'a, B, I>,
    ) -> Result<Option<(Grouped, Probes<'a, I>)>> {
        let probes = measured(parts);
        let grouped = Grouped::of(self.config.groups.as_ref(), &probes.sets)?;
        Ok(grouped.map(|grouped| (grouped, probes)))
    }
}

/// The sets that are measured, and one task: its labels may be missing.
fn measured<'a, B: Batch, I: Batch>(parts: &Parts<'a, B, I>) -> Probes<'a, I> {
    if let Some(Probes { sets, tasks }) = &parts.probes {
        return Probes { sets: sets.clone(), tasks: tasks.iter().take(1).cloned().collect() };
    }
    let sets: Vec<_> = [Some(parts.train), parts.test].into_iter().flatten().collect();
    let labels: Option<Vec<Vec<i64>>> = sets.iter().map(|set| set.labels()).collect();
    let train = parts.train.len();
    let task = Task {
        name: String::new(),
        labels: labels.unwrap_or_default().concat(),
        label_names: parts.train.label_names(),
        train: (0..train).collect(),
        test: (train..train + parts.test.map_or(0, |test| test.len())).collect(),
    };
    Probes { sets, tasks: vec![task] }
}

/// What is measured of features, before and after the erasure.
#[derive(Debug)]
struct Measured {
    leakage: [Leakage; 2],
    classified: Option<[Classified; 2]>,
    rank: i64,
    /// Groups there are.
    count: i64,
}

/// How well the classes are told by the linear probe.
#[derive(Debug)]
struct Classified {
    accuracy: f64,
    groups: Groups,
    /// The groups are pairs: the class times the number of groups plus the group.
    pairs: Groups,
}

impl Classified {
    fn new(
        [train, test]: &[Features; 2],
        groups: &[i64],
        count: i64,
        options: &LinearOptions,
    ) -> Result<Self> {
        let found = linear(train, test, options)?;
        let in_groups = |groups: &[i64]| group_accuracy(&found.predictions, test.y(), groups);
        let pairs: Vec<i64> =
            test.y().iter().zip(groups).map(|(class, group)| class * count + group).collect();
        Ok(Classified { accuracy: found.accuracy, groups: in_groups(groups)?, pairs: in_groups(&pairs)? })
    }
}

impl Measured {
    /// Features of both sides with their groups, and the same with their classes if there are some.
    fn new(groups: &[Features; 2], classes: Option<&[Features; 2]>, seed: u64) -> Result<Self> {
        let by_line = LinearOptions { seed, ..LinearOptions::default() };
        let options = LeakageOptions { linear: by_line.clone(), ..LeakageOptions::default() };
        let [train, test] = groups;
        let count = train.classes().max(test.classes());
        let labels = classes.map(|[train, test]| [train.y(), test.y()]);
        let eraser = Leace::fit(train)?;
        let erase = |[train, test]: &[Features; 2]| -> Result<[Features; 2]> {
            Ok([eraser.erase_from(train)?, eraser.erase_from(test)?])
        };
        let leaks = |[train, test]: &[Features; 2]| leakage(train, test, labels, &options);
        let classified = |classes: &[Features; 2]| Classified::new(classes, test.y(), count, &by_line);
        let before_and_after = |classes: &[Features; 2]| -> Result<[Classified; 2]> {
            Ok([classified(classes)?, classified(&erase(classes)?)?])
        };
        Ok(Measured {
            leakage: [leaks(groups)?, leaks(&erase(groups)?)?],
            classified: classes.map(before_and_after).transpose()?,
            rank: eraser.rank(),
            count,
        })
    }

    /// As it stands in the summary.
    fn json(&self, grouped: &Grouped, label_names: &[String]) -> Value {
        let [leakage, erased] = &self.leakage;
        let mut all = json!({
            "column": grouped.column,
            "names": grouped.names,
            "protocol": "offline, frozen encoder, before any head; the group by the protocol's probes; erased by LEACE fitted to the training set",
            "leakage": leakage,
        });
        let mut after = json!({"rank": self.rank, "leakage": erased});
        if let Some([before, erased]) = &self.classified {
            let pair = |pair| self.pair(pair, grouped, label_names);
            let of = |found: &Classified| {
                json!({
                    "linear": found.accuracy,
                    "groups": in_words(&found.groups, &|group| name_of(&grouped.names, group)),
                    "worst_class_and_group": worst(&found.pairs).map(|of| one(of, &pair)),
                })
            };
            merge(&mut all, of(before));
            merge(&mut after, of(erased));
            merge(&mut after, json!({"cost": before.accuracy - erased.accuracy}));
        }
        merge(&mut all, json!({"erased": after}));
        all
    }

    /// The names of the class and the group of a pair.
    fn pair(&self, pair: i64, grouped: &Grouped, label_names: &[String]) -> String {
        let (class, group) = (pair / self.count.max(1), pair % self.count.max(1));
        format!("{}, {}", name_of(label_names, class), name_of(&grouped.names, group))
    }

    /// As a person reads it.
    fn said(&self, grouped: &Grouped, label_names: &[String]) -> String {
        let [leakage, erased] = &self.leakage;
        let mut lines = Vec::new();
        if let Some([before, _]) = &self.classified {
            lines.push(format!(
                "{:>9} {:>17} {:>8}  GROUP BY {}",
                "ACCURACY", "95 % INTERVAL", "EXAMPLES", grouped.column
            ));
            for &GroupAccuracy { group, n, accuracy, interval: [low, high] } in &before.groups.groups {
                let (accuracy, name) = (percent(accuracy), name_of(&grouped.names, group));
                let interval = format!("{} to {}", percent(low), percent(high));
                lines.push(format!("{accuracy:>9} {interval:>17} {n:>8}  {name}"));
            }
        }
        let told = |of: &Leakage| {
            format!("{} by the linear probe, {} by its neighbors", percent(of.linear), percent(of.knn))
        };
        let class = leakage.from_label.map(|share| format!(", {} from its class alone", percent(share)));
        lines.push(format!("the group of a test example is told with {}", told(leakage)));
        lines.push(format!(
            "without features: {} by the most frequent group{}",
            percent(leakage.majority),
            class.unwrap_or_default()
        ));
        lines.push(format!("after the erasure: {}", told(erased)));
        for (when, found) in ["before", "after"].iter().zip(self.classified.iter().flatten()) {
            let pair = worst(&found.pairs).map(|of| {
                let name = self.pair(of.group, grouped, label_names);
                format!("; the worst of class and group: {} of {} ({name})", percent(of.accuracy), of.n)
            });
            lines.push(format!(
                "the class {when} it: {}, gap between groups {}{}",
                percent(found.accuracy),
                percent(found.groups.gap),
                pair.unwrap_or_default()
            ));
        }
        lines.join("\n")
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100. * share)
}

fn name_of(names: &[String], number: i64) -> String {
    usize::try_from(number)
        .ok()
        .and_then(|place| names.get(place))
        .cloned()
        .unwrap_or_else(|| number.to_string())
}

fn worst(groups: &Groups) -> Option<&GroupAccuracy> {
    groups.groups.iter().find(|of| of.group == groups.worst)
}

fn one(of: &GroupAccuracy, name: &dyn Fn(i64) -> String) -> Value {
    json!({"name": name(of.group), "n": of.n, "accuracy": of.accuracy, "interval": of.interval})
}

fn in_words(groups: &Groups, name: &dyn Fn(i64) -> String) -> Value {
    json!({
        "groups": groups.groups.iter().map(|of| one(of, name)).collect::<Vec<_>>(),
        "best": name(groups.best),
        "worst": name(groups.worst),
        "gap": groups.gap,
        "gap_interval": groups.gap_interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    /// Two classes, each mostly of one group; of three features one knows the class and one the group.
    fn sides(n: i64, shift: i64) -> ([Features; 2], [Features; 2]) {
        let of = |n: i64, shift: i64| {
            let classes: Vec<i64> = (0..n).map(|row| row % 2).collect();
            let groups: Vec<i64> =
                (0..n).map(|row| if row / 2 % 5 == 0 { 1 - row % 2 } else { row % 2 }).collect();
            let [class, group] =
                [&classes, &groups].map(|of| Tensor::from_slice(of).to_kind(Kind::Double) * 2 - 1);
            let noise = ((Tensor::arange(n * 3, (Kind::Double, Device::Cpu)) + shift).square() * 0.37).sin();
            let scale = Tensor::from_slice(&[1.6, 0.9, 0.9]);
            let x = Tensor::stack(&[class.shallow_clone(), group, class.zeros_like()], 1)
                + noise.view([n, 3]) * scale;
            (Features::new(&x, groups).unwrap(), Features::new(&x, classes).unwrap())
        };
        let ((a, b), (c, d)) = (of(2 * n, 0), of(n, shift));
        ([a, c], [b, d])
    }

    #[test]
    fn the_group_is_found_erased_and_the_cost_of_it_given() {
        let (groups, classes) = sides(1000, 9000);
        let found = Measured::new(&groups, Some(&classes), 0).unwrap();
        let grouped =
            Grouped { column: "sex".into(), names: vec!["f".into(), "m".into()], groups: Vec::new() };
        let labels = ["cat".to_string(), "dog".to_string()];
        let json = found.json(&grouped, &labels);
        let number = |path: &str| json.pointer(path).unwrap().as_f64().unwrap();
        assert!(number("/leakage/linear") > 0.95, "{json}");
        assert_eq!((number("/leakage/from_label"), number("/leakage/majority")), (0.8, 0.5));
        assert!((number("/erased/leakage/linear") - 0.5).abs() < 0.05, "{json}");
        assert_eq!(json["erased"]["rank"], 1);
        assert!((number("/linear") - number("/erased/linear") - number("/erased/cost")).abs() < 1e-12);
        assert!(number("/erased/cost") > 0.02, "what the class shares with the group is gone too: {json}");
        let worst = json["worst_class_and_group"]["name"].as_str().unwrap();
        assert!(["cat, m", "dog, f"].contains(&worst), "those that go against the rule: {worst}");
        assert_eq!(json["groups"]["groups"][1]["name"], "m");
        let worst = |path: &str| number(&format!("{path}/worst_class_and_group/accuracy"));
        assert!(worst("") < number("/linear") && worst("/erased") <= number("/erased/linear"), "{json}");
        let said = found.said(&grouped, &labels);
        assert!(said.contains("GROUP BY sex") && said.contains("80.0 % from its class alone"), "{said}");
        assert_eq!(said.lines().count(), 8, "{said}");
    }

    #[test]
    fn without_classes_the_group_is_told_all_the_same() {
        let (groups, _) = sides(200, 9000);
        let found = Measured::new(&groups, None, 0).unwrap();
        let grouped =
            Grouped { column: "sex".into(), names: vec!["f".into(), "m".into()], groups: Vec::new() };
        let json = found.json(&grouped, &[]);
        assert!(json["leakage"]["from_label"].is_null() && json.get("groups").is_none());
        assert!(json["erased"].get("cost").is_none() && json["leakage"]["linear"].as_f64().unwrap() > 0.9);
        assert_eq!(found.said(&grouped, &[]).lines().count(), 3);
    }
}

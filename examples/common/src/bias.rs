//! What the frozen features know of the groups of the examples, what that does to the classes, and what erasing it costs.
use crate::evaluation::embed;
use crate::groups::Grouped;
use crate::{DynMethod, Experiment, Parts};
use crate::{Probes, Task};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use ssl_core::Batch;
use ssl_core::bias::{GroupAccuracy, Groups, Leace, Leakage, LeakageOptions, group_accuracy, leakage};
use ssl_core::eval::{Features, Linear, LinearOptions, linear};

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

/// What is measured of features.
#[derive(Debug)]
struct Measured {
    leakage: Leakage,
    erased: Leakage,
    rank: i64,
    of_classes: Option<OfClasses>,
}

/// What is measured of the classes, before and after the erasure.
#[derive(Debug)]
struct OfClasses {
    linear: f64,
    groups: Groups,
    /// The groups are pairs: the class times `count` plus the group.
    cells: Groups,
    count: i64,
    erased: f64,
    erased_groups: Groups,
}

impl OfClasses {
    /// The class and the group of a pair.
    fn parted(&self, pair: i64) -> (i64, i64) {
        (pair / self.count.max(1), pair % self.count.max(1))
    }
}

impl Measured {
    /// Features of both sides with their groups, and the same with their classes if there are some.
    fn new(groups: &[Features; 2], classes: Option<&[Features; 2]>, seed: u64) -> Result<Self> {
        let by_line = LinearOptions { seed, ..LinearOptions::default() };
        let options = LeakageOptions { linear: by_line.clone(), ..LeakageOptions::default() };
        let [train, test] = groups;
        let labels = classes.map(|[train, test]| [train.y(), test.y()]);
        let eraser = Leace::fit(train)?;
        let erase = |[train, test]: &[Features; 2]| -> ssl_core::Result<[Features; 2]> {
            Ok([eraser.erase_from(train)?, eraser.erase_from(test)?])
        };
        let [erased_train, erased_test] = erase(groups)?;
        let of_classes = classes.map(|classes| -> ssl_core::Result<OfClasses> {
            let [class_train, class_test] = classes;
            let in_groups = |found: &Linear| group_accuracy(&found.predictions, class_test.y(), test.y());
            let count = train.classes().max(test.classes());
            let pairs: Vec<i64> =
                class_test.y().iter().zip(test.y()).map(|(class, group)| class * count + group).collect();
            let before = linear(class_train, class_test, &by_line)?;
            let [erased_train, erased_test] = erase(classes)?;
            let after = linear(&erased_train, &erased_test, &by_line)?;
            Ok(OfClasses {
                groups: in_groups(&before)?,
                cells: group_accuracy(&before.predictions, class_test.y(), &pairs)?,
                count,
                erased_groups: in_groups(&after)?,
                linear: before.accuracy,
                erased: after.accuracy,
            })
        });
        Ok(Measured {
            leakage: leakage(train, test, labels, &options)?,
            erased: leakage(&erased_train, &erased_test, labels, &options)?,
            rank: eraser.rank(),
            of_classes: of_classes.transpose()?,
        })
    }

    /// As it stands in the summary.
    fn json(&self, grouped: &Grouped, label_names: &[String]) -> Value {
        let mut erased = json!({"rank": self.rank, "leakage": self.erased});
        let mut all = json!({
            "column": grouped.column,
            "names": grouped.names,
            "protocol": "offline, frozen encoder; the group by the protocol's probes; erased by LEACE fitted to the training set",
            "leakage": self.leakage,
        });
        let both = (all.as_object_mut(), erased.as_object_mut());
        if let (Some(of), (Some(all), Some(erased))) = (&self.of_classes, both) {
            let name = |group: i64| name_of(&grouped.names, group);
            all.insert("linear".into(), json!(of.linear));
            all.insert("groups".into(), in_words(&of.groups, &name));
            let pair = |pair: i64| {
                let (class, group) = of.parted(pair);
                format!("{}, {}", name_of(label_names, class), name(group))
            };
            all.insert("worst_class_and_group".into(), one(worst(&of.cells), &pair));
            erased.insert("linear".into(), json!(of.erased));
            erased.insert("cost".into(), json!(of.linear - of.erased));
            erased.insert("gap".into(), json!(of.erased_groups.gap));
        }
        if let Some(all) = all.as_object_mut() {
            all.insert("erased".into(), erased);
        }
        all
    }

    /// As a person reads it.
    fn said(&self, grouped: &Grouped, label_names: &[String]) -> String {
        let percent = |share: f64| format!("{:.1} %", 100. * share);
        let mut lines = Vec::new();
        if let Some(of) = &self.of_classes {
            lines.push(format!(
                "{:>9} {:>17} {:>8}  GROUP BY {}",
                "ACCURACY", "95 % INTERVAL", "EXAMPLES", grouped.column
            ));
            for GroupAccuracy { group, n, accuracy, interval: [low, high] } in &of.groups.groups {
                let interval = format!("{} to {}", percent(*low), percent(*high));
                lines.push(format!(
                    "{:>9} {interval:>17} {n:>8}  {}",
                    percent(*accuracy),
                    name_of(&grouped.names, *group)
                ));
            }
            let cell = worst(&of.cells).map(|cell| {
                let (class, group) = of.parted(cell.group);
                let (class, group) = (name_of(label_names, class), name_of(&grouped.names, group));
                format!(
                    "; the worst of class and group: {} of {} ({class}, {group})",
                    percent(cell.accuracy),
                    cell.n
                )
            });
            lines.push(format!("largest gap: {}{}", percent(of.groups.gap), cell.unwrap_or_default()));
        }
        let told = |of: &Leakage| {
            format!("{} by the linear probe, {} by its neighbors", percent(of.linear), percent(of.knn))
        };
        let class = self.leakage.from_label.map(|share| format!(", {} from its class alone", percent(share)));
        lines.push(format!("the group of a test example is told with {}", told(&self.leakage)));
        lines.push(format!(
            "without features: {} by the most frequent group{}",
            percent(self.leakage.majority),
            class.unwrap_or_default()
        ));
        lines.push(format!("after the erasure: {}", told(&self.erased)));
        if let Some(of) = &self.of_classes {
            lines.push(format!(
                "the class, by the linear probe: {} before, {} after",
                percent(of.linear),
                percent(of.erased)
            ));
        }
        lines.join("\n")
    }
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

fn one(of: Option<&GroupAccuracy>, name: &dyn Fn(i64) -> String) -> Value {
    of.map_or(
        Value::Null,
        |of| json!({"name": name(of.group), "n": of.n, "accuracy": of.accuracy, "interval": of.interval}),
    )
}

fn in_words(groups: &Groups, name: &dyn Fn(i64) -> String) -> Value {
    json!({
        "groups": groups.groups.iter().map(|of| one(Some(of), name)).collect::<Vec<_>>(),
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
            let x = Tensor::stack(&[class.shallow_clone(), group, class * 0], 1) + noise.view([n, 3]) * scale;
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

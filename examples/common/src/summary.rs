//! Where a summary is written, and what one of an evaluation alone takes from that of the training.
use crate::RunConfig;
use serde_json::Value;
use std::path::Path;

/// The file of a summary: an evaluation on other data than the run's leaves the run's own as it is.
pub(crate) fn file_name(config: &RunConfig, saved: &RunConfig) -> String {
    let other = |now: &Option<String>, then: &Option<String>| now.clone().filter(|_| now != then);
    let data = other(&config.eval_data, &saved.eval_data)
        .or_else(|| other(&Some(config.data.clone()), &Some(saved.data.clone())));
    let Some(data) = data else { return "summary.json".to_string() };
    let last = Path::new(&data).file_name().map_or(data.clone(), |name| name.to_string_lossy().into_owned());
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    format!("summary-{}.json", last.chars().map(safe).collect::<String>())
}

/// Takes over what the training of the same steps took, which an evaluation alone cannot know.
pub(crate) fn keep_training(summary: &mut Value, before: &Value) {
    let trained =
        before.pointer("/seconds/train").and_then(Value::as_f64).is_some_and(|seconds| seconds > 0.);
    if !trained || before.get("steps") != summary.get("steps") {
        return;
    }
    let peak = [&*summary, before].map(|of| of.get("peak_rss_mib").and_then(Value::as_u64));
    for path in ["/seconds/setup", "/seconds/train", "/samples_per_second"] {
        if let (Some(to), Some(from)) = (summary.pointer_mut(path), before.pointer(path)) {
            *to = from.clone();
        }
    }
    if let (Some(to), Some(peak)) = (summary.get_mut("peak_rss_mib"), peak.into_iter().flatten().max()) {
        *to = peak.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use ssl_core::Precision;
    use ssl_core::eval::Report;

    fn config(data: &str, eval_data: Option<&str>) -> RunConfig {
        RunConfig {
            version: "1".into(),
            modality: "m".into(),
            method: "n".into(),
            data: data.into(),
            groups: None,
            init: None,
            eval_data: eval_data.map(String::from),
            limit: None,
            seed: 0,
            device: "cpu".into(),
            precision: Precision::Fp32,
            threads: 2,
            recipe: json!({}),
        }
    }

    #[test]
    fn other_data_have_a_summary_of_their_own() {
        let name = |data, eval_data| file_name(&config(data, eval_data), &config("a", Some("b")));
        assert_eq!(name("a", Some("b")), "summary.json");
        assert_eq!(name("/data/my images", Some("b")), "summary-my-images.json");
        assert_eq!(name("a", Some("esc50")), "summary-esc50.json");
    }

    #[test]
    fn summaries_of_before_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/results");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&file).unwrap();
            let summary: Value = serde_json::from_str(&text).unwrap();
            let reports = ["/eval", "/floors/random_init", "/floors/random_init_untouched"];
            for report in reports.into_iter().filter_map(|place| summary.pointer(place)) {
                let report: Result<Report, _> = serde_json::from_value(report.clone());
                assert!(report.is_ok_and(|report| report.linear.is_some()), "{}", file.display());
                read += 1;
            }
        }
        assert!(read > 20, "{read}");
    }

    #[test]
    fn an_evaluation_keeps_what_the_training_took() {
        let before = json!({"steps": 9, "seconds": {"setup": 1., "train": 50., "eval": 7.}, "samples_per_second": 80., "peak_rss_mib": 900});
        let own = json!({"steps": 9, "seconds": {"setup": 2., "train": 0., "eval": 6.}, "samples_per_second": 0., "peak_rss_mib": 400});
        let mut summary = own.clone();
        keep_training(&mut summary, &before);
        let expected = json!({"steps": 9, "seconds": {"setup": 1., "train": 50., "eval": 6.}, "samples_per_second": 80., "peak_rss_mib": 900});
        assert_eq!(summary, expected);
        let mut part = json!({"steps": 5, "seconds": own["seconds"]});
        keep_training(&mut part, &before);
        assert_eq!(part["seconds"], own["seconds"], "half of a run took something else");
    }
}

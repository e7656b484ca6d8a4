//! What is taken for what.
use super::chart::name_of;
use super::page::escape;
use std::fmt::Write;

/// Classes above which the table would not be read: the worst classes and mistakes are listed instead.
const TABLE: usize = 26;
/// Classes and mistakes in such a list.
const LISTED: usize = 12;

/// The confusion matrix `counts[class][answer]` as HTML: a table of shares of each class, or, of many classes, lists.
pub(super) fn html(counts: &[Vec<u64>], names: &[String]) -> String {
    let name = |class: usize| name_of(class as i64, names);
    if counts.len() > TABLE { lists(counts, &name) } else { table(counts, &name) }
}

fn table(counts: &[Vec<u64>], name: &dyn Fn(usize) -> String) -> String {
    let answers = counts.iter().map(Vec::len).max().unwrap_or(0);
    let mut html = String::from("<div class=\"wide\"><table class=\"confusion\"><thead><tr><th></th>");
    for answer in 0..answers {
        let _ = write!(html, "<th><span>{}</span></th>", escape(&name(answer)));
    }
    html += "</tr></thead><tbody>";
    for (class, row) in counts.iter().enumerate() {
        let all = row.iter().sum::<u64>();
        let _ = write!(html, "<tr><th>{}</th>", escape(&name(class)));
        for (answer, count) in row.iter().enumerate() {
            let share = *count as f64 / all.max(1) as f64;
            let kind = if answer == class { "right" } else { "wrong" };
            let shown = if *count > 0 { format!("{:.0}", 100. * share) } else { String::new() };
            let _ = write!(
                html,
                "<td class=\"{kind}\" style=\"--share:{share:.3}\" title=\"{count} of {all}\">{shown}</td>"
            );
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

fn lists(counts: &[Vec<u64>], name: &dyn Fn(usize) -> String) -> String {
    let all = |class: usize| counts.get(class).map_or(0, |row| row.iter().sum::<u64>());
    let mut classes: Vec<(f64, usize)> = counts
        .iter()
        .enumerate()
        .filter(|(class, _)| all(*class) > 0)
        .map(|(class, row)| (row.get(class).copied().unwrap_or(0) as f64 / all(class) as f64, class))
        .collect();
    classes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut mistakes: Vec<(u64, usize, usize)> = counts
        .iter()
        .enumerate()
        .flat_map(|(class, row)| row.iter().enumerate().map(move |(answer, count)| (*count, class, answer)))
        .filter(|(count, class, answer)| *count > 0 && class != answer)
        .collect();
    mistakes.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut html = String::from("<dl>");
    for &(share, class) in classes.iter().take(LISTED) {
        let n = all(class);
        let _ =
            write!(html, "<div><dt>{}</dt><dd>{:.0} % of {n}</dd></div>", escape(&name(class)), 100. * share);
    }
    html += "</dl><p>Most frequent mistakes: ";
    let mistake = |&(count, class, answer): &(u64, usize, usize)| {
        format!("{} for {} ({count} of {})", escape(&name(answer)), escape(&name(class)), all(class))
    };
    html += &mistakes.iter().take(LISTED).map(mistake).collect::<Vec<_>>().join("; ");
    html + ".</p>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_its_share_of_the_class() {
        let names = ["<a>".to_string(), "b".to_string()];
        let html = html(&[vec![3, 1], vec![0, 2]], &names);
        let cell = "<td class=\"right\" style=\"--share:0.750\" title=\"3 of 4\">75</td>\
                    <td class=\"wrong\" style=\"--share:0.250\" title=\"1 of 4\">25</td>";
        assert!(html.contains(cell) && html.contains("&lt;a&gt;"), "{html}");
        assert!(html.contains("title=\"0 of 2\"></td>"));
    }

    #[test]
    fn of_many_classes_the_worst_are_listed() {
        let mut counts: Vec<Vec<u64>> =
            (0..40).map(|class| (0..40).map(|answer| 10 * u64::from(class == answer)).collect()).collect();
        counts[7][7] = 0;
        counts[7][9] = 10;
        counts[3][4] = 2;
        counts[39] = vec![0; 40];
        let html = html(&counts, &[]);
        assert!(
            html.starts_with("<dl><div><dt>7</dt><dd>0 % of 10</dd></div><div><dt>3</dt><dd>83 % of 12"),
            "{html}"
        );
        assert!(html.contains("mistakes: 9 for 7 (10 of 10); 4 for 3 (2 of 12).</p>"), "{html}");
        assert!(!html.contains("<dt>39</dt>"), "a class without examples has no share");
    }
}

//! The page and its sections.
use super::chart::{Line, lines, short};
use super::{Map, confusion, map};
use crate::checkpoint::write_atomically;
use crate::eval::Report;
use crate::record::Curves;
use crate::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::Path;

/// A picture or a text with a line below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What is shown.
    pub content: Content,
    /// What it is.
    pub caption: String,
}

/// What a figure shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A picture, as a `data:` address.
    Embedded(String),
    /// What takes time, such as a sound or a film, as a `data:` address.
    Played {
        /// What is played.
        uri: String,
        /// A picture of it, if there is one.
        picture: Option<String>,
    },
    /// A text.
    Written(String),
    /// A text in parts, each with a weight from -100 to 100, which shades it: blue to orange.
    Shaded(Vec<(String, i8)>),
}

impl Figure {
    /// A picture that the page carries within itself; `media` is its type, such as `image/png`.
    pub fn embedded(media: &str, bytes: &[u8], caption: impl Into<String>) -> Self {
        Figure { content: Content::Embedded(address(media, bytes)), caption: caption.into() }
    }

    /// What takes time, such as a sound or a film, with buttons to play it. The page's element for it is the first part of
    /// its media type.
    pub fn played(media: &str, bytes: &[u8], caption: impl Into<String>) -> Self {
        let content = Content::Played { uri: address(media, bytes), picture: None };
        Figure { content, caption: caption.into() }
    }

    /// The same below a picture of it, of which `media` is the type; a figure of another kind stays as it is.
    #[must_use]
    pub fn below(self, media: &str, bytes: &[u8]) -> Self {
        let content = match self.content {
            Content::Played { uri, .. } => Content::Played { uri, picture: Some(address(media, bytes)) },
            other => other,
        };
        Figure { content, ..self }
    }

    /// Bytes that it adds to a page, about.
    pub fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Embedded(uri) => uri.len(),
            Content::Played { uri, picture } => uri.len() + picture.as_ref().map_or(0, String::len),
            Content::Written(text) => text.len(),
            Content::Shaded(parts) => parts.iter().map(|(text, _)| text.len()).sum(),
        };
        content + self.caption.len()
    }

    /// A text in parts with weights from -1 to 1.
    pub fn shaded(parts: Vec<(String, f64)>, caption: impl Into<String>) -> Self {
        let percent = |weight: f64| (100. * weight).round().clamp(-100., 100.) as i8;
        let parts = parts.into_iter().map(|(part, weight)| (part, percent(weight))).collect();
        Figure { content: Content::Shaded(parts), caption: caption.into() }
    }

    /// A text.
    pub fn text(text: impl Into<String>, caption: impl Into<String>) -> Self {
        Figure { content: Content::Written(text.into()), caption: caption.into() }
    }
}

/// The colour that stands for a positive weight, and the one for a negative, as red, green and blue of 255.
pub const TINTS: [[u8; 3]; 2] = [[235, 110, 20], [45, 115, 215]];

/// A part of a text on its shade.
fn shaded((part, weight): &(String, i8)) -> String {
    let [above, below] = TINTS;
    let [red, green, blue] = if *weight < 0 { below } else { above };
    let cover = u32::from(weight.unsigned_abs()) * 7 / 10;
    let part = escape(part);
    format!("<span style=\"background:rgb({red} {green} {blue}/{cover}%)\">{part}</span>")
}

/// A page that grows section by section. What comes in is escaped.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
    maps: usize,
}

impl Page {
    /// An empty page.
    pub fn new(title: impl Into<String>) -> Self {
        Page { title: title.into(), body: String::new(), maps: 0 }
    }

    /// A paragraph.
    pub fn note(&mut self, text: &str) -> &mut Self {
        self.body += &format!("<p>{}</p>\n", escape(text));
        self
    }

    /// What went wrong, each with the step at which it was seen; nothing where nothing did.
    pub fn warnings(&mut self, heading: &str, warnings: &[(u64, String)]) -> &mut Self {
        if warnings.is_empty() {
            return self;
        }
        let line = |(_, text): &(u64, String)| format!("<p class=\"warned\">{}</p>", escape(text));
        self.section(heading, &warnings.iter().map(line).collect::<String>())
    }

    /// Names with their values: data set, encoder, time.
    pub fn facts(&mut self, heading: &str, facts: &[(String, String)]) -> &mut Self {
        let entry = |(name, value): &(String, String)| {
            format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value))
        };
        self.section(heading, &format!("<dl>{}</dl>", facts.iter().map(entry).collect::<String>()))
    }

    /// One chart of the named metrics; those that were not recorded are left out, and so is an empty chart.
    pub fn curves(&mut self, heading: &str, curves: &Curves, names: &[&str]) -> &mut Self {
        let line = |name: &&str| curves.get_key_value(*name).map(|(name, points)| Line { name, points });
        let found: Vec<Line> = names.iter().filter_map(line).collect();
        if found.is_empty() {
            return self;
        }
        self.section(heading, &lines(&found))
    }

    /// Evaluations below each other: the encoder first, then its floors, then the majority class. Accuracies, R@1 and
    /// NMI are in percent.
    ///
    /// A last row says by how much the encoder beats the strongest floor, in points.
    pub fn evaluation(
        &mut self,
        heading: &str,
        rows: &[(&str, &Report)],
        majority: Option<f64>,
    ) -> &mut Self {
        let head = ["", "kNN", "linear", "5 labels", "10 labels", "R@1", "NMI", "RankMe"]
            .map(|cell| format!("<th>{cell}</th>"));
        let mut table = format!("<thead><tr>{}</tr></thead><tbody>", head.concat());
        for (name, report) in rows {
            let cells = accuracies(report).map(|accuracy| accuracy.map_or_else(|| "–".to_string(), percent));
            table += &row(name, &cells, &short(report.rankme));
        }
        if let Some(share) = majority {
            let [knn, linear, five, ten] = [0; 4].map(|_| percent(share));
            let nothing = || "–".to_string();
            table += &row("majority class", &[knn, linear, five, ten, nothing(), nothing()], "");
        }
        if let [(_, encoder), floors @ ..] = rows
            && !floors.is_empty()
        {
            let floor = |i: usize| {
                let each =
                    floors.iter().filter_map(|(_, report)| accuracies(report).get(i).copied().flatten());
                each.chain(majority.filter(|_| i < 4)).reduce(f64::max)
            };
            let mut at = 0;
            let gains = accuracies(encoder).map(|accuracy| {
                let gain = accuracy.zip(floor(at)).map(|(accuracy, floor)| 100.0 * (accuracy - floor));
                at += 1;
                gain.map_or_else(|| "–".to_string(), signed)
            });
            table += &row("above the strongest floor", &gains, "");
        }
        self.section(heading, &format!("<div class=\"wide\"><table>{table}</tbody></table></div>"))
    }

    /// Points in the colours of their labels; what each stands for is shown when it is pointed at.
    pub fn map(&mut self, heading: &str, map: &Map) -> &mut Self {
        let html = map::html(map, self.maps);
        self.maps += 1;
        self.section(heading, &html)
    }

    /// What is taken for what: `counts[class][answer]`; `names` are those of classes 0 and up.
    pub fn confusion(&mut self, heading: &str, counts: &[Vec<u64>], names: &[String]) -> &mut Self {
        self.section(heading, &confusion::html(counts, names))
    }

    /// Eigenvalues of the covariance as parts of the largest, largest first, as powers of ten.
    pub fn spectrum(&mut self, heading: &str, eigenvalues: &[f64]) -> &mut Self {
        let largest = eigenvalues.first().copied().unwrap_or(0.0);
        let power = |(i, value): (u64, &f64)| (i, (value / largest).log10());
        let points: Vec<(u64, f64)> = (1..).zip(eigenvalues).map(power).collect();
        self.section(heading, &lines(&[Line { name: "smallest shown", points: &points }]))
    }

    /// Rows of figures, such as a query with its nearest neighbours.
    ///
    /// # Errors
    /// `Error::Config` when an address is not a `data:` one: the page would need the network.
    pub fn figures(&mut self, heading: &str, rows: &[Vec<Figure>]) -> Result<&mut Self> {
        let foreign = |figure: &Figure| {
            let uris = match &figure.content {
                Content::Embedded(uri) => [Some(uri), None],
                Content::Played { uri, picture } => [Some(uri), picture.as_ref()],
                Content::Written(_) | Content::Shaded(_) => [None, None],
            };
            let foreign = uris.into_iter().flatten().find(|uri| !uri.starts_with("data:"))?;
            Some(foreign.chars().take(40).collect::<String>())
        };
        if let Some(got) = rows.iter().flatten().find_map(foreign) {
            return Err(Error::config("figure", format!("expected a data: address, got {got:?}")));
        }
        let figure = |figure: &Figure| {
            let caption = escape(&figure.caption);
            let content = match &figure.content {
                Content::Played { uri, picture } => {
                    let element = uri.trim_start_matches("data:").split('/').next().unwrap_or_default();
                    let element: String = element.chars().filter(char::is_ascii_lowercase).collect();
                    let picture =
                        picture.as_ref().map(|png| format!("<img src=\"{}\" alt=\"\">", escape(png)));
                    format!(
                        "{}<{element} controls preload=\"none\" src=\"{}\"></{element}>",
                        picture.unwrap_or_default(),
                        escape(uri)
                    )
                }
                Content::Embedded(uri) => format!("<img src=\"{}\" alt=\"{caption}\">", escape(uri)),
                Content::Written(text) => format!("<blockquote>{}</blockquote>", escape(text)),
                Content::Shaded(parts) => {
                    format!("<blockquote>{}</blockquote>", parts.iter().map(shaded).collect::<String>())
                }
            };
            format!("<figure>{content}<figcaption>{caption}</figcaption></figure>")
        };
        let row = |row: &Vec<Figure>| {
            format!("<div class=\"row\">{}</div>", row.iter().map(figure).collect::<String>())
        };
        Ok(self.section(heading, &rows.iter().map(row).collect::<String>()))
    }

    /// A JSON value, folded away.
    pub fn json(&mut self, heading: &str, value: &Value) -> &mut Self {
        let text = escape(&format!("{value:#}"));
        self.body += &format!(
            "<section><details><summary>{}</summary><pre>{text}</pre></details></section>\n",
            escape(heading)
        );
        self
    }

    /// The whole page.
    pub fn render(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{style}</style>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</html>\n",
            title = escape(&self.title),
            style = include_str!("style.css"),
            body = self.body,
        )
    }

    /// Writes the page; a page of that name is replaced at once, never left half written.
    ///
    /// # Errors
    /// `Error::Io` when it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.render().as_bytes())
    }

    fn section(&mut self, heading: &str, html: &str) -> &mut Self {
        self.body += &format!("<section>\n<h2>{}</h2>\n{html}\n</section>\n", escape(heading));
        self
    }
}

fn address(media: &str, bytes: &[u8]) -> String {
    format!("data:{media};base64,{}", STANDARD.encode(bytes))
}

fn accuracies(report: &Report) -> [Option<f64>; 6] {
    let recall = report.retrieval.as_ref().map(|found| found.recall_at_1);
    let nmi = report.clustering.as_ref().map(|found| found.nmi);
    [report.knn, report.linear, report.few_shot_5, report.few_shot_10, recall, nmi]
}

fn row(name: &str, cells: &[String; 6], rank: &str) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr><th>{}</th>{cells}<td>{rank}</td></tr>", escape(name))
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Points gained in the colour of a gain, points lost in that of a loss.
fn signed(points: f64) -> String {
    let class = if points > 0.0 { "gain" } else { "loss" };
    format!("<b class=\"{class}\">{points:+.1}</b>")
}

/// Text that is safe within HTML and within a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const EVIL: &str = "<script>alert('\"&')</script>";
    const SAFE: &str = "&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";

    fn report(knn: f64, linear: f64) -> Report {
        Report { knn: Some(knn), linear: Some(linear), rankme: 12.345, ..Report::default() }
    }

    #[test]
    fn whatever_comes_in_is_escaped() {
        let curves = Curves::from([(EVIL.to_string(), vec![(0, 1.0), (1, 2.0)])]);
        let planes = [(EVIL, vec![[0.0, 0.0]])];
        let (names, shown) = ([EVIL.to_string()], [Figure::text(EVIL, EVIL)]);
        let hostile = Map { planes: &planes, labels: &[0], names: &names, shown: &shown };
        let mut page = Page::new(EVIL);
        page.note(EVIL)
            .warnings(EVIL, &[(3, EVIL.to_string())])
            .facts(EVIL, &[(EVIL.into(), EVIL.into())])
            .curves(EVIL, &curves, &[EVIL])
            .evaluation(EVIL, &[(EVIL, &report(0.5, 0.5))], None)
            .map(EVIL, &hostile)
            .confusion(EVIL, &[vec![1]], &[EVIL.to_string()])
            .json(EVIL, &serde_json::json!({"a": EVIL}));
        page.figures(
            EVIL,
            &[vec![
                Figure::text(EVIL, EVIL),
                Figure::shaded(vec![(EVIL.into(), 0.5)], EVIL),
                Figure { content: Content::Embedded(format!("data:,{EVIL}")), caption: EVIL.into() },
            ]],
        )
        .unwrap();
        let html = page.render();
        assert!(!html.contains("<script") && html.contains(SAFE));
        assert!(!html.contains("http"), "nothing comes from the network");
    }

    #[test]
    fn the_gain_is_counted_from_the_strongest_floor_of_each_column() {
        let rows =
            [("encoder", &report(0.8, 0.9)), ("random", &report(0.5, 0.85)), ("raw", &report(0.7, 0.6))];
        let mut page = Page::new("run");
        page.evaluation("Evaluation", &rows, Some(0.1));
        let html = page.render();
        assert!(
            html.contains("<td>80.0</td><td>90.0</td><td>–</td><td>–</td><td>–</td><td>–</td><td>12.35</td>"),
            "{html}"
        );
        let gains = "<td><b class=\"gain\">+10.0</b></td><td><b class=\"gain\">+5.0</b></td><td>–</td>";
        assert!(html.contains(gains), "{html}");
        assert_eq!(signed(-1.26), "<b class=\"loss\">-1.3</b>");
        assert!(html.contains("majority class</th><td>10.0</td>"));
    }

    #[test]
    fn missing_metrics_are_left_out_and_foreign_addresses_refused() {
        let mut page = Page::new("run");
        page.curves("Nothing", &Curves::new(), &["loss"]);
        page.warnings("Nothing", &[]);
        assert!(!page.render().contains("Nothing"));
        let figure =
            Figure { content: Content::Embedded("//example.org/a.png".into()), caption: String::new() };
        let error = page.figures("Rows", &[vec![figure]]).unwrap_err().to_string();
        assert_eq!(error, "figure: expected a data: address, got \"//example.org/a.png\"");
    }

    #[test]
    fn a_figure_carries_its_bytes() {
        let figure = Figure::embedded("application/pdf", b"%PDF", "a");
        assert_eq!(figure.content, Content::Embedded("data:application/pdf;base64,JVBERg==".into()));
        let mut page = Page::new("sound".to_string());
        let tone = Figure::played("sound/wav", b"RIFF", "a tone");
        page.figures("A", &[vec![tone.clone(), tone.clone().below("application/pdf", b"x")]]).unwrap();
        let player = "<sound controls preload=\"none\" src=\"data:sound/wav;base64,UklGRg==\"></sound>";
        let below = format!("<figure><img src=\"data:application/pdf;base64,eA==\" alt=\"\">{player}");
        assert!(page.render().contains(&format!("<figure>{player}")) && page.render().contains(&below));
        assert!(tone.clone().below("application/pdf", b"x").bytes() > tone.bytes() && tone.bytes() > 30);
    }

    #[test]
    fn parts_of_a_text_are_shaded_by_their_weights() {
        let mut page = Page::new("");
        let parts = vec![("for".to_string(), 1.), (" against".to_string(), -0.5), (" none".to_string(), 0.)];
        page.figures("A", &[vec![Figure::shaded(parts, "it")]]).unwrap();
        let html = page.render();
        assert!(html.contains("<span style=\"background:rgb(235 110 20/70%)\">for</span>"), "{html}");
        assert!(html.contains("<span style=\"background:rgb(45 115 215/35%)\"> against</span>"), "{html}");
        assert!(html.contains("/0%)\"> none</span>"), "{html}");
    }

    #[test]
    fn a_page_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        let page = Page::new("run");
        page.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), page.render());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(page.write(&path.join("below_a_file")).is_err());
    }
}

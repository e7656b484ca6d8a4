//! Charts as inline SVG whose colours come from the page's style sheet.
use super::page::escape;
use std::fmt::Write;

/// A named line: pairs of step and value.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: &'a [(u64, f64)],
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
/// Free space left, right, above and below the plot.
const MARGIN: [f64; 4] = [64.0, 12.0, 10.0, 28.0];
/// Points at most along a line; more than that nobody can see.
const POINTS: usize = 400;
/// Colours of the style sheet, after which they repeat.
pub(super) const COLOURS: usize = 10;

/// Lines over steps. A line of many points is drawn faintly, with its running mean above.
pub(super) fn lines(lines: &[Line]) -> String {
    let finite = |line: &Line| line.points.iter().copied().filter(|point| point.1.is_finite()).collect();
    let finite: Vec<Vec<(u64, f64)>> = lines.iter().map(finite).collect();
    let all = || finite.iter().flatten();
    let Some(first) = all().map(|point| point.0).min() else {
        return "<p>No finite values.</p>".to_string();
    };
    let last = all().map(|point| point.0).max().unwrap_or(first).max(first + 1);
    let y = Axis::around(all().map(|point| point.1));
    let x = Axis { low: first as f64, high: last as f64 };
    let place = |(step, value): (u64, f64)| {
        let [left, right, top, bottom] = MARGIN;
        let across = left + x.share(step as f64) * (WIDTH - left - right);
        (across, top + (1.0 - y.share(value)) * (HEIGHT - top - bottom))
    };
    let names = lines.iter().map(|line| line.name).collect::<Vec<_>>().join(", ");
    let mut svg = open(WIDTH, HEIGHT, &names);
    grid(&mut svg, &x, &y);
    for (i, points) in finite.iter().enumerate() {
        let colour = i % COLOURS;
        let thin = thinned(points);
        let smooth = thin.len() > 60;
        let style = if smooth { "line faint" } else { "line" };
        polyline(&mut svg, &format!("{style} s{colour}"), thin.iter().copied().map(place));
        if smooth {
            let mean = running_mean(&thin);
            polyline(&mut svg, &format!("line s{colour}"), mean.into_iter().map(place));
        }
    }
    svg.push_str("</svg>");
    let last = |i: usize| finite.get(i).and_then(|points| points.last()).map_or(f64::NAN, |point| point.1);
    let entries = lines.iter().enumerate();
    svg + &legend(entries.map(|(i, line)| (i, format!("{} {}", line.name, short(last(i))))))
}

/// Where points lie on a square of side 1, with a little room around them; none where a coordinate is not finite.
pub(super) fn spread(points: &[[f64; 2]]) -> Vec<Option<[f64; 2]>> {
    let finite = || points.iter().filter(|point| point.iter().all(|x| x.is_finite()));
    let (x, y) = (Axis::around(finite().map(|point| point[0])), Axis::around(finite().map(|point| point[1])));
    let place = |&[across, up]: &[f64; 2]| {
        let place = [x.share(across), y.share(up)];
        place.iter().all(|x| x.is_finite()).then_some(place)
    };
    points.iter().map(place).collect()
}

/// The names of all labels that occur, in their colours.
pub(super) fn legend_of(labels: &[i64], names: &[String]) -> String {
    let mut known: Vec<i64> = labels.to_vec();
    known.sort_unstable();
    known.dedup();
    let entry = |label: i64| (label.rem_euclid(COLOURS as i64) as usize, name_of(label, names));
    legend(known.into_iter().map(entry))
}

/// The name of a label, or its number where it has none.
pub(super) fn name_of(label: i64, names: &[String]) -> String {
    let name = usize::try_from(label).ok().and_then(|label| names.get(label)).cloned();
    name.unwrap_or_else(|| label.to_string())
}

/// A range of values, not empty.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// From the least to the largest finite value, with a little room.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Axis { low: 0.0, high: 1.0 };
        }
        let room = if high > low { 0.04 * (high - low) } else { 0.5 * high.abs().max(1e-3) };
        Axis { low: low - room, high: high + room }
    }

    /// Where a value lies: 0 at the low end, 1 at the high one.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Some five round values within.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().find(|round| round * power >= rough).unwrap_or(10.0) * power;
        let first = (self.low / step).ceil() as i64;
        (first..first + 12).map(|i| i as f64 * step).take_while(|tick| *tick <= self.high).collect()
    }
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    let [left, right, top, bottom] = MARGIN;
    let (end, floor) = (WIDTH - right, HEIGHT - bottom);
    for tick in y.ticks() {
        let down = top + (1.0 - y.share(tick)) * (floor - top);
        put(svg, format_args!("<path class=\"grid\" d=\"M{left} {down:.1}H{end}\"/>"));
        let at = format_args!("x=\"{}\" y=\"{:.1}\"", left - 8.0, down + 4.0);
        put(svg, format_args!("<text class=\"tick end\" {at}>{}</text>", short(tick)));
    }
    for tick in x.ticks().into_iter().filter(|tick| tick.fract() == 0.0) {
        let across = left + x.share(tick) * (end - left);
        let at = format_args!("x=\"{across:.1}\" y=\"{}\"", HEIGHT - 8.0);
        put(svg, format_args!("<text class=\"tick middle\" {at}>{}</text>", short(tick)));
    }
    put(svg, format_args!("<path class=\"axis\" d=\"M{left} {floor}H{end}\"/>"));
}

fn polyline(svg: &mut String, class: &str, places: impl Iterator<Item = (f64, f64)>) {
    let path: Vec<String> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    if let [only] = path.as_slice()
        && let Some((x, y)) = only.split_once(',')
    {
        put(svg, format_args!("<circle class=\"{class} dot\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>"));
    }
    put(svg, format_args!("<polyline class=\"{class}\" points=\"{}\"/>", path.join(" ")));
}

/// Means of runs of neighbours, so that few enough points are left.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let run = points.len().div_ceil(POINTS).max(1);
    let mean = |run: &[(u64, f64)]| {
        let middle = run.get(run.len() / 2).map_or(0, |point| point.0);
        (middle, run.iter().map(|point| point.1).sum::<f64>() / run.len() as f64)
    };
    points.chunks(run).map(mean).collect()
}

/// Mean over a twentieth of the line around each point, less at its ends, so that it does not lag.
fn running_mean(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let half = (points.len() / 40).max(1);
    let mean = |(i, point): (usize, &(u64, f64))| {
        let reach = half.min(i).min(points.len() - 1 - i);
        let around = points.get(i - reach..=i + reach).unwrap_or_default();
        (point.0, around.iter().map(|point| point.1).sum::<f64>() / around.len().max(1) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

fn legend(entries: impl Iterator<Item = (usize, String)>) -> String {
    let mut html = String::from("<ul class=\"legend\">");
    for (colour, name) in entries {
        put(&mut html, format_args!("<li><i class=\"b{}\"></i>{}</li>", colour % COLOURS, escape(&name)));
    }
    html + "</ul>"
}

fn open(width: f64, height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">", escape(label))
}

fn put(out: &mut String, what: std::fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(what);
}

/// A number in at most four significant digits: `0.885`, `4.81`, `12000`, `2e-5`.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".to_string();
    }
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let digits =
        if size >= 1000.0 || size == 0.0 { 0 } else { (3.0 - size.log10().floor()).min(6.0) as usize };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling(n: u64) -> Vec<(u64, f64)> {
        (0..n).map(|step| (step, 100.0 - step as f64)).collect()
    }

    #[test]
    fn a_line_spans_the_plot_from_corner_to_corner() {
        let points = falling(50);
        let svg = lines(&[Line { name: "loss", points: &points }]);
        let path = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let places: Vec<(f64, f64)> = path
            .split(' ')
            .map(|place| place.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(places.len(), 50);
        assert_eq!((places[0].0, places[49].0), (64.0, 708.0));
        assert!(places.windows(2).all(|two| two[0].1 < two[1].1), "the loss falls: y grows");
        assert!(svg.contains("loss 51"));
    }

    #[test]
    fn values_that_are_not_finite_and_empty_lines_do_no_harm() {
        assert_eq!(lines(&[Line { name: "loss", points: &[(0, f64::NAN)] }]), "<p>No finite values.</p>");
        let svg = lines(&[
            Line { name: "a", points: &[(3, 1.0)] },
            Line { name: "b", points: &[(3, f64::INFINITY), (4, 1.0)] },
            Line { name: "c", points: &[] },
        ]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("<circle"), "a single point is a dot");
    }

    #[test]
    fn long_lines_are_thinned_and_smoothed() {
        let points = falling(10_000);
        assert_eq!(thinned(&points).len(), 400);
        let svg = lines(&[Line { name: "loss", points: &points }]);
        assert!(svg.len() < 20_000 && svg.matches("<polyline").count() == 2);
        let slope: Vec<_> = falling(100);
        assert_eq!(running_mean(&slope), slope, "a straight line stays");
        let bump: Vec<_> = (0..100).map(|step| (step, if step == 50 { 5.0 } else { 0.0 })).collect();
        assert_eq!(running_mean(&bump).iter().map(|point| point.1).fold(0.0, f64::max), 1.0);
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(Axis { low: 0.0, high: 234.0 }.ticks(), [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(
            Axis { low: 4.7, high: 6.2 }.ticks().into_iter().map(short).collect::<Vec<_>>(),
            ["5", "5.5", "6"]
        );
        assert_eq!(Axis::around([2.0, 2.0].into_iter()).share(2.0), 0.5);
    }

    #[test]
    fn points_fill_the_square_and_those_that_are_not_finite_have_no_place() {
        let places = spread(&[[0.0, 4.0], [10.0, 4.0], [f64::NAN, 0.0]]);
        let near = |place: Option<[f64; 2]>, x: f64, y: f64| {
            place.is_some_and(|place| (place[0] - x).abs() < 1e-9 && (place[1] - y).abs() < 1e-9)
        };
        assert!(near(places[0], 0.04 / 1.08, 0.5) && near(places[1], 1.04 / 1.08, 0.5), "{places:?}");
        assert_eq!(places[2], None);
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.8851, 4.81, 12000.0, 2e-5, 0.0, f64::NAN, -0.5, 150.0].map(short).into();
        assert_eq!(shown, ["0.8851", "4.81", "12000", "2e-5", "0", "–", "-0.5", "150"]);
    }
}

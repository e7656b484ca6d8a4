//! The report as a browser shows it. `cargo test -p ssl-examples --test report_in_a_browser -- --ignored` needs `chromium`
//! on the PATH.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
use image::Rgb;
use ssl_core::record::Curves;
use ssl_core::report::{Figure, Map, Page};
use std::path::Path;
use std::process::Command;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 3200;
/// Where the legend below the map of a page 700 pixels wide begins, at the earliest.
const LEGEND: u32 = 800;
/// The page's ground by day and by night, as the style sheet has them.
const GROUNDS: [[u8; 3]; 2] = [[0xfc, 0xfc, 0xfb], [0x15, 0x17, 0x1a]];
/// The colours of labels 0 and 1 by day.
const LABELS: [[u8; 3]; 2] = [[0x3f, 0x74, 0xad], [0xe0, 0x7b, 0x1a]];

fn page() -> Page {
    let mut curves = Curves::new();
    curves.insert("loss".into(), (0..300).map(|step| (step, 5. / (1. + step as f64 / 40.))).collect());
    let around =
        |x: f64, y: f64| (0..80).map(move |i| [x + f64::from(i % 9) / 20., y + f64::from(i % 7) / 20.]);
    let near: Vec<[f64; 2]> = around(0., 0.).chain(around(3., 2.)).collect();
    let wide: Vec<[f64; 2]> = near.iter().map(|[x, y]| [*y, *x]).collect();
    let planes = [("near", near), ("wide", wide)];
    let labels: Vec<i64> = (0..160).map(|i| i / 80).collect();
    let names = ["boot".to_string(), "shirt".to_string()];
    let shown: Vec<Figure> =
        labels.iter().map(|label| Figure::text(format!("example of {label}"), "")).collect();
    let mut page = Page::new("A run");
    page.warnings("Warnings", &[(3, "the representation collapsed".into())])
        .facts("The run", &[("steps".into(), "300".into())])
        .curves("Loss", &curves, &["loss"])
        .map("Examples", &Map { planes: &planes, labels: &labels, names: &names, shown: &shown })
        .confusion("Answers", &[vec![9, 1], vec![2, 8]], &names)
        .spectrum("Spectrum", &[1., 0.5, 0.1, 0.01]);
    page.figures("Texts", &[vec![Figure::text("a text", "first")]]).unwrap();
    page
}

/// Runs the browser on a page; its picture, and what it said.
fn seen(page: &Path, flags: &[&str]) -> (image::RgbImage, String) {
    let picture = page.with_extension("png");
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .args(["--virtual-time-budget=2000", "--force-device-scale-factor=1"])
        .args(flags)
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (image::open(&picture).unwrap().into_rgb8(), said)
}

fn count(picture: &image::RgbImage, colour: [u8; 3]) -> usize {
    picture.pixels().filter(|Rgb(pixel)| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 2)).count()
}

#[test]
#[ignore = "needs chromium on the PATH"]
fn a_browser_shows_the_page_by_day_and_by_night_and_has_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    page().write(&path).unwrap();
    let size = format!("--window-size={WIDTH},{HEIGHT}");
    for (ground, scheme) in GROUNDS.into_iter().zip(["1", "0"]) {
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        let (picture, said) = seen(&path, &[&size, &scheme]);
        assert!(!said.contains("CONSOLE"), "{said}");
        assert!(count(&picture, ground) > 100_000, "the ground is {ground:?}");
    }
}

#[test]
#[ignore = "needs chromium on the PATH"]
fn points_and_lines_lie_where_the_data_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    let near: Vec<[f64; 2]> = (0..50).map(|i| if i < 25 { [0., 0.] } else { [1., 1.] }).collect();
    let labels: Vec<i64> = (0..50).map(|i| i64::from(i >= 25)).collect();
    let mut only = Page::new("A map");
    only.map("Examples", &Map { planes: &[("near", near)], labels: &labels, ..Map::default() });
    only.write(&path).unwrap();
    let (picture, _) = seen(&path, &["--window-size=700,1000", "--blink-settings=preferredColorScheme=1"]);
    let middle = |colour: [u8; 3]| {
        let places: Vec<(u32, u32)> = picture
            .enumerate_pixels()
            .filter(|(_, y, Rgb(pixel))| {
                *y < LEGEND && pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 40)
            })
            .map(|(x, y, _)| (x, y))
            .collect();
        assert!(!places.is_empty(), "no point of {colour:?}");
        let n = places.len() as u32;
        (
            places.iter().map(|place| place.0).sum::<u32>() / n,
            places.iter().map(|place| place.1).sum::<u32>() / n,
        )
    };
    let (first, second) = (middle(LABELS[0]), middle(LABELS[1]));
    assert!(first.0 + 300 < second.0 && first.1 > second.1 + 300, "{first:?} {second:?}");
}

#[test]
#[ignore = "needs chromium on the PATH"]
fn a_phone_needs_no_sideways_scrolling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.html");
    page().write(&path).unwrap();
    // A script of the test's own marks a page that is wider than its window.
    let html = std::fs::read_to_string(&path).unwrap();
    let script = "<script>document.title = document.documentElement.scrollWidth > innerWidth ? 'wide' : 'fits'</script>";
    std::fs::write(&path, html.replace("</html>", &format!("{script}</html>"))).unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"])
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(dom.contains("<title>fits</title>"), "{}", dom.chars().take(400).collect::<String>());
}

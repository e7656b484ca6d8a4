//! The contact sheet of a summary: the novelty over time, the segments below it, and their key frames.
use super::canvas::{ADVANCE, BLACK, BLUE, Canvas, GREY, LIGHT, LINE, RED};
use anyhow::Result;
use image::RgbImage;

/// Width of the sheet within its margins, in pixels.
const WIDTH: i64 = 1160;
const MARGIN: i64 = 20;
/// Height of the curve and of the bar of segments.
const CURVE: i64 = 130;
const BAR: i64 = 26;
/// Between two pictures.
const GAP: i64 = 12;
/// The novelty at the upper edge of the curve, at least: twice what counts.
const TOP: f64 = 2.0;
/// Numbers below the time axis, at most.
const TICKS: f64 = 12.0;

/// A part of a video from one second to another.
pub(super) struct Span {
    pub(super) begin: f64,
    pub(super) end: f64,
    /// The key frames and their seconds.
    pub(super) pictures: Vec<(f64, RgbImage)>,
}

/// Draws a sheet of a video of so many seconds; `novelty` has a value for each of some ascending seconds, of which those
/// above 1 count.
pub(super) fn draw(seconds: f64, novelty: &[(f64, f64)], spans: &[Span]) -> Result<Vec<u8>> {
    let cells = place(spans);
    let first_row = MARGIN + CURVE + BAR + 3 * LINE;
    let height = cells.iter().map(|cell| cell.top + i64::from(cell.picture.height()) + 2 * LINE + GAP).max();
    let mut canvas = Canvas::new(WIDTH + 2 * MARGIN, first_row + height.unwrap_or(0) + MARGIN);
    let x = |time: f64| MARGIN + (time / seconds.max(f64::MIN_POSITIVE) * WIDTH as f64).round() as i64;
    curve(&mut canvas, novelty, &x);
    bar(&mut canvas, spans, &x);
    axis(&mut canvas, seconds, &x);
    for Cell { left, top, picture, segment, time } in cells {
        let (left, top) = (MARGIN + left, first_row + top);
        canvas.picture((left, top), picture);
        let below = top + i64::from(picture.height()) + LINE / 2;
        canvas.text((left, below), &format!("#{segment}"), RED);
        canvas.text((left + 4 * ADVANCE, below), &format!("{time:.2} s"), BLACK);
    }
    canvas.png()
}

/// A key frame and where it comes.
struct Cell<'a> {
    left: i64,
    top: i64,
    picture: &'a RgbImage,
    segment: usize,
    time: f64,
}

/// Puts pictures side by side into rows.
fn place(spans: &[Span]) -> Vec<Cell<'_>> {
    let (mut left, mut top, mut highest) = (0, 0, 0);
    let mut cells = Vec::new();
    for (span, segment) in spans.iter().zip(1..) {
        for (time, picture) in &span.pictures {
            let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
            if left > 0 && left + width > WIDTH {
                (left, top, highest) = (0, top + highest + 2 * LINE + GAP, 0);
            }
            cells.push(Cell { left, top, picture, segment, time: *time });
            (left, highest) = (left + width + GAP, highest.max(height));
        }
    }
    cells
}

/// The novelty as an area, with a line where it counts.
fn curve(canvas: &mut Canvas, novelty: &[(f64, f64)], x: &impl Fn(f64) -> i64) {
    let top = novelty.iter().map(|(_, value)| *value).fold(TOP, f64::max);
    let y = |value: f64| MARGIN + CURVE - (value / top * CURVE as f64).round() as i64;
    canvas.fill((MARGIN, MARGIN + WIDTH), (MARGIN, MARGIN + CURVE), LIGHT);
    let ends = novelty.iter().skip(1).map(|(time, _)| x(*time)).chain([MARGIN + WIDTH]);
    for ((time, value), end) in novelty.iter().zip(ends) {
        canvas.fill((x(*time), end.max(x(*time) + 1)), (y(*value), MARGIN + CURVE), BLUE);
    }
    for dash in (MARGIN..MARGIN + WIDTH).step_by(10) {
        canvas.fill((dash, dash + 5), (y(1.0), y(1.0) + 2), BLACK);
    }
}

/// The segments, in turn light and dark, with their numbers where there is room; their borders go through the curve.
fn bar(canvas: &mut Canvas, spans: &[Span], x: &impl Fn(f64) -> i64) {
    let top = MARGIN + CURVE;
    for (span, number) in spans.iter().zip(1..) {
        let (left, right) = (x(span.begin), x(span.end));
        let color = if number % 2 == 1 { GREY } else { LIGHT };
        canvas.fill((left, right), (top, top + BAR), color);
        let text = number.to_string();
        let width = text.len() as i64 * ADVANCE;
        if right - left > width + 4 {
            canvas.text(((left + right - width) / 2, top + (BAR - LINE) / 2), &text, BLACK);
        }
        if number > 1 {
            canvas.fill((left, left + 2), (MARGIN, top + BAR), RED);
        }
    }
}

/// Seconds below the bar.
fn axis(canvas: &mut Canvas, seconds: f64, x: &impl Fn(f64) -> i64) {
    let step = step(seconds);
    let top = MARGIN + CURVE + BAR;
    for number in 0..=(seconds / step).floor() as i64 {
        let time = number as f64 * step;
        let text = if step < 1.0 { format!("{time:.1}") } else { format!("{time:.0}") };
        canvas.fill((x(time), x(time) + 2), (top, top + 5), BLACK);
        let left = x(time) - text.len() as i64 * ADVANCE / 2;
        canvas.text((left.max(0), top + 8), &text, BLACK);
    }
}

/// Seconds from one number to the next: 1, 2 or 5 times a power of ten.
fn step(seconds: f64) -> f64 {
    let rough = (seconds / TICKS).max(0.1);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn span(begin: f64, end: f64, colors: &[[u8; 3]]) -> Span {
        let picture = |color: &[u8; 3]| (begin, RgbImage::from_pixel(500, 40, Rgb(*color)));
        Span { begin, end, pictures: colors.iter().map(picture).collect() }
    }

    #[test]
    fn borders_and_key_frames_are_where_they_should_be() {
        let novelty: Vec<(f64, f64)> =
            (0..100).map(|n| (f64::from(n) / 10.0, if n == 40 { 4.0 } else { 0.0 })).collect();
        let (green, red, blue) = ([0, 200, 0], [230, 0, 0], [0, 0, 230]);
        let spans = [span(0.0, 4.0, &[green]), span(4.0, 10.0, &[red, blue])];
        let sheet = image::load_from_memory(&draw(10.0, &novelty, &spans).unwrap()).unwrap().to_rgb8();
        let seen = |x: i64, y: i64| sheet.get_pixel(x as u32, y as u32).0;
        let border = MARGIN + WIDTH * 4 / 10;
        assert_eq!(
            (seen(border, MARGIN + 1), seen(border + 3, MARGIN + 1)),
            (RED, BLUE),
            "its border, the curve's peak"
        );
        assert_eq!((seen(border - 3, MARGIN + 1), seen(border + 20, MARGIN + 1)), (LIGHT, LIGHT));
        let row = MARGIN + CURVE + BAR + 3 * LINE;
        assert_eq!((seen(MARGIN, row), seen(MARGIN + 500 + GAP, row)), (green, red));
        assert_eq!(seen(MARGIN, row + 40 + 2 * LINE + GAP), blue, "what has no room is in the next row");
        assert!(i64::from(sheet.height()) > row + 80 + 4 * LINE + GAP);
    }

    #[test]
    fn numbers_on_the_axis_are_round_and_few() {
        for (seconds, expected) in [(0.3, 0.1), (5.28, 0.5), (19.0, 2.0), (600.0, 50.0), (7_200.0, 1_000.0)] {
            assert!((step(seconds) - expected).abs() < 1e-9, "{seconds}: {}", step(seconds));
        }
    }
}

//! A picture to draw on: areas, lines, pictures, numbers.
use anyhow::{Context, Result};
use image::{ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

pub(super) const WHITE: [u8; 3] = [255; 3];
pub(super) const BLACK: [u8; 3] = [20; 3];
pub(super) const GREY: [u8; 3] = [150; 3];
pub(super) const LIGHT: [u8; 3] = [226; 3];
pub(super) const RED: [u8; 3] = [200, 40, 40];
pub(super) const BLUE: [u8; 3] = [60, 100, 170];

/// How often a point of a character is repeated each way.
const SCALE: i64 = 2;
/// Points of a character.
const COLUMNS: i64 = 5;
const ROWS: i64 = 7;
/// Pixels from a character to the next, and the height of one.
pub(super) const ADVANCE: i64 = (COLUMNS + 1) * SCALE;
pub(super) const LINE: i64 = ROWS * SCALE;

/// Characters as rows of points, the highest of five bits on the left.
const CHARACTERS: [(char, [u8; 7]); 15] = [
    ('0', [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110]),
    ('1', [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    ('2', [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111]),
    ('3', [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110]),
    ('4', [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010]),
    ('5', [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110]),
    ('6', [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110]),
    ('7', [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000]),
    ('8', [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110]),
    ('9', [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100]),
    ('.', [0, 0, 0, 0, 0, 0b01100, 0b01100]),
    ('-', [0, 0, 0, 0b11111, 0, 0, 0]),
    ('#', [0b01010, 0b01010, 0b11111, 0b01010, 0b11111, 0b01010, 0b01010]),
    ('s', [0, 0, 0b01111, 0b10000, 0b01110, 0b00001, 0b11110]),
    (' ', [0; 7]),
];

/// A picture that is drawn on.
pub(super) struct Canvas(RgbImage);

impl Canvas {
    pub(super) fn new(width: i64, height: i64) -> Self {
        let side = |side: i64| u32::try_from(side.max(1)).unwrap_or(1);
        Canvas(RgbImage::from_pixel(side(width), side(height), Rgb(WHITE)))
    }

    fn point(&mut self, x: i64, y: i64, color: [u8; 3]) {
        let place = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        if let Some(pixel) = place.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
            *pixel = Rgb(color);
        }
    }

    /// Fills columns and rows from the first of each to below the second; what is outside is left out.
    pub(super) fn fill(&mut self, (left, right): (i64, i64), (top, bottom): (i64, i64), color: [u8; 3]) {
        let (width, height) = (i64::from(self.0.width()), i64::from(self.0.height()));
        for y in top.max(0)..bottom.min(height) {
            (left.max(0)..right.min(width)).for_each(|x| self.point(x, y, color));
        }
    }

    /// Writes numbers; a character that has no form here leaves a gap.
    pub(super) fn text(&mut self, (left, top): (i64, i64), text: &str, color: [u8; 3]) {
        let mut x = left;
        for character in text.chars() {
            let form = CHARACTERS.iter().find(|(of, _)| *of == character).map_or([0; 7], |(_, form)| *form);
            for (row, points) in (0..).zip(form) {
                for column in (0..COLUMNS).filter(|column| points >> (COLUMNS - 1 - column) & 1 == 1) {
                    let (x, y) = (x + column * SCALE, top + row * SCALE);
                    self.fill((x, x + SCALE), (y, y + SCALE), color);
                }
            }
            x += ADVANCE;
        }
    }

    /// Copies a picture.
    pub(super) fn picture(&mut self, (left, top): (i64, i64), picture: &RgbImage) {
        for (x, y, pixel) in picture.enumerate_pixels() {
            self.point(left + i64::from(x), top + i64::from(y), pixel.0);
        }
    }

    /// The bytes of a PNG.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        self.0.write_to(&mut bytes, ImageFormat::Png).context("cannot write a picture")?;
        Ok(bytes.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_beyond_the_picture_is_left_out() {
        let mut canvas = Canvas::new(8, 4);
        canvas.fill((-5, 2), (-5, 99), RED);
        canvas.picture((7, 3), &RgbImage::from_pixel(5, 5, Rgb(BLUE)));
        canvas.text((6, -3), "8", BLACK);
        let seen = |x, y| canvas.0.get_pixel(x, y).0;
        assert_eq!((seen(1, 3), seen(2, 3), seen(7, 3)), (RED, WHITE, BLUE));
        assert_eq!(image::load_from_memory(&canvas.png().unwrap()).unwrap().to_rgb8(), canvas.0);
    }

    #[test]
    fn characters_differ_and_one_is_where_it_is_written() {
        let drawn = |text: &str| {
            let mut canvas = Canvas::new(ADVANCE, LINE);
            canvas.text((0, 0), text, BLACK);
            canvas.0.into_raw()
        };
        let all: std::collections::BTreeSet<Vec<u8>> =
            CHARACTERS.iter().map(|(character, _)| drawn(&character.to_string())).collect();
        assert_eq!(all.len(), CHARACTERS.len());
        assert_eq!(drawn("?"), drawn(" "));
        // The foot of a 1 is the middle three points of the last row.
        let mut canvas = Canvas::new(ADVANCE * 2, LINE);
        canvas.text((ADVANCE, 0), "1", BLACK);
        let foot: Vec<i64> = (0..ADVANCE * 2)
            .filter(|&x| canvas.0.get_pixel(x as u32, (LINE - 1) as u32).0 == BLACK)
            .map(|x| x - ADVANCE)
            .collect();
        assert_eq!(foot, [2, 3, 4, 5, 6, 7]);
    }
}

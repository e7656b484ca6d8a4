//! Videos made of images that move: the recipe of Moving MNIST, with labels that are exact by construction.
//!
//! Source: Srivastava et al., 2015 ("Unsupervised learning of video representations using LSTMs"), section 3.1, and its
//! `data_handler.py`: frames of 64 x 64 pixels, images of 28 x 28 that go straight on and bounce off the borders, and
//! where two lie over each other the brighter is seen: <https://arxiv.org/abs/1502.04681>.
//!
//! Departures: speed and direction come in classes, so that they can be labels; a video has one image by default, so
//! that its class can be one; and a second image is smaller than the first.
//!
//! ```
//! use ssl_video::{MovingImages, MovingOptions, VideoDataset};
//! use ssl_vision::ImageArray;
//! use std::sync::Arc;
//! let images = ImageArray::new(28, 28, 1, vec![200; 4 * 784])?;
//! let set = MovingImages::new(Arc::new(images), MovingOptions { videos: 5, ..MovingOptions::default() })?;
//! assert_eq!((set.len(), set.frames(0), set.size()), (5, 20, [64, 64]));
//! let names: Vec<String> = set.label_sets().into_iter().map(|labels| labels.name).collect();
//! assert_eq!(names, ["direction", "speed"]);
//! # Ok::<(), ssl_core::Error>(())
//! ```
use crate::clip::{LabelSet, VideoDataset, check_out, out_of_range};
use crate::random::{below, between, unit};
use crate::readers::Split;
use ssl_core::{Error, Result};
use ssl_vision::augment::Crop;
use ssl_vision::{Image, ImageDataset};
use std::f64::consts::{FRAC_PI_4, FRAC_PI_8};
use std::sync::Arc;

/// The stream of random numbers.
const MOVING: u64 = 604;
/// Sides of the first and of the second image, in 64ths of the frame's.
const SIDES: [usize; 2] = [28, 18];
/// Speeds, in 64ths of the frame's side per frame; the original has 3.6.
const SPEEDS: [usize; 4] = [1, 2, 3, 4];
/// Directions, counter-clockwise from the right.
const DIRECTIONS: [&str; 8] =
    ["right", "up-right", "up", "up-left", "left", "down-left", "down", "down-right"];
/// So many frames before and after the middle one an image does not bounce.
const STRAIGHT: usize = 3;
/// Frames per second; the original says none.
const RATE: f64 = 10.0;

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovingOptions {
    /// Videos.
    pub videos: usize,
    /// Frames of each.
    pub frames: usize,
    /// Side of the square frames, in pixels.
    pub size: usize,
    /// Images that move in each video: 1 or 2.
    pub sprites: usize,
    /// Where the random numbers come from.
    pub seed: u64,
    /// Splits have other movements of other draws; that their images are others is up to the set of images.
    pub split: Split,
}

impl Default for MovingOptions {
    /// 10,000 videos, as Moving MNIST's test set has, of 20 frames of 64 x 64 pixels, and one image in each.
    fn default() -> Self {
        MovingOptions { videos: 10_000, frames: 20, size: 64, sprites: 1, seed: 0, split: Split::Train }
    }
}

/// Videos of moving images, rendered when they are read: a function of the seed and the number of the video.
///
/// The labels are those of the only image or, of two, the larger: `class` is that of the image, where the set has
/// labels; `speed` is the same at all times; `direction` is that in which it goes at the middle frame, in one of eight
/// sectors. About it, from 3 frames before to 3 after, the image does not bounce, and it keeps away from the borders
/// of the sectors by a quarter of their width, so that the label can be seen.
#[derive(Debug, Clone)]
pub struct MovingImages {
    images: Arc<dyn ImageDataset>,
    options: MovingOptions,
}

/// One image and its movement, in pixels and frames.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sprite {
    image: usize,
    side: usize,
    /// Left and upper border at the middle frame.
    middle: [f64; 2],
    /// To the right and down, per frame, at the middle frame.
    velocity: [f64; 2],
    direction: usize,
    speed: usize,
}

impl MovingImages {
    /// Videos of the images of a set; those that are not square are stretched.
    ///
    /// # Errors
    /// `Error::Config` when there is no image or a number is out of range.
    pub fn new(images: Arc<dyn ImageDataset>, options: MovingOptions) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::config("images", "expected at least one, got none"));
        }
        for (name, value, least, most) in [
            ("videos", options.videos, 1, 1 << 32),
            ("frames", options.frames, 1, 1 << 20),
            ("size", options.size, 8, 4_096),
            ("sprites", options.sprites, 1, SIDES.len()),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::config(name, format!("expected {least} to {most}, got {value}")));
            }
        }
        Ok(MovingImages { images, options })
    }

    /// The images of a video, the one that the labels are of first.
    fn sprites(&self, index: usize) -> Vec<Sprite> {
        let split = match self.options.split {
            Split::Train => 0,
            Split::Test => 1,
            Split::Unlabelled => 2,
        };
        let size = self.options.size;
        let sprite = |(number, part): (u64, &usize)| {
            let mut rng = ssl_core::rng(self.options.seed, &[MOVING, split, index as u64, number]);
            let image = below(&mut rng, self.images.len());
            let (direction, speed) = (below(&mut rng, DIRECTIONS.len()), below(&mut rng, SPEEDS.len()));
            let off = between(&mut rng, [-FRAC_PI_8 / 2.0, FRAC_PI_8 / 2.0]);
            let (sin, cos) = (direction as f64 * FRAC_PI_4 + off).sin_cos();
            let per_frame = SPEEDS.get(speed).copied().unwrap_or(0) as f64 * size as f64 / 64.0;
            let velocity = [per_frame * cos, -per_frame * sin];
            let side = (part * size / 64).max(1);
            let room = (size - side) as f64;
            let place = |velocity: f64, at: f64| {
                let reach = STRAIGHT as f64 * velocity.abs();
                reach + at * (room - 2.0 * reach)
            };
            let [x, y] = velocity;
            let middle = [place(x, unit(&mut rng)), place(y, unit(&mut rng))];
            Sprite { image, side, middle, velocity, direction, speed }
        };
        (0..).zip(&SIDES).take(self.options.sprites).map(sprite).collect()
    }

    /// Left and upper border of an image in a frame, in whole pixels as in the original.
    fn place(&self, sprite: &Sprite, frame: usize) -> [usize; 2] {
        let room = (self.options.size - sprite.side) as f64;
        let time = frame as f64 - (self.options.frames / 2) as f64;
        let [x, y] = sprite.middle;
        let [right, down] = sprite.velocity;
        [bounce(x + right * time, room), bounce(y + down * time, room)].map(|at| at.round() as usize)
    }

    /// Labels of one kind.
    fn labels_of(&self, name: &str, names: Vec<String>, of: impl Fn(&Sprite) -> usize) -> LabelSet {
        let label = |index| self.sprites(index).first().map_or(0, |sprite| of(sprite) as i64);
        let labels = (0..self.options.videos).map(label).collect();
        LabelSet { name: name.to_string(), labels, class_names: names }
    }
}

/// Where something is that goes straight on and bounces off 0 and `room`.
fn bounce(at: f64, room: f64) -> f64 {
    let at = at.rem_euclid(2.0 * room);
    if at > room { 2.0 * room - at } else { at }
}

/// Draws a square picture into a frame; the brighter of two values is seen.
fn draw(picture: &Image<'_>, [left, top]: [usize; 2], size: usize, frame: &mut [u8]) {
    let (row, channels) = (picture.width() * picture.channels(), picture.channels());
    let rows = frame.chunks_exact_mut(size * channels).skip(top);
    for (out, row) in rows.zip(picture.data().chunks_exact(row)) {
        out.iter_mut().skip(left * channels).zip(row).for_each(|(out, value)| *out = (*out).max(*value));
    }
}

impl VideoDataset for MovingImages {
    fn len(&self) -> usize {
        self.options.videos
    }

    fn frames(&self, index: usize) -> usize {
        if index < self.len() { self.options.frames } else { 0 }
    }

    fn rate(&self, index: usize) -> f64 {
        if index < self.len() { RATE } else { 0.0 }
    }

    fn size(&self) -> [usize; 2] {
        [self.options.size; 2]
    }

    fn channels(&self) -> usize {
        self.images.channels()
    }

    fn read(&self, index: usize, frames: &[usize], out: &mut [u8]) -> Result<()> {
        if index >= self.len() {
            return Err(out_of_range(index, self.len()));
        }
        check_out(out, frames.len(), self.frame_bytes())?;
        out.fill(0);
        for sprite in self.sprites(index) {
            let image = self.images.image(sprite.image)?;
            let crop = Crop { left: 0, top: 0, width: image.width(), height: image.height() };
            let picture = image.resized(crop, sprite.side, sprite.side)?;
            for (frame, out) in frames.iter().zip(out.chunks_exact_mut(self.frame_bytes())) {
                let place = self.place(&sprite, frame % self.options.frames);
                draw(&picture, place, self.options.size, out);
            }
        }
        Ok(())
    }

    fn label(&self, index: usize) -> Option<i64> {
        if index >= self.len() {
            return None;
        }
        self.images.label(self.sprites(index).first()?.image)
    }

    fn class_names(&self) -> &[String] {
        self.images.class_names()
    }

    fn label_sets(&self) -> Vec<LabelSet> {
        let classes = self.class_names().to_vec();
        let labels = self.labels().filter(|_| !classes.is_empty());
        let class = labels.map(|labels| LabelSet { name: "class".into(), labels, class_names: classes });
        let speeds = SPEEDS.map(|speed| format!("{speed}/64 of the side per frame")).to_vec();
        let directions = DIRECTIONS.map(String::from).to_vec();
        let made = [
            self.labels_of("direction", directions, |sprite| sprite.direction),
            self.labels_of("speed", speeds, |sprite| sprite.speed),
        ];
        class.into_iter().chain(made).collect()
    }

    fn skipped(&self) -> Vec<String> {
        self.images.skipped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssl_vision::ImageArray;

    /// Images of one brightness each: 100, 110, 120, ..
    fn images(count: usize, channels: usize) -> Arc<dyn ImageDataset> {
        let data = (0..count).flat_map(|n| vec![100 + 10 * n as u8; 28 * 28 * channels]).collect();
        let names = (0..count).map(|n| n.to_string()).collect();
        let images = ImageArray::new(28, 28, channels, data).unwrap();
        Arc::new(images.with_labels((0..count as i64).collect(), names).unwrap())
    }

    fn set(options: MovingOptions) -> MovingImages {
        MovingImages::new(images(5, 1), options).unwrap()
    }

    /// The borders of what is not black in a frame: left, top, right, bottom.
    fn bounds(frame: &[u8], size: usize) -> [usize; 4] {
        let lit = || {
            frame.iter().enumerate().filter(|(_, value)| **value > 0).map(|(at, _)| (at % size, at / size))
        };
        let of = |f: fn((usize, usize)) -> usize| (lit().map(f).min().unwrap(), lit().map(f).max().unwrap());
        let ((left, right), (top, bottom)) = (of(|p| p.0), of(|p| p.1));
        [left, top, right, bottom]
    }

    #[test]
    fn labels_can_be_read_off_the_frames() {
        let set = set(MovingOptions { videos: 300, ..MovingOptions::default() });
        let [class, direction, speed]: [LabelSet; 3] = set.label_sets().try_into().unwrap();
        assert_eq!(set.labels(), Some(class.labels.clone()));
        for index in 0..300 {
            let clip = set.clip(index, &[7, 10, 13]).unwrap();
            let at = |frame: usize| {
                let [left, top, right, bottom] = bounds(&clip[frame * 4096..(frame + 1) * 4096], 64);
                assert_eq!((right - left, bottom - top), (27, 27), "it is always seen whole");
                [left as f64, top as f64]
            };
            let ([x0, y0], [x1, y1], [x2, y2]) = (at(0), at(1), at(2));
            let (right, up) = (x2 - x0, y0 - y2);
            // Rounding to whole pixels moves either end by half a pixel at most.
            assert!((x1 - (x0 + x2) / 2.0).abs() <= 1.0 && (y1 - (y0 + y2) / 2.0).abs() <= 1.0, "straight");
            let sector = (up.atan2(right) / FRAC_PI_4).rem_euclid(8.0);
            let off = (sector - direction.labels[index] as f64 + 12.0).rem_euclid(8.0) - 4.0;
            assert!(
                off.abs() < 0.5,
                "{index}: {sector} {}",
                direction.class_names[direction.labels[index] as usize]
            );
            let per_frame = right.hypot(up) / 6.0;
            assert!((per_frame - (speed.labels[index] + 1) as f64).abs() < 0.3, "{per_frame}");
            assert_eq!(clip.iter().max().copied(), Some(100 + 10 * class.labels[index] as u8));
        }
        for labels in [class, direction, speed] {
            let seen: std::collections::BTreeSet<i64> = labels.labels.into_iter().collect();
            assert!(seen.into_iter().eq(0..labels.class_names.len() as i64), "{}", labels.name);
        }
    }

    #[test]
    fn what_bounces_goes_back_as_fast() {
        let path: Vec<f64> = (0..9).map(|time| bounce(4.0 + 3.0 * f64::from(time), 10.0)).collect();
        assert_eq!(path, [4.0, 7.0, 10.0, 7.0, 4.0, 1.0, 2.0, 5.0, 8.0]);
        assert_eq!(bounce(-2.5, 10.0), 2.5);
        // Against a slow second way: step by step, as the original goes.
        let set = set(MovingOptions { videos: 20, frames: 60, ..MovingOptions::default() });
        for index in 0..20 {
            let sprite = set.sprites(index)[0];
            let (mut at, mut velocity) = (sprite.middle, sprite.velocity);
            for frame in 30..60 {
                let got = set.place(&sprite, frame);
                assert!(got.iter().zip(at).all(|(got, at)| (*got as f64 - at).abs() < 0.501), "{frame}");
                for (at, velocity) in at.iter_mut().zip(&mut velocity) {
                    *at += *velocity;
                    if *at < 0.0 || *at > 36.0 {
                        *at = if *at < 0.0 { -*at } else { 72.0 - *at };
                        *velocity = -*velocity;
                    }
                }
            }
        }
    }

    #[test]
    fn of_two_images_the_labels_are_the_larger_ones_and_the_brighter_is_seen() {
        let options = MovingOptions { videos: 40, sprites: 2, size: 128, ..MovingOptions::default() };
        let set = set(options);
        for index in 0..40 {
            let [first, second]: [Sprite; 2] = set.sprites(index).try_into().unwrap();
            assert_eq!((first.side, second.side), (56, 36));
            assert_eq!(set.label(index), Some(first.image as i64));
            let frame = set.clip(index, &[4]).unwrap();
            let inside = |sprite: &Sprite, x: usize, y: usize| {
                let [left, top] = set.place(sprite, 4);
                (left..left + sprite.side).contains(&x) && (top..top + sprite.side).contains(&y)
            };
            for (at, &value) in frame.iter().enumerate() {
                let lit = [first, second]
                    .iter()
                    .filter(|sprite| inside(sprite, at % 128, at / 128))
                    .map(|sprite| 100 + 10 * sprite.image as u8)
                    .max();
                assert_eq!(value, lit.unwrap_or(0));
            }
        }
    }

    #[test]
    fn videos_are_a_function_of_seed_split_and_number_in_any_color() {
        let options = MovingOptions { videos: 4, frames: 5, ..MovingOptions::default() };
        let color = MovingImages::new(images(2, 3), options).unwrap();
        assert_eq!((color.channels(), color.clip(3, &[0, 6]).unwrap().len()), (3, 2 * 64 * 64 * 3));
        assert_eq!(color.clip(3, &[6]).unwrap(), color.clip(3, &[1]).unwrap());
        let clip = |options| set(options).clip(1, &[0, 3]).unwrap();
        assert_eq!(clip(options), clip(options));
        assert_ne!(clip(options), clip(MovingOptions { seed: 1, ..options }));
        assert_ne!(clip(options), clip(MovingOptions { split: Split::Test, ..options }));
        let small = MovingImages::new(images(2, 1), MovingOptions { size: 8, ..options }).unwrap();
        assert!(small.clip(0, &[0, 1, 2, 3, 4]).unwrap().iter().any(|value| *value > 0));
        let message = |options| MovingImages::new(images(1, 1), options).unwrap_err().to_string();
        assert_eq!(message(MovingOptions { sprites: 3, ..options }), "sprites: expected 1 to 2, got 3");
        assert_eq!(
            message(MovingOptions { videos: 0, ..options }),
            "videos: expected 1 to 4294967296, got 0"
        );
        assert!(color.read(4, &[0], &mut []).is_err() && color.label(4).is_none());
    }
}

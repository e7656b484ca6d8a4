//! One view of one clip, on one thread.
use super::{Augment, Channels};
use crate::random::{below, chance};
use ssl_core::{Error, Result, Rng};
use ssl_vision::augment::Crop;
use ssl_vision::{Image, Scratch};

/// The random numbers of one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameParams {
    /// How far the crop moves to the right and down, in pixels of the stored frame.
    pub shift: [isize; 2],
    /// The channel that stays; none when all three do.
    pub channel: Option<usize>,
}

/// The random numbers of one view.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Those of all frames.
    pub clip: ssl_vision::augment::Params,
    /// Those of each frame.
    pub frames: Vec<FrameParams>,
}

/// Makes views by one configuration.
#[derive(Debug, Clone)]
pub struct Augmenter {
    config: Augment,
    each: ssl_vision::Augmenter,
    size: [usize; 2],
    channels: usize,
}

impl Augmenter {
    /// Checks `config` for frames of `size` (height, width) and `channels` (1 or 3).
    ///
    /// # Errors
    /// `Error::Config` with the name of the field that is out of range.
    pub fn new(config: Augment, size: [usize; 2], channels: usize) -> Result<Self> {
        config.validate()?;
        if size.contains(&0) {
            let [height, width] = size;
            let message = format!("expected frames of at least 1x1 pixel, got {height}x{width}");
            return Err(Error::config("size", message));
        }
        let each = ssl_vision::Augmenter::new(config.clip.clone(), channels)?;
        Ok(Augmenter { config, each, size, channels })
    }

    /// The configuration.
    pub fn config(&self) -> &Augment {
        &self.config
    }

    /// Channels of a view.
    pub fn output_channels(&self) -> usize {
        self.each.output_channels()
    }

    /// Numbers in a frame of a view.
    pub fn frame_len(&self) -> usize {
        self.each.len()
    }

    /// Draws the numbers of a view of so many frames; as many whatever happens to a frame.
    pub fn draw(&self, frames: usize, rng: &mut Rng) -> Params {
        let [height, width] = self.size;
        let clip = ssl_vision::augment::Params::draw(&self.config.clip, width, height, rng);
        let reach = self.config.shift;
        let mut frame = || {
            let mut shift = || below(rng, 2 * reach + 1) as isize - reach as isize;
            let shift = [shift(), shift()];
            let channel = below(rng, 3);
            let happens = chance(rng, self.config.channel_probability) && self.channels == 3;
            FrameParams { shift, channel: happens.then_some(channel) }
        };
        let frames = (0..frames).map(|_| frame()).collect();
        Params { clip, frames }
    }

    /// Writes the view of `clip`, `[T, H, W, C]`, that `params` describe into `out`, `[T, size, size, channels]`.
    ///
    /// # Errors
    /// `Error::Config` when the clip, the crop or the length of `out` do not fit.
    pub fn apply(&self, clip: &[u8], params: &Params, scratch: &mut Scratch, out: &mut [f32]) -> Result<()> {
        let [height, width] = self.size;
        let (each, count) = (height * width * self.channels, params.frames.len());
        let check = |name: &str, expected: usize, got: usize| match expected == got {
            true => Ok(()),
            false => Err(Error::config(
                name,
                format!("expected {count} frames, {expected} numbers in all, got {got}"),
            )),
        };
        check("clip", count * each, clip.len())?;
        check("view", count * self.frame_len(), out.len())?;
        let frames = clip.chunks_exact(each).zip(out.chunks_exact_mut(self.frame_len())).zip(&params.frames);
        let mut moved = params.clip.clone();
        let mut split = Vec::new();
        for ((bytes, out), frame) in frames {
            moved.crop = self.shifted(params.clip.crop, frame.shift);
            let bytes = match (frame.channel, self.config.channels) {
                (Some(channel), Channels::Split) => {
                    spread(bytes, channel, &mut split);
                    &split
                }
                _ => bytes,
            };
            let image = Image::new(width, height, self.channels, bytes)?;
            self.each.apply_params(&image, &moved, scratch, out)?;
            if let (Some(channel), Channels::Drop) = (frame.channel, self.config.channels) {
                drop_others(out, channel);
            }
        }
        Ok(())
    }

    /// A crop that is moved, as far as the frame with its padding goes.
    fn shifted(&self, crop: Crop, [right, down]: [isize; 2]) -> Crop {
        let padding = 2 * self.config.clip.padding;
        let [height, width] = self.size.map(|side| side + padding);
        let moved = |begin: usize, by: isize, length: usize, side: usize| {
            begin.saturating_add_signed(by).min(side.saturating_sub(length))
        };
        let left = moved(crop.left, right, crop.width, width);
        Crop { left, top: moved(crop.top, down, crop.height, height), ..crop }
    }
}

/// One channel in place of all three.
fn spread(bytes: &[u8], channel: usize, out: &mut Vec<u8>) {
    let (pixels, _) = bytes.as_chunks::<3>();
    out.clear();
    out.extend(pixels.iter().flat_map(|pixel| [pixel.get(channel).copied().unwrap_or(0); 3]));
}

/// Two channels get the mean.
fn drop_others(out: &mut [f32], channel: usize) {
    let (pixels, _) = out.as_chunks_mut::<3>();
    for pixel in pixels {
        pixel.iter_mut().enumerate().filter(|(at, _)| *at != channel).for_each(|(_, value)| *value = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of 6 x 8 RGB pixels whose values tell frame, position and channel.
    fn clip(frames: usize) -> Vec<u8> {
        (0..frames * 6 * 8 * 3).map(|at| (at * 7 % 251) as u8).collect()
    }

    fn view(config: Augment, seed: u64, frames: usize) -> (Params, Vec<f32>) {
        let augmenter = Augmenter::new(config, [6, 8], 3).unwrap();
        let params = augmenter.draw(frames, &mut ssl_core::rng(seed, &[]));
        let mut out = vec![0.0; frames * augmenter.frame_len()];
        augmenter.apply(&clip(frames), &params, &mut Scratch::default(), &mut out).unwrap();
        (params, out)
    }

    #[test]
    fn each_frame_is_what_the_image_augmentation_makes_of_it_with_the_same_numbers() {
        let config = Augment::cvrl(5).normalized(&[0.5; 3], &[0.25; 3]);
        let image = ssl_vision::Augmenter::new(config.clip.clone(), 3).unwrap();
        for seed in 0..20 {
            let (_, got) = view(config.clone(), seed, 3);
            for (frame, got) in clip(3).chunks(6 * 8 * 3).zip(got.chunks(75)) {
                let frame = Image::new(8, 6, 3, frame).unwrap();
                let mut expected = vec![0.0; 75];
                let rng = &mut ssl_core::rng(seed, &[]);
                image.apply(&frame, rng, &mut Scratch::default(), &mut expected).unwrap();
                assert_eq!(got, expected);
            }
        }
    }

    #[test]
    fn a_split_frame_is_grey_in_the_values_of_one_channel() {
        let clip_config = ssl_vision::Augment::whole(8).normalized(&[0.0], &[1.0]);
        let whole = Augment { channel_probability: 0.5, ..Augment::from(clip_config) };
        let (plain, _) = view(Augment { channel_probability: 0.0, ..whole.clone() }, 3, 40);
        let (params, out) = view(whole.clone(), 3, 40);
        let (_, unsplit) = view(Augment { channel_probability: 0.0, ..whole.clone() }, 3, 40);
        assert!(plain.frames.iter().all(|frame| frame.channel.is_none()));
        let mut seen = [0; 3];
        for ((frame, out), unsplit) in params.frames.iter().zip(out.chunks(192)).zip(unsplit.chunks(192)) {
            for (out, unsplit) in out.chunks(3).zip(unsplit.chunks(3)) {
                let expected = frame.channel.map_or(unsplit.to_vec(), |channel| vec![unsplit[channel]; 3]);
                assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
            }
            frame.channel.iter().for_each(|&channel| seen[channel] += 1);
        }
        assert!(seen.iter().all(|&count| count > 2) && (12..28).contains(&seen.iter().sum::<i32>()));
    }

    #[test]
    fn dropped_channels_are_zero_after_normalization_and_the_other_stays() {
        let config = Augment::whole(8).normalized(&[0.4; 3], &[0.2; 3]);
        let config = Augment { channel_probability: 1.0, channels: Channels::Drop, ..config };
        let (params, out) = view(config.clone(), 1, 5);
        let (_, all) = view(Augment { channel_probability: 0.0, ..config }, 1, 5);
        for ((frame, out), all) in params.frames.iter().zip(out.chunks(192)).zip(all.chunks(192)) {
            for (at, (out, all)) in out.iter().zip(all).enumerate() {
                assert_eq!(*out, if Some(at % 3) == frame.channel { *all } else { 0.0 });
            }
        }
    }

    #[test]
    fn shifts_differ_from_frame_to_frame_and_stay_inside() {
        let clip = ssl_vision::Augment { crop_scale: [0.2, 0.9], ..ssl_vision::Augment::crop_and_flip(4) };
        let config = Augment { shift: 3, ..Augment::from(clip) };
        let augmenter = Augmenter::new(config.clone(), [6, 8], 3).unwrap();
        let mut shifts = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let (params, _) = view(config.clone(), seed, 6);
            for frame in &params.frames {
                let crop = augmenter.shifted(params.clip.crop, frame.shift);
                assert!(crop.left + crop.width <= 8 && crop.top + crop.height <= 6);
                shifts.extend(frame.shift);
            }
        }
        assert!(shifts.into_iter().eq(-3..=3));
        let crop = Crop { left: 2, top: 2, width: 3, height: 3 };
        let at = |shift| augmenter.shifted(crop, shift);
        assert_eq!((at([1, -1]).left, at([1, -1]).top), (3, 1));
        assert_eq!((at([-3, 3]).left, at([-3, 3]).top), (0, 3));
    }

    #[test]
    fn grey_videos_keep_their_channel_and_what_does_not_fit_is_an_error() {
        let config = Augment::opn(4).normalized(&[0.0; 3], &[1.0; 3]);
        let augmenter = Augmenter::new(config, [6, 8], 1).unwrap();
        let params = augmenter.draw(2, &mut ssl_core::rng(0, &[]));
        assert!(params.frames.iter().all(|frame| frame.channel.is_none()));
        assert_eq!((augmenter.output_channels(), augmenter.frame_len()), (3, 48));
        let apply = |clip: &[u8], out: &mut [f32]| {
            augmenter.apply(clip, &params, &mut Scratch::default(), out).map_err(|error| error.to_string())
        };
        apply(&[0; 96], &mut [0.0; 96]).unwrap();
        let message = apply(&[0; 95], &mut [0.0; 96]).unwrap_err();
        assert_eq!(message, "clip: expected 2 frames, 96 numbers in all, got 95");
        assert!(apply(&[0; 96], &mut [0.0; 90]).unwrap_err().starts_with("view: expected 2 frames, 96"));
        assert!(Augmenter::new(Augment::whole(4), [0, 8], 1).is_err());
    }
}

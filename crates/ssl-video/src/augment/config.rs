//! What a view may look like: the configuration of the augmentations.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssl_core::{Error, Result};

/// What becomes of a frame's channels, so that colors do not tell which frames are neighbors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// One of the three, drawn for each frame, stands in place of all three.
    #[default]
    Split,
    /// One of the three, drawn for each frame, stays; the others get their mean, which is 0 after normalization.
    Drop,
}

/// The random view of a clip that a method trains on.
///
/// # Source
/// Lee et al., 2017 ("Unsupervised representation learning by sorting sequences", OPN), sections 3.2 and 4:
/// <https://arxiv.org/abs/1708.01246>. Dropping: Doersch et al., 2015, section 3.1, with the mean in place of noise:
/// <https://arxiv.org/abs/1505.05192>.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// What happens to all frames alike, with its size and normalization: one crop, one flip, one change of colors.
    pub clip: ssl_vision::Augment,
    /// Probability, for each frame, that `channels` happens to it; nothing happens to grey videos.
    pub channel_probability: f32,
    /// What happens to the channels.
    pub channels: Channels,
    /// Each frame's crop is shifted by up to so many pixels of the stored frame, either way in each direction; it
    /// stays inside the frame.
    pub shift: usize,
}

impl From<ssl_vision::Augment> for Augment {
    fn from(clip: ssl_vision::Augment) -> Self {
        Augment { clip, ..Augment::default() }
    }
}

impl Augment {
    /// The whole frames, resized to a square; nothing random.
    pub fn whole(size: usize) -> Self {
        ssl_vision::Augment::whole(size).into()
    }

    /// A random resized crop and a horizontal flip, nothing else.
    pub fn crop_and_flip(size: usize) -> Self {
        ssl_vision::Augment::crop_and_flip(size).into()
    }

    /// A crop of at least half of the frame, a flip; for each frame one channel in place of three, and a shift of up
    /// to 5 pixels.
    ///
    /// # Source
    /// Lee et al., 2017, section 3.2 (the shift and the channels); the crop is a random resized one in place of 80 of
    /// 227 pixels: <https://arxiv.org/abs/1708.01246>.
    pub fn opn(size: usize) -> Self {
        let clip = ssl_vision::Augment { crop_scale: [0.5, 1.0], ..ssl_vision::Augment::crop_and_flip(size) };
        Augment { clip, channel_probability: 1.0, channels: Channels::Split, shift: 5 }
    }

    /// A crop of 30 % to all of the frame, a flip, a change of colors as SimCLR's of strength 0.5, grey, and a blur
    /// from 64 pixels up; all the same for all frames.
    ///
    /// # Source
    /// Qian et al., 2021 (CVRL), section 3.3 and appendix: <https://arxiv.org/abs/2008.03800>.
    pub fn cvrl(size: usize) -> Self {
        ssl_vision::Augment { crop_scale: [0.3, 1.0], ..ssl_vision::Augment::simclr(size, 0.5) }.into()
    }

    /// The same views normalized by another mean and deviation, of full scale, per channel.
    pub fn normalized(self, mean: &[f32], std: &[f32]) -> Self {
        Augment { clip: self.clip.normalized(mean, std), ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.clip.validate()?;
        if !(0.0..=1.0).contains(&self.channel_probability) {
            let message = format!("expected 0 to 1, got {}", self.channel_probability);
            return Err(Error::config("channel_probability", message));
        }
        match self.shift {
            0..=4096 => Ok(()),
            shift => Err(Error::config("shift", format!("expected 0 to 4096, got {shift}"))),
        }
    }
}

/// Frames that a view may have.
const MOST_FRAMES: usize = 4096;

/// A view of a clip: which frames, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct View {
    /// Frames of the view.
    pub frames: usize,
    /// Frames of the video from one frame of the view to the next.
    pub stride: usize,
    /// What becomes of them.
    pub augment: Augment,
}

impl Default for View {
    /// 16 frames that follow each other.
    fn default() -> Self {
        View { frames: 16, stride: 1, augment: Augment::default() }
    }
}

impl View {
    /// A view of so many frames, each `stride` after the last.
    pub fn new(frames: usize, stride: usize, augment: Augment) -> Self {
        View { frames, stride, augment }
    }

    /// The same view normalized by another mean and deviation, of full scale, per channel.
    pub fn normalized(self, mean: &[f32], std: &[f32]) -> Self {
        View { augment: self.augment.normalized(mean, std), ..self }
    }

    /// Frames of the video from the first to the last frame of the view.
    pub fn window(&self) -> usize {
        self.frames.saturating_sub(1) * self.stride + 1
    }

    /// The numbers of the frames of a view that begins at `start`.
    pub fn indices(&self, start: usize) -> Vec<usize> {
        (0..self.frames).map(|frame| start + frame * self.stride).collect()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `Error::Config` with the name of the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("frames", self.frames), ("stride", self.stride)] {
            if !(1..=MOST_FRAMES).contains(&value) {
                return Err(Error::config(name, format!("expected 1 to {MOST_FRAMES}, got {value}")));
            }
        }
        self.augment.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_the_field_at_fault_is_named() {
        for size in [16, 64, 112] {
            for augment in [Augment::whole(size), Augment::opn(size), Augment::cvrl(size)] {
                View::new(16, 2, augment).validate().unwrap();
            }
        }
        let good = Augment::opn(64);
        let view = |augment: Augment| View { augment, ..View::default() };
        for (name, bad) in [
            ("frames", View { frames: 0, ..View::default() }),
            ("stride", View { stride: 5000, ..View::default() }),
            ("channel_probability", view(Augment { channel_probability: f32::NAN, ..good.clone() })),
            ("shift", view(Augment { shift: 5000, ..good.clone() })),
            ("size", view(Augment::whole(0))),
            ("std", view(good.normalized(&[0.5], &[0.0]))),
        ] {
            let message = bad.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: expected")), "{message}");
        }
    }

    #[test]
    fn a_window_reaches_from_the_first_to_the_last_frame() {
        let view = View::new(4, 3, Augment::whole(8));
        assert_eq!((view.window(), view.indices(5)), (10, vec![5, 8, 11, 14]));
    }

    #[test]
    fn json_names_every_field_and_refuses_others() {
        let text = r#"{"frames": 8, "augment": {"clip": {"size": 32}, "channels": "drop", "shift": 2}}"#;
        let view: View = serde_json::from_str(text).unwrap();
        assert_eq!((view.frames, view.stride, view.augment.clip.size), (8, 1, 32));
        assert_eq!((view.augment.channels, view.augment.shift), (Channels::Drop, 2));
        for bad in
            [r#"{"frame": 8}"#, r#"{"augment": {"size": 32}}"#, r#"{"augment": {"clip": {"sise": 1}}}"#]
        {
            assert!(serde_json::from_str::<View>(bad).is_err(), "{bad}");
        }
    }
}

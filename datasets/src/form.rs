//! What a data set is of, and how its files are to be read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a data set is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Images.
    Vision,
    /// Text.
    Text,
    /// Sound.
    Audio,
    /// Moving images.
    Video,
    /// Pairs of two of the others.
    Multimodal,
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vision => "vision",
            Self::Text => "text",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Multimodal => "multimodal",
        })
    }
}

/// How the files of a data set are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// IDX files: a split's files are its images and its labels.
    Idx,
    /// CIFAR-10 binary: records of one label byte and 3,072 planar RGB bytes.
    Cifar10Binary,
    /// CIFAR-100 binary: records of a coarse label byte, a fine one, and 3,072 planar RGB bytes.
    Cifar100Binary,
    /// STL-10 binary: images of 3 planes of 96 columns of 96 bytes; labels count from 1 in a file of their own.
    Stl10Binary,
    /// A folder of pictures; each sub-folder is a class.
    ImageFolder,
    /// Plain text: each file is a document; in a folder of folders, each of these is a class.
    TextFiles,
    /// Plain text of several documents a file, with lines of `%` between; each file is a class.
    Fortunes,
    /// WikiText: an article begins with a line ` = Title = `.
    Wikitext,
    /// Orange's table: three lines of header, then class, tab, text.
    OrangeTab,
    /// AG News as CSV without header: class from 1, title, description.
    AgNewsCsv,
    /// SST-2 of GLUE, separated by tabs: sentence, class from 0; the test set has other columns.
    Sst2Tsv,
    /// Recordings, a file each, in a folder of any depth.
    AudioFolder,
    /// Speech Commands: each folder but `_background_noise_` is a class. A split's file lists its clips; the training
    /// set is what no list names.
    SpeechCommands,
    /// LibriSpeech: a folder per speaker, in it one per chapter, in it utterances and a text of their transcripts. The
    /// speaker is the class.
    LibriSpeech,
    /// ESC-50: a folder of clips and a table that names the class and the fold of each.
    Esc50,
    /// A sound font: sampled instruments, from which notes are rendered.
    SoundFont,
    /// Videos, a file each, in a folder.
    VideoFolder,
    /// One array of NumPy: time, video, row, column.
    MovingMnist,
    /// UCF101: videos in folders that are classes, and lists that say which are for the test.
    Ucf101,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idx => "idx",
            Self::Cifar10Binary => "cifar10-binary",
            Self::Cifar100Binary => "cifar100-binary",
            Self::Stl10Binary => "stl10-binary",
            Self::ImageFolder => "image-folder",
            Self::TextFiles => "text-files",
            Self::Fortunes => "fortunes",
            Self::Wikitext => "wikitext",
            Self::OrangeTab => "orange-tab",
            Self::AgNewsCsv => "ag-news-csv",
            Self::Sst2Tsv => "sst2-tsv",
            Self::AudioFolder => "audio-folder",
            Self::SpeechCommands => "speech-commands",
            Self::LibriSpeech => "libri-speech",
            Self::Esc50 => "esc50",
            Self::SoundFont => "sound-font",
            Self::VideoFolder => "video-folder",
            Self::MovingMnist => "moving-mnist",
            Self::Ucf101 => "ucf101",
        })
    }
}

/// The size of every image of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageShape {
    /// Colour channels.
    pub channels: u32,
    /// Height in pixels.
    pub height: u32,
    /// Width in pixels.
    pub width: u32,
}

/// How the text of a data set is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextForm {
    /// Its language, by its BCP 47 tag.
    pub language: String,
    /// How its characters are written as bytes.
    pub encoding: Encoding,
    /// The line between two documents of a file, where a file has several.
    pub separator: Option<String>,
}

/// How characters are written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// UTF-8.
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1: each byte is a character.
    #[serde(rename = "latin-1")]
    Latin1,
}

/// How the recordings of a data set are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioForm {
    /// Samples per second of each channel, in hertz; `None` where recordings differ.
    pub sample_rate: Option<u32>,
    /// Channels; `None` where recordings differ.
    pub channels: Option<u32>,
}

//! FLAC, MP3 and Ogg Vorbis, decoded from the nearest point at which a decoder can start.
use super::Info;
use super::section::Section;
use super::sound::RATES;
use std::io::ErrorKind;
use std::ops::Range;
use symphonia::core::codecs::audio::well_known::CODEC_ID_FLAC;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::{Error, SeekErrorKind};
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::Timestamp;

/// Frames that a lossy decoder goes through before what it gives depends no more on where it began: what it carries
/// over from earlier packets is a few packets old at most.
const RUN_UP: u64 = 16_384;

/// A file with its reader.
pub(crate) struct Packed<'a> {
    reader: Box<dyn FormatReader + 'a>,
    track: u32,
    is_lossless: bool,
    sample_rate: u32,
    channels: u16,
    /// The length that the file tells.
    told: Option<u64>,
    /// Whether it is exact. That of an MP3 is a guess from its bytes, unless its encoder has written it down.
    is_exact: bool,
}

impl<'a> Packed<'a> {
    /// Reads the headers.
    pub(crate) fn new(file: Section) -> Result<Self, String> {
        let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
        let (hint, options) = (Hint::new(), FormatOptions::default());
        let reader =
            symphonia::default::get_probe().probe(&hint, stream, options, MetadataOptions::default());
        let reader = reader.map_err(|error| match error {
            Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
                "truncated: the file ends before its first sample".to_string()
            }
            error => format!("expected FLAC, MP3 or Ogg Vorbis: {error}"),
        })?;
        let track = reader.default_track(TrackType::Audio).ok_or("expected a track of sound, found none")?;
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
        let parameters = parameters.ok_or("expected FLAC, MP3 or Vorbis, found an unknown codec")?;
        let sample_rate = parameters.sample_rate.unwrap_or(0);
        if !RATES.contains(&sample_rate) {
            let (least, most) = (RATES.start(), RATES.end());
            return Err(format!(
                "expected a sample rate of {least} to {most} Hz, the header says {sample_rate}"
            ));
        }
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
        let channels = u16::try_from(channels).ok().filter(|&channels| channels > 0);
        let channels = channels.ok_or("expected at least 1 channel, the header says 0")?;
        let is_lossless = parameters.codec == CODEC_ID_FLAC;
        let is_exact = !reader.format_info().short_name.starts_with("mp");
        let (told, track) = (track.num_frames, track.id);
        Ok(Packed { track, is_lossless, sample_rate, channels, told, is_exact, reader })
    }

    /// What the file holds; where it does not say, its packets are counted.
    pub(crate) fn info(mut self) -> Result<Info, String> {
        let frames = match self.told {
            Some(frames) if self.is_exact => frames,
            told => self.end()?.min(told.unwrap_or(u64::MAX)),
        };
        if frames == 0 {
            return Err("no samples: the file is 0 seconds long".to_string());
        }
        Ok(Info { sample_rate: self.sample_rate, channels: self.channels, frames })
    }

    /// Where the last packet ends.
    fn end(&mut self) -> Result<u64, String> {
        let mut end = 0;
        while let Some(packet) = self.next()? {
            end = end.max(begin(&packet).saturating_add_unsigned(packet.dur.get()));
        }
        Ok(u64::try_from(end).unwrap_or(0))
    }

    /// Reads frames from `start` on until `out` is full, as the mean of the channels.
    pub(crate) fn read(mut self, start: u64, out: &mut [f32]) -> Result<(), String> {
        let wanted = start..start.saturating_add(out.len() as u64);
        let mut decoder = self.decoder()?;
        let run_up = if self.is_lossless { 0 } else { RUN_UP };
        if start > run_up {
            self.seek(start - run_up)?;
        }
        let (mut filled, mut samples) = (0, Vec::new());
        while filled < out.len() {
            let Some(packet) = self.next()? else { break };
            let begin = begin(&packet);
            let buffer = match decoder.decode(&packet) {
                Ok(buffer) => buffer,
                // In the run-up a lossy decoder may miss what came before it.
                Err(Error::DecodeError(_)) if ends_before(&packet, wanted.start) => continue,
                Err(error) => return Err(format!("cannot decode the packet at sample {begin}: {error}")),
            };
            let channels = buffer.spec().channels().count();
            if channels != usize::from(self.channels) || buffer.spec().rate() != self.sample_rate {
                return Err(format!(
                    "expected one rate and number of channels, they change at sample {begin}"
                ));
            }
            buffer.copy_to_vec_interleaved::<f32>(&mut samples);
            filled += place(&samples, channels, begin, &wanted, filled, out)?;
        }
        if filled < out.len() {
            let end = wanted.start + filled as u64;
            return Err(format!("truncated: expected {} samples, it breaks off after {end}", wanted.end));
        }
        match out.iter().position(|sample| !sample.is_finite()) {
            Some(at) => Err(format!("sample {} is not finite", wanted.start + at as u64)),
            None => Ok(()),
        }
    }

    fn decoder(&self) -> Result<Box<dyn AudioDecoder>, String> {
        let track = self.reader.tracks().iter().find(|track| track.id == self.track);
        let parameters = track.and_then(|track| track.codec_params.as_ref()?.audio());
        let parameters = parameters.ok_or("expected a track of sound, found none")?;
        let decoder =
            symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default());
        decoder.map_err(|error| format!("expected FLAC, MP3 or Vorbis: {error}"))
    }

    fn seek(&mut self, frame: u64) -> Result<(), String> {
        let ts = Timestamp::from(i64::try_from(frame).unwrap_or(i64::MAX));
        let to = SeekTo::Timestamp { ts, track_id: self.track };
        match self.reader.seek(SeekMode::Accurate, to) {
            Ok(_) => Ok(()),
            Err(Error::SeekError(SeekErrorKind::OutOfRange)) => {
                Err(format!("truncated: it breaks off before sample {frame}"))
            }
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(format!("truncated: it breaks off before sample {frame}"))
            }
            Err(error) => Err(format!("cannot go to sample {frame}: {error}")),
        }
    }

    /// The next packet of the track; none at the end.
    fn next(&mut self) -> Result<Option<Packet>, String> {
        loop {
            match self.reader.next_packet() {
                Ok(Some(packet)) if packet.track_id == self.track => return Ok(Some(packet)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// The first frame of a packet that is not cut off as the encoder's delay.
fn begin(packet: &Packet) -> i64 {
    packet.pts.get().saturating_add_unsigned(packet.trim_start.get())
}

/// Whether all of a packet lies before a frame.
fn ends_before(packet: &Packet, frame: u64) -> bool {
    let length = i64::try_from(packet.block_dur().get()).unwrap_or(i64::MAX);
    let end = packet.pts.get().saturating_add(length);
    u64::try_from(end).map_or(true, |end| end <= frame)
}

/// Copies what is wanted of a packet's samples, which begin at the frame `begin`, behind the `filled` ones; returns
/// how many.
fn place(
    samples: &[f32],
    channels: usize,
    begin: i64,
    wanted: &Range<u64>,
    filled: usize,
    out: &mut [f32],
) -> Result<usize, String> {
    let next = wanted.start + filled as u64;
    let skip = i128::from(next) - i128::from(begin);
    if skip < 0 {
        return Err(format!("expected sample {next}, the stream goes on with {begin}"));
    }
    let frames = samples.chunks_exact(channels).skip(usize::try_from(skip).unwrap_or(usize::MAX));
    let mut count = 0;
    for (out, frame) in out.iter_mut().skip(filled).zip(frames) {
        *out = frame.iter().sum::<f32>() / channels as f32;
        count += 1;
    }
    Ok(count)
}

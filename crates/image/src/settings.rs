//! How images become tensors.

use forebay_types::Dtype;
use serde::{Deserialize, Serialize};

use crate::Error;

/// How every image of a field becomes a tensor. The defaults are training on ImageNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageSettings {
    /// Height and width of the output in pixels; not looked at with [`Crop::None`].
    pub size: [u32; 2],
    /// Which part of the image is used.
    pub crop: Crop,
    /// How pixels are interpolated, always antialiased.
    pub filter: Filter,
    /// The probability of a horizontal flip.
    pub flip: f32,
    /// Random changes of colour, as torchvision's `ColorJitter`.
    pub jitter: Option<Jitter>,
    /// Subtracts the mean and divides by the standard deviation, of values in 0 to 1; needs `F32`.
    pub normalize: Option<Normalize>,
    /// The order of the output's dimensions.
    pub layout: Layout,
    /// `U8` (0 to 255) or `F32` (0 to 1, then normalized).
    pub dtype: Dtype,
    /// Three channels or one.
    pub color: Color,
    /// Turns images as their EXIF orientation says. Off as in torchvision, whose models have seen
    /// such images as they lie.
    pub orient: bool,
    /// Lets the JPEG decoder halve an image while its crop is still at least twice the output:
    /// faster, and different from full decoding by a few levels.
    pub scaled_decoding: bool,
    /// Accepts JPEG images whose data the decoder warns of (truncated, damaged, padded) as far as
    /// they can be decoded, instead of refusing them.
    pub tolerate_warnings: bool,
    /// The largest image decoded, in pixels; it bounds the memory of a thread at 4 bytes a pixel,
    /// and what the decoder needs beside (6 bytes a pixel for progressive JPEG).
    pub pixels_max: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            size: [224, 224],
            crop: Crop::default(),
            filter: Filter::Bilinear,
            flip: 0.5,
            jitter: None,
            normalize: None,
            layout: Layout::Chw,
            dtype: Dtype::U8,
            color: Color::Rgb,
            orient: false,
            scaled_decoding: true,
            tolerate_warnings: false,
            pixels_max: 64 << 20,
        }
    }
}

/// Which part of an image is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// A random part of it (torchvision's `RandomResizedCrop`): ten tries, then the central part
    /// of the nearest allowed ratio.
    RandomResized {
        /// The least and the largest share of the image's area.
        scale: [f32; 2],
        /// The least and the largest width over height, drawn evenly in their logarithm.
        ratio: [f32; 2],
    },
    /// The shorter side to `resize` pixels, then the centre (torchvision's `Resize`,
    /// `CenterCrop`): for evaluation.
    Center {
        /// The shorter side before the crop, in pixels.
        resize: u32,
    },
    /// All of it, stretched to the size.
    Resize,
    /// All of it in its own size. A caller that stacks images asks [`crate::ImageDecoder::measure`]
    /// first.
    None,
}

impl Default for Crop {
    fn default() -> Self {
        Self::RandomResized { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] }
    }
}

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Pillow's `BILINEAR`.
    #[default]
    Bilinear,
    /// Pillow's `BICUBIC`.
    Bicubic,
}

/// Bounds of random colour changes; 0 leaves a property as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jitter {
    /// Brightness is multiplied by 1 - this to 1 + this, at least by 0.
    pub brightness: f32,
    /// Contrast, likewise.
    pub contrast: f32,
    /// Saturation, likewise.
    pub saturation: f32,
    /// The hue turns by up to this share of the circle, at most 0.5.
    pub hue: f32,
}

/// Mean and standard deviation of each channel, of values in 0 to 1; grey uses the first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// What is subtracted.
    pub mean: [f32; 3],
    /// What is divided by.
    pub std: [f32; 3],
}

/// The order of the output's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channel, height, width: PyTorch's.
    #[default]
    Chw,
    /// Height, width, channel.
    Hwc,
}

/// The output's channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Color {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// One channel: ITU-R 601 luma, as Pillow's `L`.
    Gray,
}

impl Color {
    /// How many channels there are.
    #[must_use]
    pub const fn channels(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Gray => 1,
        }
    }
}

/// The longest side of an output; its tensor then has at most 3 GiB.
const SIDE_MAX: u32 = 16_384;

impl ImageSettings {
    /// Refuses settings that make no tensor.
    ///
    /// # Errors
    /// [`Error::Setting`], which names the setting.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |setting, reason: String| Err(Error::Setting { setting, reason });
        if self.size.iter().any(|side| !(1..=SIDE_MAX).contains(side)) {
            return refuse("size", format!("is {:?}; 1 to {SIDE_MAX} pixels are", self.size));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return refuse("flip", format!("is {}; a probability from 0 to 1 is", self.flip));
        }
        if !matches!(self.dtype, Dtype::U8 | Dtype::F32) {
            return refuse("dtype", format!("is {:?}; U8 and F32 are", self.dtype));
        }
        // The decoders count in 31 bits.
        if !(1..=1 << 30).contains(&self.pixels_max) {
            return refuse("pixels_max", format!("is {}; 1 to 2^30 are", self.pixels_max));
        }
        self.check_crop()?;
        self.check_jitter()?;
        self.check_normalize()
    }

    fn check_crop(&self) -> Result<(), Error> {
        let refuse = |setting, reason: String| Err(Error::Setting { setting, reason });
        let longest = self.size[0].max(self.size[1]);
        match self.crop {
            Crop::RandomResized { scale: [low, high], .. }
                if !(low > 0.0 && low <= high && high <= 1.0) =>
            {
                refuse("crop.scale", format!("is {low} to {high}; shares above 0, up to 1 are"))
            }
            Crop::RandomResized { ratio: [low, high], .. }
                if !(low > 0.0 && low <= high && high.is_finite()) =>
            {
                refuse("crop.ratio", format!("is {low} to {high}; ratios above 0 are"))
            }
            Crop::Center { resize } if resize < longest || resize > SIDE_MAX => refuse(
                "crop.resize",
                format!("is {resize}; the longer side of size, {longest}, to {SIDE_MAX} are"),
            ),
            _ => Ok(()),
        }
    }

    fn check_jitter(&self) -> Result<(), Error> {
        let Some(jitter) = self.jitter else { return Ok(()) };
        let Jitter { brightness, contrast, saturation, hue } = jitter;
        let bounds = [
            ("jitter.brightness", brightness, 16.0),
            ("jitter.contrast", contrast, 16.0),
            ("jitter.saturation", saturation, 16.0),
            ("jitter.hue", hue, 0.5),
        ];
        for (setting, value, most) in bounds {
            if !(0.0..=most).contains(&value) {
                let reason = format!("is {value}; 0 to {most} are");
                return Err(Error::Setting { setting, reason });
            }
        }
        Ok(())
    }

    fn check_normalize(&self) -> Result<(), Error> {
        let Some(Normalize { mean, std }) = self.normalize else { return Ok(()) };
        let (setting, reason) = if self.dtype != Dtype::F32 {
            ("normalize", "is set and dtype is U8; none, or dtype F32, is".to_owned())
        } else if mean.iter().any(|mean| !mean.is_finite()) {
            ("normalize.mean", format!("is {mean:?}; numbers are"))
        } else if std.iter().any(|std| !std.is_normal() || *std < 0.0) {
            ("normalize.std", format!("is {std:?}; numbers above 0 are"))
        } else {
            return Ok(());
        };
        Err(Error::Setting { setting, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_their_json_are_sound() {
        let settings = ImageSettings::default();
        settings.check().unwrap();
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<ImageSettings>(&json).unwrap(), settings);
        assert_eq!(serde_json::from_str::<ImageSettings>("{}").unwrap(), settings);
        assert!(serde_json::from_str::<ImageSettings>(r#"{"sise":[1,1]}"#).is_err());
    }

    #[test]
    fn a_bad_setting_is_named() {
        let bad = [
            ("size", r#"{"size":[0,224]}"#),
            ("flip", r#"{"flip":1.5}"#),
            ("dtype", r#"{"dtype":"I64"}"#),
            ("pixels_max", r#"{"pixels_max":0}"#),
            ("crop.scale", r#"{"crop":{"random_resized":{"scale":[0,1],"ratio":[1,1]}}}"#),
            ("crop.ratio", r#"{"crop":{"random_resized":{"scale":[1,1],"ratio":[2,1]}}}"#),
            ("crop.resize", r#"{"crop":{"center":{"resize":200}}}"#),
            ("jitter.hue", r#"{"jitter":{"hue":0.6}}"#),
            ("normalize", r#"{"normalize":{"mean":[0,0,0],"std":[1,1,1]}}"#),
            ("normalize.std", r#"{"dtype":"F32","normalize":{"mean":[0,0,0],"std":[1,0,1]}}"#),
        ];
        for (named, json) in bad {
            let settings: ImageSettings = serde_json::from_str(json).unwrap();
            let error = settings.check().unwrap_err();
            assert!(
                matches!(&error, Error::Setting { setting, .. } if *setting == named),
                "{error}"
            );
        }
    }
}

//! The way of one image, from header to tensor.

use fast_image_resize::Resizer;

use crate::{
    AugmentKey, Crop, Error, Format, ImageSettings, ImageSize,
    geometry::{Region, Window},
    jpeg::{Header, Jpeg},
    key::Draw,
    orientation::Turn,
    png, resize,
    tensor::TensorForm,
    webp,
};

/// Makes tensors of one form from encoded images; shared by any number of threads.
#[derive(Clone, Debug)]
pub struct ImageDecoder {
    settings: ImageSettings,
    form: TensorForm,
}

/// A thread's decoder instances and buffers, reused from image to image.
#[derive(Debug, Default)]
pub struct Scratch {
    jpeg: Option<Jpeg>,
    resizer: Resizer,
    decoded: Vec<u8>,
    resized: Vec<u8>,
    row: Vec<[u8; 4]>,
}

impl Scratch {
    /// Without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes its pixel buffers hold now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.decoded.capacity() + self.resized.capacity() + 4 * self.row.capacity()
    }

    /// A decoder for an image that no call has been made for yet.
    fn fresh_jpeg(&mut self) -> Result<&mut Jpeg, Error> {
        match self.jpeg.take().filter(|jpeg| !jpeg.is_spent()) {
            Some(jpeg) => Ok(self.jpeg.insert(jpeg)),
            None => Ok(self.jpeg.insert(Jpeg::new()?)),
        }
    }
}

/// What an image's header says, in the form its decoder wants.
#[derive(Clone, Copy, Debug)]
enum Head {
    Jpeg(Header),
    Png(ImageSize),
    WebP(ImageSize),
}

impl Head {
    const fn size(self) -> ImageSize {
        match self {
            Self::Jpeg(header) => header.size,
            Self::Png(size) | Self::WebP(size) => size,
        }
    }
}

impl ImageDecoder {
    /// A decoder with these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] for settings that make no tensor.
    pub fn new(settings: ImageSettings) -> Result<Self, Error> {
        settings.check()?;
        let form = TensorForm::new(&settings);
        Ok(Self { settings, form })
    }

    /// The settings it was made with.
    #[must_use]
    pub const fn settings(&self) -> &ImageSettings {
        &self.settings
    }

    /// The shape of every tensor; nothing with [`Crop::None`], where each image has its own.
    #[must_use]
    pub fn output_shape(&self) -> Option<[u32; 3]> {
        self.output_size().map(|size| self.shape_of(size))
    }

    /// The bytes of every tensor; nothing with [`Crop::None`].
    #[must_use]
    pub fn output_bytes(&self) -> Option<usize> {
        self.output_size().map(|size| self.bytes_of(size))
    }

    /// The shape of the tensor of an image of `size` with [`Crop::None`].
    #[must_use]
    pub const fn shape_of(&self, size: ImageSize) -> [u32; 3] {
        let channels = self.settings.color.channels() as u32;
        match self.settings.layout {
            crate::Layout::Chw => [channels, size.height, size.width],
            crate::Layout::Hwc => [size.height, size.width, channels],
        }
    }

    /// The bytes of the tensor of an image of `size` with [`Crop::None`].
    #[must_use]
    pub const fn bytes_of(&self, size: ImageSize) -> usize {
        self.form.bytes(size)
    }

    fn output_size(&self) -> Option<ImageSize> {
        let [height, width] = self.settings.size;
        (self.settings.crop != Crop::None).then_some(ImageSize { height, width })
    }

    /// The size of an image, turned if the settings turn it, from its header alone.
    ///
    /// # Errors
    /// For bytes that are no image, a header that is damaged, and more pixels than allowed.
    pub fn measure(&self, encoded: &[u8], scratch: &mut Scratch) -> Result<ImageSize, Error> {
        let format = Format::of(encoded)?;
        let size = self.head(format, encoded, scratch)?.size();
        Ok(self.turn(format, encoded).sized(size))
    }

    /// Which part of an image of `size` (as [`Self::measure`] says it) `key` chooses: left, top,
    /// width and height in pixels.
    #[must_use]
    pub fn window(&self, size: ImageSize, key: AugmentKey) -> [f64; 4] {
        let window = Window::choose(&self.settings, size, key);
        [window.left, window.top, window.width, window.height]
    }

    /// Makes the tensor of one image; `key` decides its augmentation. Elements are little-endian.
    ///
    /// # Errors
    /// For bytes that are no image or a damaged one, more pixels than allowed, and an `out` that
    /// does not have the tensor's size; `out` then holds nothing of use.
    pub fn decode(
        &self,
        encoded: &[u8],
        key: AugmentKey,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let format = Format::of(encoded)?;
        let head = self.head(format, encoded, scratch)?;
        let turn = self.turn(format, encoded);
        let turned = turn.sized(head.size());
        let output = self.output_size().unwrap_or(turned);
        let needed_bytes = self.form.bytes(output);
        if out.len() != needed_bytes {
            return Err(Error::Room { size: output, needed_bytes, bytes: out.len() });
        }
        let window = turn.undone(Window::choose(&self.settings, turned, key), turned);
        let stored_output = turn.sized(output);
        self.decode_window(encoded, head, window, stored_output, scratch)?;
        if let Some(jitter) = &self.settings.jitter {
            jitter.apply(&mut scratch.resized, key);
        }
        let turn = turn.flipped(key.unit(Draw::Flip) < f64::from(self.settings.flip));
        self.form.write(&scratch.resized, turn, output, &mut scratch.row, out);
        Ok(())
    }

    /// Reads the header, and refuses an image with too many pixels.
    fn head(&self, format: Format, encoded: &[u8], scratch: &mut Scratch) -> Result<Head, Error> {
        let head = match format {
            Format::Jpeg => {
                Head::Jpeg(scratch.fresh_jpeg()?.header(encoded, self.settings.tolerate_warnings)?)
            }
            Format::Png => Head::Png(png::size(encoded)?),
            Format::WebP => Head::WebP(webp::size(encoded)?),
        };
        let (size, pixels_max) = (head.size(), self.settings.pixels_max);
        if size.pixels() > pixels_max {
            return Err(Error::TooLarge { format, size, pixels_max });
        }
        Ok(head)
    }

    fn turn(&self, format: Format, encoded: &[u8]) -> Turn {
        let exif = if self.settings.orient { format.exif(encoded) } else { None };
        exif.map_or_else(Turn::default, Turn::of_exif)
    }

    /// Decodes what `window` needs and resizes it to `output`, all as the image is stored.
    fn decode_window(
        &self,
        encoded: &[u8],
        head: Head,
        window: Window,
        output: ImageSize,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        let (window, region) = match head {
            Head::Jpeg(header) => {
                let scales = self.settings.scaled_decoding;
                let divisor = if scales { window.divisor(output) } else { 1 };
                let window = window.divided(divisor);
                let wanted = window.reach(header.scaled(divisor), output);
                let tolerate = self.settings.tolerate_warnings;
                let Scratch { jpeg, decoded, .. } = scratch;
                let jpeg = jpeg.as_mut().expect("it has read the header");
                (window, jpeg.decode(encoded, header, divisor, wanted, tolerate, decoded)?)
            }
            Head::Png(size) => {
                png::decode(encoded, &mut scratch.decoded)?;
                (window, Region::whole(size))
            }
            Head::WebP(size) => {
                let wanted = window.reach(size, output);
                (window, webp::decode(encoded, size, wanted, &mut scratch.decoded)?)
            }
        };
        let inner = window.within(region);
        let Scratch { resizer, decoded, resized, .. } = scratch;
        let done = resize::resize(
            resizer,
            self.settings.filter,
            decoded,
            region.size(),
            inner,
            output,
            resized,
        );
        done.expect("the window lies within the region that was decoded for it");
        Ok(())
    }
}

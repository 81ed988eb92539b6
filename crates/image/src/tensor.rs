//! The last pass: pixels to the output's type, order and values, turned on the way.

use forebay_types::Dtype;

use crate::{
    ImageSize,
    orientation::Turn,
    settings::{Color, ImageSettings, Layout},
};

/// What the last pass does to every image.
#[derive(Clone, Debug)]
pub(crate) struct TensorForm {
    dtype: Dtype,
    layout: Layout,
    color: Color,
    /// By what a level from 0 to 255 is multiplied, and what is then added.
    factors: [(f32, f32); 3],
}

impl TensorForm {
    pub(crate) fn new(settings: &ImageSettings) -> Self {
        let factors = std::array::from_fn(|channel| match settings.normalize {
            None => (1.0 / 255.0, 0.0),
            Some(normalize) => {
                let (mean, std) = (normalize.mean[channel], normalize.std[channel]);
                (1.0 / (255.0 * std), -mean / std)
            }
        });
        let ImageSettings { dtype, layout, color, .. } = *settings;
        Self { dtype, layout, color, factors }
    }

    /// The bytes of an image of `size`.
    pub(crate) const fn bytes(&self, size: ImageSize) -> usize {
        size.pixels() as usize * self.color.channels() * self.dtype.bytes() as usize
    }

    /// Writes `pixels`, which lie as stored, as a tensor of `size`, which is the size after `turn`.
    pub(crate) fn write(
        &self,
        pixels: &[u8],
        turn: Turn,
        size: ImageSize,
        row: &mut Vec<[u8; 4]>,
        out: &mut [u8],
    ) {
        let (pixels, _) = pixels.as_chunks::<4>();
        let (height, width) = (size.height as usize, size.width as usize);
        row.resize(width, [0; 4]);
        for target in 0..height {
            let source = if turn.reverses_rows { height - 1 - target } else { target };
            if turn.transposes {
                let column = pixels[source..].iter().step_by(height);
                row.iter_mut().zip(column).for_each(|(to, from)| *to = *from);
            } else {
                row.copy_from_slice(&pixels[source * width..][..width]);
            }
            if turn.reverses_columns {
                row.reverse();
            }
            if self.color == Color::Gray {
                row.iter_mut().for_each(|pixel| pixel[0] = gray(*pixel));
            }
            self.write_row(row, target, height, out);
        }
    }

    fn write_row(&self, row: &[[u8; 4]], index: usize, height: usize, out: &mut [u8]) {
        let channels = self.color.channels();
        let element = self.dtype.bytes() as usize;
        let plane = height * row.len() * element;
        let length = row.len() * element;
        // One channel lies the same in both orders.
        if self.layout == Layout::Chw || channels == 1 {
            for channel in 0..channels {
                let out = &mut out[channel * plane + index * length..][..length];
                self.write_plane_row(row, channel, out);
            }
            return;
        }
        let out = &mut out[index * length * channels..][..length * channels];
        if self.dtype == Dtype::U8 {
            let (out, _) = out.as_chunks_mut::<3>();
            out.iter_mut().zip(row).for_each(|(to, from)| *to = [from[0], from[1], from[2]]);
            return;
        }
        let (out, _) = out.as_chunks_mut::<12>();
        for (to, from) in out.iter_mut().zip(row) {
            for (channel, (factor, offset)) in self.factors.iter().enumerate() {
                let value = f32::from(from[channel]) * factor + offset;
                to[4 * channel..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    fn write_plane_row(&self, row: &[[u8; 4]], channel: usize, out: &mut [u8]) {
        // Shifts of whole pixels, where indexing a byte of each would not become SIMD code.
        let shift = 8 * channel;
        let level = |pixel: &[u8; 4]| u32::from_le_bytes(*pixel) >> shift & 0xff;
        if self.dtype == Dtype::U8 {
            out.iter_mut().zip(row).for_each(|(to, from)| *to = level(from) as u8);
            return;
        }
        let (factor, offset) = self.factors[channel];
        let (out, _) = out.as_chunks_mut::<4>();
        for (to, from) in out.iter_mut().zip(row) {
            // By way of i32, which SSE2 converts in one instruction.
            *to = (level(from) as i32 as f32 * factor + offset).to_le_bytes();
        }
    }
}

/// Pillow's `L`: ITU-R 601 in 16 bits of fraction, rounded.
const fn gray([red, green, blue, _]: [u8; 4]) -> u8 {
    ((red as u32 * 19595 + green as u32 * 38470 + blue as u32 * 7471 + 0x8000) >> 16) as u8
}

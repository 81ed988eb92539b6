"""The one decoder of all rivals, so that the images workload compares loaders and not decoders.

torchvision's decoder and its v2 transforms on u8 tensors: the fastest that a rival's user gets by a plain install.
"""

from __future__ import annotations

import random
import warnings

import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import horizontal_flip, resized_crop

from workloads import IMAGE_PIXELS

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)


def augment(encoded):
    """A JPEG as a 1-D u8 tensor to a random 224 x 224 crop, u8 CHW: decode, random resized crop, flip."""
    picture = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    top, left, height, width = RandomResizedCrop.get_params(picture, AREA, ASPECT)
    picture = resized_crop(picture, top, left, height, width, [IMAGE_PIXELS, IMAGE_PIXELS], antialias=True)
    return horizontal_flip(picture) if random.random() < 0.5 else picture


def augment_bytes(encoded):
    """`augment` for formats that hand out Python bytes; they are not copied."""
    with warnings.catch_warnings():
        # The bytes are not writable, and nothing writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return augment(torch.frombuffer(encoded, dtype=torch.uint8))

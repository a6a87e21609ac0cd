"""Run by the Python of another environment, which has TensorFlow: what it makes of pictures. Imports nothing of ours.

python own_openvla_pictures.py PICTURES.npz OUT.npz     of "pictures" (N, H, W, 3) uint8, at 224 pixels
python own_openvla_pictures.py golden                   of one small picture, as JSON: openvla_pictures.json beside this file

"resized", (N, S, S, 3) uint8; "augmented", what the augmentation makes of those; "by", (N, 5) float32, its parameters; "unrounded",
(N, S, S, 3) float32, before it becomes uint8.

The rules are those of moojink/dlimp_openvla 040105d, in TensorFlow's own operations, so that parameters and what is not rounded are
seen. Where VLA_STORE_DLIMP names a checkout of it, its own functions must give the same.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

SIZE = 224
ORDER = ["random_resized_crop", "random_brightness", "random_contrast", "random_saturation", "random_hue"]
OPTIONS = {
    "random_resized_crop": {"scale": [0.9, 0.9], "ratio": [1.0, 1.0]},
    "random_brightness": [0.2],
    "random_contrast": [0.8, 1.2],
    "random_saturation": [0.8, 1.2],
    "random_hue": [0.05],
    "augment_order": ORDER,
}


def resize(picture, size):
    made = tf.image.resize(picture, (size, size), method="lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(made), 0, 255), tf.uint8)


def parameters(seed):
    """What the augmentation draws from a seed, and its offsets along both axes."""
    seeds = []
    for _ in ORDER:
        seed = tf.random.stateless_uniform([2], seed, maxval=tf.dtypes.int32.max, dtype=tf.int32)
        seeds.append(seed)
    side = tf.sqrt(tf.random.stateless_uniform((1,), seeds[0], 0.9, 0.9))
    offsets = [tf.random.stateless_uniform((1,), seeds[0], 0, 1 - side)[0] for _ in "yx"]
    ranges = [(-0.2, 0.2), (0.8, 1.2), (0.8, 1.2), (-0.05, 0.05)]
    return offsets, [tf.random.stateless_uniform([], each, *between) for each, between in zip(seeds[1:], ranges)]


def augment(picture, seed):
    """From (S, S, 3) uint8 to float32 from 0 to 1."""
    (y, x), (brightness, contrast, saturation, hue) = parameters(seed)
    side = tf.sqrt(tf.constant(0.9))
    image = tf.image.convert_image_dtype(picture, tf.float32)[None]
    image = tf.image.crop_and_resize(image, [[y, x, y + side, x + side]], [0], picture.shape[:2])[0]
    image = tf.clip_by_value(image, 0, 1)
    image = tf.clip_by_value(tf.image.adjust_brightness(image, brightness), 0, 1)
    image = tf.clip_by_value(tf.image.adjust_contrast(image, contrast), 0, 1)
    image = tf.clip_by_value(tf.image.adjust_saturation(image, saturation), 0, 1)
    return tf.clip_by_value(tf.image.adjust_hue(image, hue), 0, 1)


def made_of(pictures, size):
    own = os.environ.get("VLA_STORE_DLIMP")
    if own:
        sys.path.insert(0, own)
        from dlimp.augmentations import augment_image
        from dlimp.utils import resize_image
    made = {"resized": [], "augmented": [], "unrounded": [], "by": []}
    for number, picture in enumerate(pictures):
        seed = tf.constant([number, 7], tf.int32)
        small = resize(tf.constant(picture), size)
        unrounded = augment(small, seed)
        rounded = tf.image.convert_image_dtype(unrounded, tf.uint8, saturate=True)
        if own:
            assert np.array_equal(resize_image(tf.constant(picture), (size, size)), small)
            assert np.array_equal(augment_image(small, seed, **OPTIONS), rounded)
        (y, x), others = parameters(seed)
        assert y == x
        made["by"].append(np.array([y, *others], np.float32))
        for key, each in (("resized", small), ("augmented", rounded), ("unrounded", unrounded)):
            made[key].append(each.numpy())
    return {key: np.array(each) for key, each in made.items()}


def golden():
    """A picture of 12 x 20, to 8 pixels and to 14."""
    picture = (np.arange(12 * 20 * 3, dtype=np.uint32) ** 2 * 2654435761 >> 24).astype(np.uint8).reshape(12, 20, 3)
    made = {"picture": picture.tolist()}
    for size in (8, 14):
        of_size = made_of(picture[None], size)
        made[str(size)] = {key: of_size[key][0].tolist() for key in ("resized", "by", "augmented")}
    return made


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        print(json.dumps(golden(), separators=(",", ":")))
    else:
        with np.load(sys.argv[1]) as file:
            found = made_of(file["pictures"], SIZE)
        np.savez(sys.argv[2], **found)

"""An array of which one device holds a wrong bit, as no error would tell."""

import jax
import numpy as np


def flipped(array: jax.Array, device: jax.Device, byte: int, bit: int) -> jax.Array:
    """`array`, where the copy of `device` has one bit flipped in one of its bytes."""
    shards = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device == device:
            data.reshape(-1).view(np.uint8)[byte] ^= np.uint8(1 << bit)
        shards.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)

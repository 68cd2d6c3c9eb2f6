"""The encoder's activations of 50 recordings as one array, means over time."""

import numpy as np

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
items = la.testbed.make_items(50, seed=2)
clips = [(item.waveform, item.sampling_rate) for item in items]  # or paths of recordings

array = la.data.encoder_activations(model, clips, "resid_post")
np.save("encoder_activations.npy", array)
print(array.shape, array.dtype)  # [clip, layer, d_model]

"""Reusable hook functions: each returns a list of (hook name, function) pairs; `+` composes them.

    fwd_hooks = (
        hooks.patch("z", layer=9, heads=[3], positions=prompt.audio_positions(0), source=cache)
        + hooks.knock_out_attention(layers=range(4, 8), queries="last", keys=prompt.audio_mask)
        + hooks.steer(direction, site="resid_post", layer=-1, positions="last", coefficient=2.0)
    )
    logits = model.run_with_hooks(prompt, fwd_hooks=fwd_hooks)

They work on any model with these hook names, a TransformerBridge included: pass it the list through
`on(bridge, …)`, which makes layers counted from the end definite and checks every name.
"""

from lens_audio.hooks.attention import knock_out_attention, scale_attention
from lens_audio.hooks.capture import capture
from lens_audio.hooks.edits import ablate, patch, project_out, scale, steer
from lens_audio.hooks.selection import SITES, Hook, hook_names, on

__all__ = [
    "SITES",
    "Hook",
    "ablate",
    "capture",
    "hook_names",
    "knock_out_attention",
    "on",
    "patch",
    "project_out",
    "scale",
    "scale_attention",
    "steer",
]

"""Audio-silence steering.

Glazer, Aharon, Fetaya, "Are Audio-Language Models Listening? Audio-Specialist Heads for Adaptive
Audio Steering", arXiv 2603.06854. With L(S) the layers that hold specialist heads and T the last
prompt position,

    s(x)    = mean over l in L(S) of ( resid_post[l, T](x) - resid_post[l, T](x over silence) )
    h_final <- h_final + beta · s(x)     at T and at every generated token, s from the prompt

h_final, the final representation, is the last layer's `resid_post`, before the last norm: the
same stream that s is measured in. Nothing attends to it any more, so only the logits of the
positions it is added at change. Without audio s is 0 and nothing changes at all.
"""

from lens_audio.steering.audio_silence.attach import AudioSilenceSteering

__all__ = ["AudioSilenceSteering"]

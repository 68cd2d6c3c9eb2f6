"""A patching snippet of TransformerLens, run unchanged on a prompt with audio."""

from transformer_lens import patching

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
clean = model.prompt(item.question, audio=(item.waveform, item.sampling_rate))
corrupted = clean.silenced()
wrong = next(choice for choice in item.choices if choice != item.answer)
right_token, wrong_token = model.to_single_token(item.answer), model.to_single_token(wrong)


def logit_diff(logits):
    return logits[0, -1, right_token] - logits[0, -1, wrong_token]


_, clean_cache = model.run_with_cache(clean)
with model.listening_to(corrupted):  # model(tokens) now means "these tokens, that audio"
    effects = patching.get_act_patch_attn_head_out_all_pos(
        model, corrupted.tokens, clean_cache, logit_diff
    )
print(effects.shape)  # [layer, head]

"""Layer x time activation patching of two recordings that differ in length."""

import lens_audio as la
from lens_audio.analysis import metrics, patching

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
one, other = la.testbed.make_items(2, seed=4)
clean = model.prompt(one.question, audio=(one.waveform, one.sampling_rate))
shorter = other.waveform[: len(other.waveform) * 3 // 4]
corrupted = model.prompt(one.question, audio=(shorter, other.sampling_rate))

wrong = next(choice for choice in one.choices if choice != one.answer)
metric = metrics.logit_diff(model.to_single_token(one.answer), model.to_single_token(wrong))
pair = la.data.pair(clean, corrupted, fit="group", window=0.5)
result = patching.sweep(model, pair, site="resid_pre", metric=metric, verbose=False)

print(result)
print(result.axes["group"], result.recovery().shape)  # [layer, group]
result.plot(recovery=True).write_html("patching.html")

"""One head made deaf to the sound while the model answers."""

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
prompt = model.prompt(item.question, audio=(item.waveform, item.sampling_rate))

deaf = la.hooks.knock_out_attention(heads="L2H7", keys="audio")
print("as it is: ", model.generate(prompt))
with model.hooks(fwd_hooks=deaf):  # at the prompt, and at every generated token
    print("L2H7 deaf:", model.generate(prompt))

with model.hooks(fwd_hooks=deaf):
    after = la.analysis.choice_log_probs(model, prompt, item.choices)[0]
before = la.analysis.choice_log_probs(model, prompt, item.choices)[0]
for choice, change in zip(item.choices, (after - before).tolist(), strict=True):
    print(f"{choice:>10} {change:+.3f} nats")

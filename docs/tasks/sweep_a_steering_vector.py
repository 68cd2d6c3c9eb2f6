"""A mean-difference vector (sound minus silence) with its coefficient swept."""

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
items = la.testbed.make_items(8, seed=10)
prompts = [model.prompt(i.question, audio=(i.waveform, i.sampling_rate)) for i in items]
vector = la.steering.mean_difference(
    model, prompts, [p.silenced() for p in prompts], layers=[2], data="sound minus silence"
)
print(vector)

item = la.testbed.make_items(1, seed=9, caption="false")[0]  # the caption contradicts the sound
prompt = model.prompt(item.question, audio=(item.waveform, item.sampling_rate))
for coefficient in (-2.0, -1.0, 0.0, 1.0, 2.0):
    with vector.attach(model, coefficient=coefficient):
        log_probs = la.analysis.choice_log_probs(model, prompt, item.choices)
        answer = model.generate(prompt)
    p = la.analysis.choice_probs(log_probs)[0, item.answer_index]
    print(f"{coefficient:+.1f}: {answer!r}, p({item.answer}) = {p:.3f}")

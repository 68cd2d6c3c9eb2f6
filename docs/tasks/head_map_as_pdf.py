"""A map of all heads, saved as a PDF for a paper."""

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
item = la.testbed.demo_item()
prompt = model.prompt(item.question, audio=(item.waveform, item.sampling_rate))
mass = la.analysis.audio_mass(la.analysis.audio_attention(model, prompt))[0]
figure = la.plots.head_map(mass, outlined=la.analysis.top_heads(mass, 4))
la.plots.save(figure, "heads.pdf")

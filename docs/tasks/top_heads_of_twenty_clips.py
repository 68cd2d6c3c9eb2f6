"""The heads that give most of their attention to the sound, in each of 20 recordings, as a table."""

import pandas as pd

import lens_audio as la

model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
rows = []
for item in la.testbed.make_items(20, seed=1):
    prompt = model.prompt(item.question, audio=(item.waveform, item.sampling_rate))
    mass = la.analysis.audio_mass(la.analysis.audio_attention(model, prompt))[0]
    for place, (layer, head) in enumerate(la.analysis.top_heads(mass, 3), start=1):
        row = {"clip": item.id, "place": place, "head": f"L{layer}H{head}"}
        rows.append(row | {"audio mass": float(mass[layer, head])})

table = pd.DataFrame(rows)
table.to_csv("top_heads.csv", index=False)
print(table.pivot(index="clip", columns="place", values="head"))

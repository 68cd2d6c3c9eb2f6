"""`torch.compile` runs the model and changes nothing.

In a process of its own: compiling the shape checks of the other tests would take minutes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """
import torch
from models import Layout, Sizes, hooked_model, make_prompt
torch.set_grad_enabled(False)
model = hooked_model(Sizes(n_layers=1, audio_layers=1))
prompt = make_prompt(layout=Layout([7, 4], [[23], []], "left"))
"""

CASES = {
    "audio": """
found = torch.compile(model, backend="aot_eager")(prompt)
torch.testing.assert_close(found, model(prompt), atol=1e-5, rtol=0)
""",
    "audio, steered": """
from lens_audio import HookedAudioTransformer, testbed
from lens_audio.steering import AudioSilenceSteering
model = HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")
item = testbed.demo_item()
prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
steering = AudioSilenceSteering(((0, 1), (2, 3)), beta=3.0)
with steering.attach(model):
    expected = model(prompt)
assert not torch.allclose(expected, model(prompt))
model.compile(backend="eager")
with steering.attach(model):
    found = model(prompt)
torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
""",
    "text with a hook": """
tokens = torch.tensor([[5, 6, 7]])
hooks = [("blocks.0.hook_resid_post", lambda value, hook: value * 0)]
with model.hooks(hooks):
    found = torch.compile(model, backend="eager")(tokens)
expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
""",
}


EACH = """
import json, sys, traceback
errors = {}
for name, case in json.loads(sys.argv[1]).items():
    torch.compiler.reset()
    try:
        exec(case, dict(globals()))
        errors[name] = ""
    except Exception:
        errors[name] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors():
    """Of each case, one after the other in one process: the traceback, empty where there is none."""
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent)]
    code = f"import sys; sys.path[:0] = {paths!r}\n{SETUP}{EACH}"
    command = [sys.executable, "-c", code, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_compiled_logits_agree(case, errors):
    assert errors[case] == ""

"""Every command: its help, its options, and what it refuses before anything heavy is imported.

A command is a dataclass here, whose fields are its options, and `run` of the file of the same name
in the folder above, which is imported when the command runs. An option that is None was not given.
"""

from lens_audio.cli.commands.circuit import CircuitCommand
from lens_audio.cli.commands.eval import Eval
from lens_audio.cli.commands.heads import Heads
from lens_audio.cli.commands.listen import Listen
from lens_audio.cli.commands.mmau import Mmau
from lens_audio.cli.commands.patch import Patch
from lens_audio.cli.commands.score_localisation import ScoreLocalisation
from lens_audio.cli.commands.steer import Steer
from lens_audio.cli.commands.verify import Verify
from lens_audio.cli.commands.which_intervention import WhichIntervention
from lens_audio.cli.options import Command

COMMANDS: tuple[type[Command], ...] = (
    Listen,
    Patch,
    CircuitCommand,
    Heads,
    Steer,
    ScoreLocalisation,
    Mmau,
    Eval,
    WhichIntervention,
    Verify,
)

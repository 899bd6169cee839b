"""`mnistgen check NAME`: the plugin contract, one line a rule."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from mnistgen.cli import arguments as flags
from mnistgen.text import say

EXAMPLES = """
mnistgen check vae
mnistgen check my-model --overfit-steps 10000
mnistgen check ./mymodel.py --quick      a model in a file, without the rules that train
"""


@dataclass(frozen=True, kw_only=True)
class Options(flags.Common):
    """Test that a model keeps the plugin contract. The exit code is 1 where it breaks a rule."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the model, as `mnistgen models` lists it, or a file with it: ./mymodel.py, ./mymodel.py:MyModel."""
    quick: bool = False
    """Leave out the rules that train, and what is not done in ten seconds."""
    overfit_steps: int = 2400
    """The most training steps in which the model has to learn 64 simple images by heart."""


def run(arguments: list[str], prog: str) -> int:
    options = flags.parse(Options, arguments, prog=prog, examples=EXAMPLES)

    from mnistgen.registry import entry_of, is_file, model_class, register_file  # --help answers without torch
    from mnistgen.testing import abilities_of, check_rules, rules_of

    name = register_file(options.name) if is_file(options.name) else options.name
    model = model_class(name)
    entry = entry_of(model)
    assert entry is not None
    say(f"{options.name} ({entry.source}); abilities: {', '.join(abilities_of(model)) or 'none beside sampling'}")
    kept = broken = 0
    for rule, problem in check_rules(
        model, seed=options.seed, overfit_steps=options.overfit_steps, device=options.device, quick=options.quick
    ):
        say(f"{'ok' if problem is None else 'broken':<8}{rule}")
        if problem is None:
            kept += 1
        else:
            broken += 1
            say(f"        {problem}")
    untried = len(rules_of(model)) - kept - broken
    say(f"{kept} rules kept, {broken} broken{f', {untried} not tried' if untried else ''}.")
    return 1 if broken else 0

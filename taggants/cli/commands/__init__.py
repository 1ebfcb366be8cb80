"""One module a command, and the table that names them.

A module's docstring is its help; `add_arguments(parser)` declares its arguments; `run(given)` does the work and returns the exit
code. Where a configuration is all that the work needs, `main(config)` does it and returns what was done.
"""

from types import ModuleType

from taggants.cli.commands import (
    check,
    config,
    craft,
    demo,
    disclose,
    export,
    harm,
    init,
    keys,
    plan,
    report,
    sweep,
    timestamp,
    train,
    verify,
)

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "init": init,
    "plan": plan,
    "keys": keys,
    "craft": craft,
    "export": export,
    "train": train,
    "verify": verify,
    "check": check,
    "disclose": disclose,
    "report": report,
    "timestamp": timestamp,
    "harm": harm,
    "sweep": sweep,
    "config": config,
}

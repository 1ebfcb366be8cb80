"""The one error type that stands for bad input, at the bottom of the layers so that every module may raise it."""


class InputError(ValueError):
    """Bad input from the user: one sentence that names the value, what is allowed and the fix.

    Jobs print the sentence and exit with code 2. Anything else that escapes a job is a bug or a failed shard: exit code 1.
    """


class FailedShards(RuntimeError):
    """Shards that failed for good where a job cannot go on without them: one sentence, exit code 1."""

"""Claims: what an owner shows of the keys, and how a stranger checks a certificate against it, without torch and without Ray."""

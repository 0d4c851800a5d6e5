"""Who asks: identities from tokens and keys, what each may write, and how much of it."""

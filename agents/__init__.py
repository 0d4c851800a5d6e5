"""What happens: the agent, the protocol that keeps counts exact, what the clock does."""
